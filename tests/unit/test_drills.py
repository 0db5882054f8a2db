"""Drills without a server: objectives, verdicts, what a killed scheduler means for its tasks, and the list."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comporta.drills import alert_server, scheduler
from comporta.drills.catalogue import DRILLS, NAMES, named
from comporta.drills.commands import exit_status
from comporta.drills.model import (
    CannotDrill,
    Context,
    Drill,
    DrillResult,
    NotRecovered,
    Outcome,
    Verdict,
)
from comporta.drills.objectives import DrillPlan, Objective, load_plan
from comporta.errors import ComportaError, ConfigurationError
from comporta.settings import Settings

OBJECTIVE = Objective(recovery_s=30, lost=0)
RECOVERED = DrillResult("target", Outcome.RECOVERED, recovery_seconds=4.0, lost=0)
BACK = datetime(2029, 1, 1, 12, 0, tzinfo=UTC)
RAN = scheduler.Task("dag", "run", "task", -1, try_number=1, state="running", heartbeat=BACK.replace(hour=11))


def context(home: Path = Path("/nowhere")) -> Context:
    return Context(Settings(home=home), DrillPlan(objectives={"target": OBJECTIVE}))


def drill(error: Exception, *, after_a_step: bool = False) -> Drill:
    """A drill that comes to this end."""

    def run(context: Context) -> DrillResult:
        if after_a_step:
            with context.step("crash"):
                pass
        raise error

    return Drill("target", "target", "", "", "writes", run)


def test_the_project_has_objectives_for_every_drill(project: Path) -> None:
    plan = load_plan(project / "config/drills.yaml", NAMES)
    assert set(plan.objectives) == set(NAMES)


@pytest.mark.parametrize(
    ("text", "named_in_the_error"),
    [
        ("objectives: {target: {recovery_s: 1, lost: 0, rto: 3}}", "objectives.target.rto: unknown key"),
        ("objectives: {target: {recovery_s: 1, lost: 0}}\nspeed: 3", "speed: unknown key"),
        ("objectives: {target: {recovery_s: 1, lost: 0}, moon: {recovery_s: 1, lost: 0}}", "moon: no such drill"),
        ("objectives: {target: {recovery_s: 0, lost: 0}}", "recovery_s: Input should be greater than 0"),
        ("objectives: {}", 'no objective for the drill "target"'),
        ("objectives: [", "is not YAML"),
        ("", "the file: "),
    ],
    ids=["key of an objective", "key of the file", "drill", "no time", "missing objective", "not YAML", "empty"],
)
def test_an_objectives_file_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, text: str, named_in_the_error: str
) -> None:
    path = tmp_path / "drills.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_plan(path, ("target",))
    assert named_in_the_error in str(refused.value)


@pytest.mark.parametrize(
    ("result", "verdict", "why"),
    [
        (RECOVERED, Verdict.MET, "back after 4.0 s, 0 lost"),
        (replace(RECOVERED, recovery_seconds=31), Verdict.MISSED, "back after 31.0 s, objective 30 s"),
        (replace(RECOVERED, lost=1), Verdict.MISSED, "1 lost, objective 0"),
        (replace(RECOVERED, recovery_seconds=31, lost=1), Verdict.MISSED, "back after 31.0 s, objective 30 s; 1 lost"),
        (DrillResult("target", Outcome.FAILED, reason="it broke"), Verdict.MISSED, "it broke"),
        (DrillResult("target", Outcome.NOT_INSTALLED, reason="none here"), Verdict.NO_DATA, "none here"),
        (replace(RECOVERED, lost=None), Verdict.NO_DATA, "were not measured"),
        (replace(RECOVERED, recovery_seconds=None), Verdict.NO_DATA, "were not measured"),
    ],
    ids=["met", "slow", "lossy", "both", "failed", "not installed", "losses unknown", "time unknown"],
)
def test_a_result_is_judged_by_time_and_losses_and_what_was_not_measured_is_never_good(
    result: DrillResult, verdict: Verdict, why: str
) -> None:
    found, words = result.judge(OBJECTIVE)
    assert found == verdict
    assert why in words


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.MET], 0),
        ([Verdict.MISSED], 1),
        ([Verdict.NO_DATA], 2),
        ([Verdict.MET, Verdict.NO_DATA], 0),
        ([Verdict.MET, Verdict.MISSED, Verdict.NO_DATA], 1),
        ([Verdict.NO_DATA, Verdict.NO_DATA], 2),
    ],
    ids=["met", "missed", "no data", "the rest cannot run", "one missed", "nothing could run"],
)
def test_the_exit_status_is_good_only_when_something_was_proved(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(verdicts) == status


@pytest.mark.parametrize(
    ("error", "after_a_step", "outcome"),
    [
        (CannotDrill("no rights", remedy="get them"), False, Outcome.NOT_INSTALLED),
        (ConfigurationError("no target", remedy="name it"), False, Outcome.NOT_INSTALLED),
        (NotRecovered("still down"), True, Outcome.FAILED),
        (ComportaError("broke"), True, Outcome.FAILED),
    ],
    ids=["cannot", "not configured", "not recovered", "any other error"],
)
def test_what_is_missing_beforehand_is_no_failure_and_what_breaks_on_the_way_is_one(
    error: ComportaError, after_a_step: bool, outcome: Outcome
) -> None:
    result = drill(error, after_a_step=after_a_step).perform(context())
    assert (result.outcome, result.reason, result.remedy) == (outcome, error.message, error.remedy)


def test_a_result_reads_back_as_it_was_written() -> None:
    result = replace(RECOVERED, steps=(("crash", 0.1),), evidence={"writes": 3})
    assert DrillResult.from_dict(result.to_dict()) == result


def test_drills_are_listed_in_the_order_of_the_runbooks_index(project: Path) -> None:
    text = (project / "docs/runbooks/index.md").read_text(encoding="utf-8")
    places = [text.index(f"failover-{name}.md") for name in NAMES]
    assert places == sorted(places)
    assert [drill.name for drill in DRILLS] == list(NAMES)


def test_an_unknown_drill_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigurationError, match="target, shadow, control, scheduler, alert-server"):
        named("moon")
    assert named("all") == DRILLS


@pytest.mark.parametrize("name", ["scheduler", "alert-server"])
def test_without_a_local_system_there_is_nothing_to_kill(tmp_path: Path, name: str) -> None:
    (found,) = named(name)
    result = found.perform(context(tmp_path))
    assert result.outcome == Outcome.NOT_INSTALLED
    assert "make run" in result.remedy


def test_the_missing_alert_server_says_how_it_will_be_found(tmp_path: Path) -> None:
    from comporta.local.layout import Layout
    from comporta.local.processes import Process, boot_id
    from comporta.local.supervisor import Record

    layout = Layout(tmp_path)
    layout.state.mkdir()
    me = Process.of(1)
    assert me is not None
    Record(boot_id(), me, {"scheduler": me}).write(layout.supervisor)
    result = alert_server.DRILL.perform(context(tmp_path))
    assert result.outcome == Outcome.NOT_INSTALLED
    assert result.reason == "no process named alert-server is supervised here"
    assert "8765/health" in result.remedy


@pytest.mark.parametrize(
    ("now", "fate"),
    [
        (replace(RAN, state="success"), True),
        (replace(RAN, state="up_for_retry"), True),
        (replace(RAN, state=None), True),
        (replace(RAN, heartbeat=BACK.replace(hour=13)), True),
        (replace(RAN, try_number=2), True),
        (RAN, None),
        (replace(RAN, state="failed"), False),
        (replace(RAN, state="skipped"), False),
        (None, False),
    ],
    ids=["ended well", "to be tried again", "cleared", "still reports", "tried again", "silent", "failed", "skipped", "gone"],
)  # fmt: skip
def test_a_task_survives_when_it_ended_well_or_runs_on(now: scheduler.Task | None, fate: bool | None) -> None:
    assert scheduler.survived(RAN, now, BACK) is fate
