"""A recorded proof counts for the scripts and the target that it was made with, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comporta.ledger import Event, EventType
from comporta.postgres.script import Script
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Release, load_release
from comporta.validation.model import order_subjects, standard_subjects
from comporta.validation.validity import ProofStatus, owed, validity

START = datetime(2026, 1, 1, tzinfo=UTC)
TABLE = {("table", "catalogue.geometrias"): {"owner": "app"}}
TARGET = Fingerprint({**TABLE, ("sequence", "catalogue.ids"): {"increment": "1", "next value": "7"}})
RELEASE = """\
name: trial
title: Trial
author: somebody
changes:
  A: {stem: a, title: First}
  B: {stem: b, title: Second, requires: [A]}
proof: {scenarios: [restore, killed], orders: true}
"""
ReadFacts = Callable[[str], Fingerprint | None]


def digest(target: Fingerprint) -> str:
    return target.digest_without("sequence positions", "roles")


@dataclass
class Log:
    """A ledger of made-up events about ``release``; each run proves what it is told to."""

    release: Release
    events: list[Event] = field(default_factory=list)

    def run(
        self,
        subject: str = "A",
        scenario: str = "restore",
        *,
        verdict: str = "holds",
        reasons: tuple[str, ...] = (),
        release: Release | None = None,
        target: Fingerprint = TARGET,
        run: int = 1,
        **conditions: float,
    ) -> None:
        proved = release or self.release
        subjects = (*standard_subjects(proved), *order_subjects(proved))
        changes = next(each.changes for each in subjects if each.name == subject)
        scripts = {name: proved.change(name).digests for name in changes}
        scripts["support"] = {script.path.name: script.sha256 for script in proved.support}
        self.add(
            EventType.VALIDATION_STARTED, run, None, {"fingerprint": digest(target), "facts": f"run-{run}/facts.json"}
        )
        self.add(
            EventType.PROOF_RECORDED,
            run,
            f"{subject}/{scenario}",
            {
                "verdict": verdict,
                "reasons": reasons,
                "scripts": scripts,
                "conditions": proved.proof.conditions | conditions,
                "target": digest(target),
            },
        )
        self.add(EventType.VALIDATION_FINISHED, run, None, {"report": f"run-{run}/rollback_proofs.html"})

    def add(self, event_type: EventType, run: int, phase: str | None, payload: dict[str, Any]) -> None:
        number = len(self.events) + 1
        self.events.append(
            Event(
                id=number,
                stream=f"rollback_validation/{run}",
                version=number,
                feature=self.release.name,
                event_type=event_type,
                workflow="stage3",
                phase=phase,
                payload=payload,
                actor=f"somebody-{run}",
                timestamp=START + timedelta(minutes=number),
                idempotency_key=None,
            )
        )

    def status(
        self,
        subject: str = "A",
        scenario: str = "restore",
        *,
        release: Release | None = None,
        target: Fingerprint | None = TARGET,
        recorded: ReadFacts = lambda _: None,
        unreachable: str = "",
    ) -> ProofStatus:
        found = validity(
            self.events, release or self.release, target, recorded=recorded, unreachable=unreachable
        )  # fmt: skip
        return next(each for each in found if (each.subject, each.scenario) == (subject, scenario))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    for stem in ("a", "b"):
        for name in (f"apply/{stem}.sql", f"verify/{stem}.sql", f"rollback/ROLLBACK_{stem}.sql"):
            write(tmp_path / "sql" / name, f"select '{name}';")
    write(tmp_path / "sql/support/20_swap.sql", "select 'swap';")
    write(tmp_path / "release.yaml", RELEASE)
    return load_release(tmp_path / "release.yaml", tmp_path / "sql")


@pytest.fixture
def log(release: Release) -> Log:
    return Log(release)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def rewritten(release: Release, change: str, role: str, file: Path) -> Release:
    """The release with another script for one role of one change."""
    write(file, f"select 'another {role}';")
    changes = (
        replace(each, **{role: Script.read(file)}) if each.name == change else each  # type: ignore[arg-type]
        for each in release.changes
    )
    return replace(release, changes=tuple(changes))


def test_a_release_owes_each_change_under_each_scenario_and_each_order(release: Release) -> None:
    orders = [(subject.name, "order") for subject in order_subjects(release)]
    assert owed(release) == [("A", "restore"), ("A", "killed"), ("B", "restore"), ("B", "killed"), *orders]


def test_a_release_without_orders_owes_none(release: Release) -> None:
    plan = release.proof.model_copy(update={"orders": False})
    assert {scenario for _, scenario in owed(replace(release, proof=plan))} == {"restore", "killed"}


def test_what_was_never_proved_is_missing(log: Log) -> None:
    assert {(each.state, each.reasons) for each in validity([], log.release, TARGET)} == {
        ("missing", ("never proved",))
    }


def test_a_proof_of_todays_scripts_on_todays_target_is_valid_and_says_where_it_came_from(log: Log) -> None:
    log.run(run=4)
    found = log.status()
    assert (found.state, found.reasons, found.valid) == ("valid", (), True)
    assert (found.by, found.run, found.report) == ("somebody-4", "rollback_validation/4", "run-4/rollback_proofs.html")
    assert found.recorded_at == START + timedelta(minutes=2)


def test_a_proof_of_one_thing_says_nothing_about_another(log: Log) -> None:
    log.run("A", "restore")
    assert [each.state for each in validity(log.events, log.release, TARGET)].count("valid") == 1


def test_a_proof_of_another_release_does_not_count(log: Log) -> None:
    log.run()
    assert log.status(release=replace(log.release, name="other")).state == "missing"


@pytest.mark.parametrize("role", ["apply", "verify", "rollback"])
def test_a_changed_script_makes_the_proof_stale_and_is_named_with_both_digests(
    log: Log, role: str, tmp_path: Path
) -> None:
    log.run()
    today = rewritten(log.release, "A", role, tmp_path / "new.sql")
    found = log.status(release=today)
    was, now = log.release.change("A").digests[role][:6], today.change("A").digests[role][:6]
    assert (found.state, found.reasons) == ("stale", (f"the {role} script of A changed since ({was}.. -> {now}..)",))


def test_a_changed_script_makes_the_proofs_of_what_stands_on_it_stale(log: Log, tmp_path: Path) -> None:
    log.run("B")
    found = log.status("B", release=rewritten(log.release, "A", "apply", tmp_path / "new.sql"))
    assert found.state == "stale"
    assert found.reasons[0].startswith("the apply script of A changed")


@pytest.mark.parametrize(
    ("support", "reason"),
    [
        ({"20_swap.sql": "select 'other';"}, "support script 20_swap.sql changed since ("),
        ({"20_swap.sql": "select 'swap';", "30_more.sql": "select 1;"}, "support script 30_more.sql is new"),
        ({}, "support script 20_swap.sql is gone"),
    ],
    ids=["changed", "new", "gone"],
)
def test_another_support_schema_makes_every_proof_stale(
    log: Log, support: dict[str, str], reason: str, tmp_path: Path
) -> None:
    log.run()
    for name, text in support.items():
        write(tmp_path / "today" / name, text)
    scripts = tuple(Script.read(tmp_path / "today" / name) for name in support)
    (found,) = log.status(release=replace(log.release, support=scripts)).reasons
    assert found.startswith(reason)


def test_a_requirement_that_is_new_or_gone_is_named(log: Log) -> None:
    log.run("B")
    free = tuple(replace(each, requires=()) for each in log.release.changes)
    alone = replace(log.release, changes=free)
    assert log.status("B", release=alone).reasons == ("A was part of the proof and is no longer",)
    log.events.clear()
    log.run("B", release=alone)
    assert log.status("B").reasons == ("A was no part of the proof",)


def test_another_rollback_file_neither_counts_nor_hides_an_older_valid_proof(log: Log, tmp_path: Path) -> None:
    tried = rewritten(log.release, "A", "rollback", tmp_path / "tried.sql")
    log.run(run=1, release=tried)
    assert log.status().state == "stale"
    log.run(run=2)
    log.run(run=3, release=tried, verdict="fails")
    assert (log.status().state, log.status().run) == ("valid", "rollback_validation/2")


def test_of_two_proofs_of_the_same_scripts_the_newest_wins(log: Log) -> None:
    log.run(run=1)
    log.run(run=2, verdict="fails", reasons=("12 rows differ",))
    assert (log.status().state, log.status().reasons) == ("failed", ("the last proof failed: 12 rows differ",))
    log.run(run=3)
    assert (log.status().state, log.status().by) == ("valid", "somebody-3")


def test_the_newest_wins_in_whatever_order_the_events_come(log: Log) -> None:
    log.run(run=1, verdict="fails")
    log.run(run=2)
    log.events.reverse()
    assert log.status().state == "valid"


def test_no_data_is_no_good_news(log: Log) -> None:
    log.run(verdict="no data", reasons=("the server cannot be crashed",))
    found = log.status()
    assert found.state == "failed"
    assert found.reasons == ("the last proof could not be made: the server cannot be crashed",)


def test_a_drifted_target_makes_the_proof_stale_and_the_first_differences_are_named(log: Log) -> None:
    log.run()
    more = {("index", f"catalogue.i{number}"): {"definition": "x"} for number in range(5)}
    today = Fingerprint({**TARGET.facts, **more})
    found = log.status(target=today, recorded={"run-1/facts.json": TARGET}.get)
    assert found.state == "stale"
    (reason,) = found.reasons
    assert reason.startswith("the target drifted: index catalogue.i0: expected absent, found present; ")
    assert reason.endswith("catalogue.i2: expected absent, found present; and 2 more")


@pytest.mark.parametrize(
    "kept", [None, Fingerprint(TABLE)], ids=["the file is gone", "the file holds another look at the target"]
)
def test_without_the_facts_of_then_the_drift_is_told_by_its_digest_alone(log: Log, kept: Fingerprint | None) -> None:
    log.run()
    today = Fingerprint({**TARGET.facts, ("index", "catalogue.i"): {"definition": "x"}})
    found = log.status(target=today, recorded=lambda _: kept)
    assert found.state == "stale"
    assert found.reasons[0].startswith("the target drifted: the digest of its fingerprint differs")


def test_sequences_that_move_and_roles_of_the_server_are_no_drift(log: Log) -> None:
    log.run()
    moved = {**TABLE, ("sequence", "catalogue.ids"): {"increment": "1", "next value": "9"}, ("role", "new"): {"a": "b"}}
    assert log.status(target=Fingerprint(moved)).state == "valid"


def test_a_target_that_cannot_be_reached_leaves_no_proof_valid(log: Log) -> None:
    log.run("A")
    log.run("A", "killed", verdict="fails", reasons=("stopped",))
    found = log.status(target=None, unreachable="cannot connect to app@db:5432/gis: refused")
    assert found.valid is False
    assert found.reasons == ("the target cannot be reached: cannot connect to app@db:5432/gis: refused",)
    assert log.status("A", "killed", target=None).state == "failed"


def test_a_status_is_plain_json(log: Log) -> None:
    log.run()
    plain = log.status().as_json()
    assert (plain["state"], plain["recorded_at"]) == ("valid", "2026-01-01T00:02:00+00:00")
    assert log.status("B").as_json()["recorded_at"] is None


def test_a_proof_beside_less_traffic_than_the_release_asks_for_is_stale_and_hides_no_older_one(
    release: Release,
) -> None:
    log = Log(release)
    log.run(writes_per_s=0)
    status = log.status()
    assert status.state == "stale"
    assert status.reasons == ("made with writes_per_s = 0; the release asks for 50",)
    log.run(run=2)
    log.run(run=3, writes_per_s=0)
    assert log.status().state == "valid"
