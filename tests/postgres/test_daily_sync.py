"""A daily sync on a real ledger: from the questions to the minutes in everybody's mail, without Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.postgres.conftest import Servers
from tests.postgres.gate_desk import FOUR, Desk, open_desk, request

from comporta.gates import Gate, GateRefusal, Need, Policy, RefusalCode
from comporta.gates.evidence import Collector
from comporta.gates.policy import GatesFile, load_policy
from comporta.ledger import Ledger, NewEvent
from comporta.notices.errors import MailRefused
from comporta.notices.letters import Pages
from comporta.notices.model import Mail
from comporta.notices.outbox import Outbox, look_around
from comporta.release.model import Release, load_release
from comporta.reports.folder import RunFolder
from comporta.settings import Settings
from comporta.sync import minutes, page, record
from comporta.sync.checklist import Facts, check
from comporta.sync.model import Answer, Item, blockers

RELEASE = "catalogue-2029"


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


@pytest.fixture
def ledger(desk: Desk, control: str) -> Iterator[Ledger]:
    with Ledger(control) as opened:
        yield opened


@pytest.fixture
def settings(project: Path, tmp_path: Path, control: str, servers: Servers) -> Settings:
    return Settings(
        home=project,
        control_dsn=control,
        target_dsn=servers.target.dsn,
        shadow_dsn=servers.shadow.dsn,
        archives=tmp_path,
    )


@pytest.fixture(scope="module")
def file(project: Path) -> GatesFile:
    return load_policy(project / "config" / "gates.yaml")


@pytest.fixture(scope="module")
def release(project: Path) -> Release:
    return load_release(project / "config" / "release.yaml", project / "sql")


def asked(desk: Desk, file: GatesFile, run_id: str) -> dict[str, Gate]:
    """The questions to the owners, as the sensors of a run put them."""
    plan = file.readiness
    found = {}
    for number, owner in enumerate(plan.owners):
        asker = f"daily_sync/{run_id}/collect_readiness/{number}"
        found[owner] = desk.book.open(
            f"{asker}/0",
            request(
                "readiness",
                asker=asker,
                kind="readiness",
                policy=Policy((Need(owner),), {owner: file.roles[owner]}),
                answer_within_s=60 * plan.sla_min,
                remind_after_s=tuple(60 * each for each in plan.remind_after_min),
            ),
            actor="airflow:daily_sync",
        )
    return found


def told(gate: Gate, owner: str) -> dict[str, Any]:
    """What the sensor returns for a gate that is answered or over."""
    decided = gate.decision or {}
    return {
        "role": owner,
        "status": {"go": "ready", "no_go": "blocker"}.get(gate.state, "silent"),
        "reason": decided.get("reason", "no answer within 120 min"),
        "by": decided.get("by", []),
        "gate": gate.gate,
        "answered_at": decided.get("at"),
    }


def run_sync(
    desk: Desk,
    ledger: Ledger,
    settings: Settings,
    file: GatesFile,
    run_id: str,
    said: dict[str, tuple[str, str]],
) -> record.Sync:
    """One sync up to its blockers: owners answer as ``said`` after 20 minutes, the others not at all."""
    owners = file.readiness.owners
    record.opened(
        ledger, run_id, feature=RELEASE, actor="airflow:scheduler", at=record.now(ledger).isoformat(), owners=owners
    )
    gates = asked(desk, file, run_id)
    desk.pass_time(20 * 60)
    for owner, (decision, reason) in said.items():
        desk.vote(gates[owner], file.roles[owner][0], decision, reason)  # type: ignore[arg-type]
    desk.pass_time(100 * 60)
    desk.book.sweep()
    answers = [Answer.parse(told(desk.book.get(gates[owner].gate), owner)) for owner in owners]
    now, previous = record.now(ledger), record.previous_blockers(ledger, run_id, RELEASE)
    items = check(Facts(settings, file, ledger, now, answers, previous))
    record.checked(
        ledger,
        run_id,
        feature=RELEASE,
        actor="airflow:scheduler",
        at=now.isoformat(),
        answers=answers,
        items=items,
        blockers=blockers(answers, items, previous, now),
    )
    return record.read(ledger, run_id)


def put(desk: Desk, settings: Settings, file: GatesFile, run_id: str, name: str) -> Gate:
    """A gate of the sync, as its sensor puts it."""
    asker = f"daily_sync/{run_id}/{name}/-1"
    asked_by = {"dag_id": "daily_sync", "run_id": run_id, "task_id": name, "map_index": -1}
    evidence = Collector(settings, file).of(name, "decision", asked_by)
    made = request(name, asker=asker, policy=file.policy(name, author="dba", trigger="admin"))
    return desk.book.open(
        f"{asker}/0", replace(made, evidence=evidence.items, blockers=evidence.blockers), actor="airflow:daily_sync"
    )


def dry_run(ledger: Ledger, release: Release, run_id: str = "r1", verdict: str = "pass") -> None:
    scripts = {each.name: {"apply": each.apply.sha256, "verify": each.verify.sha256} for each in release.changes}
    for event_type, payload in (
        ("dry_run_started", {"changes": scripts}),
        ("dry_run_finished", {"verdict": verdict, "report": "2026-11-23/stage2-r1/report.html", "digest": "d" * 64}),
    ):
        event = NewEvent(event_type=event_type, feature=release.name, workflow="stage2", actor="t", payload=payload)
        ledger.append(f"dry_run/{run_id}", [event])


def found(items: tuple[Item, ...]) -> dict[str, tuple[str, str]]:
    return {each.id: (each.state, each.detail) for each in items}


def test_the_checklist_is_what_ledger_and_servers_say(
    ledger: Ledger, settings: Settings, file: GatesFile, release: Release
) -> None:
    dry_run(ledger, release)
    items = found(check(Facts(settings, file, ledger, record.now(ledger))))
    assert items["dry_run_passed"][0] == "ok"
    assert items["rollbacks_proved"][0] == "blocker"
    assert items["rollbacks_proved"][1].endswith("more")
    assert items["capacity_planned"] == ("blocker", "no capacity plan is recorded")
    assert items["drills_passed"] == ("no_data", "never run: target, shadow, control, scheduler")
    assert items["everyone_reachable"][0] == "ok"
    assert items["dependencies_closed"][0] == "ok"
    assert items["timeline_holds"] == ("no_data", "config/release.yaml gives no date (due)")
    assert list(items) == list(file.readiness.checklist)


def test_a_run_that_began_after_the_last_that_ended_is_an_open_dependency(
    ledger: Ledger, settings: Settings, file: GatesFile, release: Release
) -> None:
    dry_run(ledger, release)
    begun = NewEvent(event_type="dry_run_started", feature=release.name, workflow="stage2", actor="t")
    ledger.append("dry_run/r2", [begun])
    items = found(check(Facts(settings, file, ledger, record.now(ledger)), ["dependencies_closed"]))
    assert items == {"dependencies_closed": ("blocker", "not finished: dry_run/r2")}
    dry_run(ledger, release, "r3")
    items = found(check(Facts(settings, file, ledger, record.now(ledger)), ["dependencies_closed"]))
    assert items["dependencies_closed"][0] == "ok"


def test_what_cannot_be_looked_at_is_a_blocker_that_says_why(
    ledger: Ledger, settings: Settings, file: GatesFile
) -> None:
    away = settings.model_copy(update={"release": Path("config/no-such-release.yaml")})
    items = found(check(Facts(away, file, ledger, record.now(ledger))))
    assert {name for name, (state, _) in items.items() if state == "ok"} <= {"everyone_reachable"}
    assert items["dry_run_passed"][1].startswith("could not be checked: ")
    assert "cannot be read" in items["dependencies_closed"][1]


def test_a_silent_owner_is_a_blocker_in_the_minutes_and_ages_from_sync_to_sync(
    desk: Desk, ledger: Ledger, settings: Settings, file: GatesFile
) -> None:
    said = {"DBA": ("go", "proved"), "Compliance": ("go", "filed"), "Security": ("no_go", "key not rotated")}
    first = run_sync(desk, ledger, settings, file, "day1", said)
    owners = {each.owner: each for each in first.blockers if each.key.startswith("owner/")}
    assert {name: (each.what, each.syncs) for name, each in owners.items()} == {
        "PO": ("no answer within 120 min", 1),
        "Security": ("key not rotated", 1),
    }
    desk.pass_time(22 * 3600)
    second = run_sync(desk, ledger, settings, file, "day2", {**said, "Security": ("go", "rotated")})
    owners = {each.owner: each for each in second.blockers if each.key.startswith("owner/")}
    assert list(owners) == ["PO"]
    assert (owners["PO"].syncs, owners["PO"].age_s(record.now(ledger))) == (2, timedelta(days=1).total_seconds())
    items = {str(each["id"]): str(each["detail"]) for each in second.items}
    assert items["dependencies_closed"] == "open since the last sync: PO: no answer within 120 min"
    # A sync that is checked again, after a later one, still looks at those before it.
    assert {each.owner for each in record.previous_blockers(ledger, "day1", RELEASE)} == set()


def test_a_go_is_refused_while_a_required_item_is_a_blocker_and_no_longer(
    desk: Desk, ledger: Ledger, settings: Settings, file: GatesFile, release: Release
) -> None:
    plan = file.gates["stage4"].model_copy(update={"requires": ("dry_run_passed",)})
    file = file.model_copy(update={"gates": {**file.gates, "stage4": plan}})
    run_sync(desk, ledger, settings, file, "day1", dict.fromkeys(file.readiness.owners, ("go", "ready")))
    gate = put(desk, settings, file, "day1", "stage4")
    assert gate.blockers == ("dry_run_passed: no finished dry run of the whole release is recorded",)
    with pytest.raises(GateRefusal) as caught:
        desk.vote(gate, "po")
    assert caught.value.refusal.code == RefusalCode.BLOCKED
    dry_run(ledger, release)
    evidence = Collector(settings, file).of("stage4", "decision", gate.asked_by)
    gate = desk.book.renew(gate.gate, evidence.items, evidence.blockers, actor="test")
    assert gate.blockers == ()
    assert desk.vote(gate, "po").votes[0].actor == "po"


def test_who_could_not_be_reached_stays_so_until_a_mail_arrives(
    desk: Desk, ledger: Ledger, settings: Settings, file: GatesFile, control: str
) -> None:
    """A mail that waits must not make anybody reachable: each failure would void votes, and tell of it by mail."""

    def refuse(mail: Mail) -> None:
        if mail.recipient == "po":
            raise MailRefused(f"550 {mail.id} unknown")

    def reachable() -> tuple[str, str]:
        facts = Facts(settings, file, ledger, record.now(ledger))
        return found(check(facts, ["everyone_reachable"]))["everyone_reachable"]

    with Outbox(control) as outbox:
        desk.open("k1")
        outbox.take_up(file, Pages())
        outbox.deliver(refuse)
        failed = reachable()
        assert failed == ("blocker", "the last mail failed: po (comporta mail list --failed)")
        desk.open("k2", asker="rollout/run2/gate/-1")
        outbox.take_up(file, Pages())
        assert reachable() == failed
        outbox.deliver(refuse)
        assert reachable() == failed
        desk.open("k3", asker="rollout/run3/gate/-1")
        outbox.take_up(file, Pages())
        desk.pass_time(60)
        outbox.deliver(lambda _: None)
        assert reachable()[0] == "ok"


def test_an_owner_who_is_not_ready_is_in_the_way_of_every_gate_of_the_sync(
    desk: Desk, ledger: Ledger, settings: Settings, file: GatesFile
) -> None:
    plan = file.gates["stage4"].model_copy(update={"requires": ()})
    file = file.model_copy(update={"gates": {**file.gates, "stage4": plan}})
    said = {owner: ("go", "ready") for owner in file.readiness.owners if owner != "PO"}
    run_sync(desk, ledger, settings, file, "day1", said)
    assert put(desk, settings, file, "day1", "stage4").blockers == ("PO is not ready: no answer within 120 min",)


def test_minutes_reach_everyone_once_however_often_their_task_runs(
    desk: Desk, ledger: Ledger, settings: Settings, file: GatesFile, control: str
) -> None:
    run_sync(desk, ledger, settings, file, "day1", {"DBA": ("go", "proved")})
    gate = desk.book.open(
        "g", request("rollout", asker="daily_sync/day1/rollout/-1", policy=FOUR), actor="airflow:daily_sync"
    )
    desk.vote(gate, "cfo", "no_go", "too early")
    sent: list[Mail] = []
    with Outbox(control) as outbox:
        for _ in range(3):
            gates = desk.book.list(asker_prefix="daily_sync/day1/")
            data = minutes.compose(
                "minutes", record.read(ledger, "day1"), gates, file, title="Catalogue", date="2026-11-24"
            )
            folder = RunFolder.make(settings.archives_path, "daily_sync", "day1", record.now(ledger))
            written = page.write(folder, data, record.now(ledger))
            record.written(
                ledger, "day1", feature=RELEASE, actor="a", report="x.html", digest=written.digest,
                minutes=minutes.for_mail(data),
            )  # fmt: skip
            look_around(outbox, desk.book, file, Pages())
            outbox.deliver(sent.append)
            desk.pass_time(60)
    received = [mail.recipient for mail in sent if mail.notice == "minutes"]
    assert sorted(received) == sorted(file.people)
    body = next(mail.plain for mail in sent if mail.notice == "minutes")
    assert "PO: no answer within 120 min (new)" in body
    assert "rollout: No-Go by cfo: too early" in body
    assert record.read(ledger, "day1").finished
