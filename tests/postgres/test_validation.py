"""STAGE 3 end to end on real servers: the release's own rollbacks hold under every scenario, and wrong ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.errors import ConfigurationError, UnsafeTarget
from comporta.ledger import EventType, Ledger
from comporta.local.databases import prepare_control
from comporta.postgres.connection import connect, with_database
from comporta.release.model import load_release
from comporta.settings import Settings
from comporta.shadow.clone import CloneTaken, Shadow
from comporta.shadow.lease import lease
from comporta.validation.model import Proof, Verdict, order_subjects, standard_subjects
from comporta.validation.runner import ORDER, SECOND_OPINION, Validation, open_validation

PROJECT = Path(__file__).resolve().parents[2]
RELEASE = load_release(PROJECT / "config" / "release.yaml", PROJECT / "sql")
BOARD = [(subject.name, name) for subject in standard_subjects(RELEASE) for name in RELEASE.proof.scenarios]


@pytest.fixture(scope="module")
def settings(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The real release on the test servers; the golden copy of the target is made once and used by every proof."""
    target = servers.target.fresh_catalogue()
    control = servers.control.database("validation")
    with psycopg.connect(servers.control.database("postgres"), autocommit=True) as conn:
        conn.execute("drop database if exists validation with (force)")
    prepare_control(control, PROJECT)
    return Settings(
        home=PROJECT,
        target_dsn=target,
        shadow_dsn=servers.shadow.dsn,
        control_dsn=control,
        archives=tmp_path_factory.mktemp("archives"),
    )


@pytest.fixture
def say() -> list[str]:
    return []


def proving(settings: Settings, say: list[str], run_id: str, **wanted: Any) -> Any:
    """A validation whose readers and writers stand in the way for 2 s instead of 6."""
    return open_validation(settings, run_id=run_id, started=datetime.now(UTC), actor="test", say=say.append, **wanted)


def shorten(validation: Validation) -> Validation:
    validation.plan = validation.plan.model_copy(update={"obstacle_s": 2.0})
    return validation


@pytest.fixture(scope="module")
def whole(settings: Settings) -> Iterator[Validation]:
    with proving(settings, [], "whole") as validation:
        shorten(validation).prepare()
        yield validation


def explained(proof: Proof) -> str:
    return "\n".join([proof.key, proof.verdict, *proof.reasons, *proof.differences, *proof.lost_writes])


@pytest.mark.parametrize(("change", "scenario"), BOARD, ids=[f"{change}-{name}" for change, name in BOARD])
def test_every_rollback_of_the_release_holds_under_every_scenario(
    whole: Validation, change: str, scenario: str
) -> None:
    proof = whole.prove(whole.task(change, scenario))
    assert proof.verdict == Verdict.HOLDS, explained(proof)
    assert proof.before == proof.after != proof.applied
    assert proof.checksums_before == proof.checksums_after
    assert (proof.felt.failed, proof.lost_writes) == (0, ())
    assert SECOND_OPINION not in proof.notes
    if scenario != "restore":
        assert proof.felt.acknowledged_writes > 0
        assert proof.faults


ORDERS = [subject.name for subject in order_subjects(RELEASE)]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_rolling_back_leaves_the_rest_as_if_nothing_else_had_been_there(
    whole: Validation, order: str
) -> None:
    proof = whole.prove(whole.task(order, ORDER))
    assert proof.verdict == Verdict.HOLDS, explained(proof)
    assert proof.checksums_before == proof.checksums_after


def test_the_report_and_the_ledger_tell_of_every_proof(whole: Validation, settings: Settings) -> None:
    report, verdict = whole.report()
    assert verdict == "pass", [explained(proof) for proof in whole.proofs() if not proof.holds]
    with Ledger(settings.require("control")) as ledger:
        events = ledger.latest(100, event_type=EventType.PROOF_RECORDED)
        (finished,) = ledger.latest(1, event_type=EventType.VALIDATION_FINISHED)
    assert {event.phase for event in events} == {f"{task.subject.name}/{task.scenario.name}" for task in whole.tasks}
    assert finished.payload["held"] == finished.payload["proofs"] == len(BOARD) + len(ORDERS)
    assert finished.payload["digest"] == report.digest
    killed = next(event.payload for event in events if event.phase == "OPT1/killed")
    assert len(killed["faults"]) >= len(RELEASE.change("OPT1").apply.statements) - 1
    assert killed["scripts"]["OPT1"] == RELEASE.change("OPT1").digests


def wrong(tmp_path: Path, change: str, *, before: str = "", after: str = "") -> Path:
    """The release's rollback with statements in front of it or behind it."""
    file = tmp_path / f"WRONG_{change}.sql"
    real = RELEASE.change(change).rollback.path.read_text(encoding="utf-8")
    file.write_text(f"{before}\n{real}\n{after}\n", encoding="utf-8")
    return file


# Scenario -> what is in front of the rollback, what is behind it, and what the proof must say.
WRONG_UNDER = {
    "restore": ("", "revoke select on catalogue.geometrias from gis_reader;", "SELECT on table catalogue.geometrias to gis_reader"),
    "late_writes": ("", "delete from catalogue.geometrias where name = 'Tardia';", "acknowledged write(s) lost"),
    "killed": ("create table catalogue.scratch ();", "drop table catalogue.scratch;", "run again, stopped by itself"),
    "contention": ("lock table catalogue.geometrias in access exclusive mode;", "", "made another session wait for"),
    "crash": ("create table catalogue.scratch ();", "drop table catalogue.scratch;", "stopped"),
}  # fmt: skip


@pytest.mark.parametrize("scenario", WRONG_UNDER)
def test_each_scenario_finds_the_rollback_that_does_not_stand_it(
    settings: Settings, say: list[str], tmp_path: Path, scenario: str
) -> None:
    before, after, told = WRONG_UNDER[scenario]
    if scenario == "contention":
        before = f"begin; {before} commit;"
    file = wrong(tmp_path, "OPT3", before=before, after=after)
    with proving(settings, say, f"wrong-{scenario}", only=["OPT3"], scenarios=[scenario], rollback=file) as validation:
        shorten(validation).prepare()
        (task,) = validation.tasks
        proof = validation.prove(task)
        _, verdict = validation.report()
    assert proof.verdict == Verdict.FAILS
    assert any(told in reason for reason in proof.reasons), proof.reasons
    assert verdict == "stop"


def test_a_rollback_that_stops_is_told_with_file_and_statement(
    settings: Settings, say: list[str], tmp_path: Path
) -> None:
    file = wrong(tmp_path, "OPT5", after="select 1 / 0;")
    with proving(settings, say, "stops", only=["OPT5"], scenarios=["restore"], rollback=file) as validation:
        _, verdict = validation.run_all()
        (proof,) = validation.proofs()
    assert verdict == "stop"
    assert "WRONG_OPT5.sql" in proof.reasons[0]
    assert "division by zero" in proof.reasons[0]


def test_a_rollback_that_takes_a_table_along_fails_in_words(settings: Settings, say: list[str], tmp_path: Path) -> None:
    file = wrong(tmp_path, "OPT5", after="drop table catalogue.edits; drop table catalogue.annotations;")
    with proving(settings, say, "drops", only=["OPT5"], scenarios=["late_writes"], rollback=file) as validation:
        _, verdict = validation.run_all()
        (proof,) = validation.proofs()
    assert (proof.verdict, verdict) == (Verdict.FAILS, "stop")
    assert any("table catalogue.edits: expected present, found absent" in each for each in proof.differences)
    assert any("the rows cannot be compared" in reason for reason in proof.reasons)


def test_a_shadow_that_is_away_leaves_no_data_and_the_other_proofs_are_made(
    servers: Any, settings: Settings, say: list[str]
) -> None:
    with proving(settings, say, "away", only=["OPT5"], scenarios=["restore"]) as validation:
        validation.prepare()
        servers.shadow.stop("fast")
        try:
            (task,) = validation.tasks
            proof = validation.prove(task)
        finally:
            servers.shadow.start()
        assert proof.verdict == Verdict.NO_DATA
        assert "cannot connect" in proof.reasons[0]
        assert validation.prove(task).verdict == Verdict.HOLDS


def test_a_control_database_on_the_shadow_is_refused_before_anything_crashes(
    settings: Settings, say: list[str]
) -> None:
    control = with_database(settings.require("shadow"), "postgres")
    moved = settings.model_copy(update={"control_dsn": control})
    with (
        pytest.raises(UnsafeTarget, match="the control database is on the shadow server"),
        proving(moved, say, "control", only=["OPT5"], scenarios=["restore"], record=False) as validation,
    ):
        validation.prepare()


def test_a_scenario_that_cannot_make_its_trouble_is_no_data_and_no_pass(settings: Settings, say: list[str]) -> None:
    rates = {"reads_per_s": 0, "writes_per_s": 0}
    with proving(settings, say, "quiet", only=["OPT5"], scenarios=["late_writes"], rates=rates) as validation:
        _, verdict = validation.run_all()
        (proof,) = validation.proofs()
    assert (proof.verdict, verdict) == (Verdict.NO_DATA, "stop")
    assert "nobody wrote late" in proof.reasons[0]


def test_a_proof_that_was_not_made_stops_the_verdict(settings: Settings, say: list[str]) -> None:
    with proving(settings, say, "unmade", only=["OPT5"], scenarios=["restore"]) as validation:
        validation.prepare()
        _, verdict = validation.report()
    assert verdict == "stop"


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"only": ["OPT9"]}, "no change 'OPT9'"),
        ({"scenarios": ["earthquake"]}, "no scenario earthquake"),
        ({"rollback": PROJECT / "sql/rollback/ROLLBACK_OPT3_indexed_views_rpc_search.sql"}, "expected one change"),
    ],
    ids=["change", "scenario", "rollback"],
)
def test_a_wish_that_cannot_be_met_is_refused_by_name(
    settings: Settings, say: list[str], wanted: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint), proving(settings, say, "refused", **wanted):
        pass


def test_the_target_is_only_read(settings: Settings, say: list[str]) -> None:
    """A trigger on every DDL command of the target would fire."""
    with connect(settings.require("target"), name="test") as target:
        before = target.execute("select pg_current_wal_lsn()").fetchone()
        rows = target.execute("select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables").fetchall()
    with proving(settings, say, "read-only", only=["OPT5"], scenarios=["restore"], fresh_clone=True) as validation:
        validation.run_all()
    with connect(settings.require("target"), name="test") as target:
        assert target.execute("select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables").fetchall() == rows
    assert before is not None


def test_a_clone_that_another_run_took_is_refused(settings: Settings, say: list[str]) -> None:
    with proving(settings, say, "owner", only=["OPT5"], scenarios=["restore"]) as validation:
        validation.prepare()
    shadow = Shadow(settings.require("target"), settings.require("shadow"))
    shadow.reset(owner="mine")
    shadow.check_owner("mine")
    shadow.reset(owner="somebody else's")
    with pytest.raises(CloneTaken, match="somebody else's"):
        shadow.check_owner("mine")


def test_a_shadow_that_is_leased_is_not_given_to_another(settings: Settings) -> None:
    control, shadows = settings.require("control"), ["host=one", "host=two"]
    with lease(control, shadows) as first, lease(control, shadows) as second:
        assert {first, second} == set(shadows)
    with lease(control, shadows) as again:
        assert again == "host=one"
