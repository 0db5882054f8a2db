"""A rollout in a real Airflow while things go wrong: marked by hand, killed, cleared twice, cleared by two people at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
import pytest
from tests.e2e.rollout_stage import LONG_S, Stage, rollout_stage
from tests.postgres.conftest import Servers, servers  # noqa: F401 - a fixture of this module as well

from comporta.ledger import EventType
from comporta.proof import fingerprint
from comporta.rollout.standing import State

pytestmark = pytest.mark.timeout(600)
# How Airflow names the process that runs a task, and the worker that watches over it.
TASK = re.compile(r"airflow worker -- (?!LocalExecutor.*<idle>)")

PAUSE = """do $$ begin while exists (select from public.pause) loop perform pg_sleep(0.05); end loop; end $$;
"""
SCRIPTS = {
    "apply/A.sql": "alter table catalogue.layers add column if not exists colour text;\n"
    + PAUSE
    + "create index if not exists layers_colour on catalogue.layers (colour);",
    "rollback/ROLLBACK_A.sql": "drop index if exists catalogue.layers_colour;\n"
    + PAUSE
    + "alter table catalogue.layers drop column if exists colour;",
    "verify/B.sql": "do $$ begin if (select count(*) from public.trouble) > 0 then raise exception 'two rows are missing';"
    " end if; end $$;",
}
TASKS = [f"{change}.{step}" for change in "ABC" for step in ("apply", "verify", "watch")]


@pytest.fixture(scope="module")
def stage(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:  # noqa: F811
    """The tiny release, whose apply and rollback of A wait while there is a row in ``public.pause``."""
    with rollout_stage(servers, tmp_path_factory.mktemp("rollout"), tiny=True, scripts=SCRIPTS) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_applied(stage: Stage) -> Iterator[fingerprint.Fingerprint]:
    """Each test begins, and is told, with a target on which nothing of the release stands."""
    stage.ground.sql("delete from public.pause; delete from public.trouble")
    stage.since = max((event.id for event in stage.ground.events()), default=0)
    yield stage.ground.look()
    stage.ground.sql("delete from public.pause; delete from public.trouble")
    with stage.ground.run() as rollout:
        for name in ("C", "A"):
            rollout.roll_back(name, why="asked", because="the next test")


def green(stage: Stage) -> str:
    run_id = stage.begin()
    assert stage.airflow.wait_for_run("rollout", run_id, within_s=LONG_S) == "success"
    assert set(stage.ground.states().values()) == {State.IN_PLACE}
    return run_id


def test_a_green_rollout_leaves_every_rollback_armed_and_says_so(stage: Stage) -> None:
    run_id = green(stage)
    states = stage.airflow.states("rollout", run_id)
    assert {states[task] for task in TASKS} == {"success"}
    assert {states[f"{change}.rollback"] for change in "ABC"} == {"skipped"}
    assert "clear this task to roll A back" in stage.note(run_id, "A.rollback")
    said = stage.log(run_id, "A.apply")
    assert re.search(r"applies A.sql to the target postgres@127.0.0.1:\d+/gis", said)
    assert "2/3 line 2: do $$" in said


@pytest.mark.timeout(900)
def test_clearing_a_rollback_takes_back_that_change_and_what_stands_on_it(stage: Stage, nothing_applied: Any) -> None:
    run_id = green(stage)
    tries = Tries(stage, run_id)

    # What people mark by hand is believed by nobody.
    stage.mark(run_id, "A.apply", "failed")
    stage.mark(run_id, "A.rollback", "success")
    assert set(stage.ground.states().values()) == {State.IN_PLACE}

    stage.clear(run_id, "A.rollback", login="po", note="the map is slow")
    assert tries.ended("A.rollback") == "success"
    assert stage.ground.states() == {"A": State.ROLLED_BACK, "B": State.ROLLED_BACK, "C": State.IN_PLACE}
    started = stage.events(EventType.ROLLBACK_STARTED)[-2:]
    assert [event.phase for event in started] == ["B", "A"]
    assert {(event.payload["why"], event.payload["cleared_by"], event.payload["note"]) for event in started} == {
        ("cleared", "po", "the map is slow")
    }
    assert [event.payload["restored"] for event in stage.events(EventType.ROLLBACK_FINISHED)][-1] is True
    assert "po cleared the task: the map is slow" in stage.note(run_id, "A.rollback")
    assert tries.run_ended() == "success"  # a person's decision is no failure

    stage.clear(run_id, "A.rollback")  # twice in a row
    assert tries.ended("A.rollback") == "skipped"
    assert len(stage.events(EventType.ROLLBACK_STARTED)) == len(started)

    stage.clear(run_id, "A.apply")
    assert tries.ended("C.rollback") == "skipped"
    assert tries.run_ended() == "success"
    assert set(stage.ground.states().values()) == {State.IN_PLACE}
    assert stage.events(EventType.ROLLBACK_ARMED)[-3:][0].phase == "A"

    stage.clear(run_id, "A.rollback", login="po")  # two people at once
    stage.clear(run_id, "B.rollback", login="dba")
    both = {tries.ended("A.rollback"), tries.ended("B.rollback")}
    assert both <= {"success", "skipped"}
    rolled = [event.phase for event in stage.events(EventType.ROLLBACK_FINISHED)][2:]
    assert rolled == ["B", "A"]
    assert stage.ground.states()["C"] == State.IN_PLACE


def test_a_change_that_does_not_verify_goes_by_itself_and_the_rest_is_not_started(stage: Stage) -> None:
    untouched = stage.ground.states()["C"]
    run_id = stage.airflow.trigger("rollout", login="dba")
    stage.airflow.wait_for("rollout", run_id, "gate", "deferred", within_s=LONG_S)
    stage.ground.sql("insert into public.trouble values ('two rows')")
    stage.approve()
    assert stage.airflow.wait_for_run("rollout", run_id, within_s=LONG_S) == "failed"
    assert stage.ground.states() == {"A": State.IN_PLACE, "B": State.ROLLED_BACK} | {"C": untouched}
    states = stage.airflow.states("rollout", run_id)
    assert states["B.verify"] == "failed"
    assert states["B.rollback"] == "success"
    assert {states[f"C.{step}"] for step in ("apply", "verify", "watch")} == {"upstream_failed"}
    assert states["A.rollback"] == "skipped"
    assert states["outcome"] == "failed"
    assert [event.payload["attempt"] for event in stage.events(EventType.ROLLOUT_VERIFY_FAILED)] == [1, 2, 3]


@pytest.mark.timeout(900)
def test_whoever_is_killed_the_change_is_applied_or_restored_in_the_end(stage: Stage, nothing_applied: Any) -> None:
    stage.ground.sql("insert into public.pause default values")
    run_id = stage.begin()
    kill_task(stage, backend_in_pause(stage))
    again = backend_in_pause(stage)
    stage.airflow.kill("scheduler")
    assert stage.airflow.until(lambda: backends_in_pause(stage) == [] or None, "the end of the statement of the dead")
    stage.airflow.start("scheduler")
    third = backend_in_pause(stage)
    assert third != again
    stage.ground.sql("delete from public.pause")
    assert stage.airflow.wait_for_run("rollout", run_id, within_s=LONG_S) == "success"
    assert set(stage.ground.states().values()) == {State.IN_PLACE}
    started = [each for each in stage.events(EventType.ROLLOUT_APPLY_STARTED) if each.payload["run"].endswith(run_id)]
    assert [each.payload["resumed"] for each in started if each.phase == "A"] == [False, True, True]

    stage.ground.sql("insert into public.pause default values")
    stage.clear(run_id, "A.rollback")
    kill_task(stage, backend_in_pause(stage))
    backend_in_pause(stage)
    stage.ground.sql("delete from public.pause")
    assert Tries(stage, run_id).run_ended() == "success"
    assert stage.ground.states() == {"A": State.ROLLED_BACK, "B": State.ROLLED_BACK, "C": State.IN_PLACE}
    finished = stage.events(EventType.ROLLBACK_FINISHED)[-1]
    assert (finished.phase, finished.payload["restored"]) == ("A", True)


def test_the_dag_rollback_needs_neither_the_run_nor_an_unpaused_rollout(stage: Stage) -> None:
    run_id = green(stage)
    with stage.airflow.client() as client:
        client.patch("/api/v2/dags/rollout", json={"is_paused": True}).raise_for_status()
        client.delete(f"/api/v2/dags/rollout/dagRuns/{run_id}").raise_for_status()
    try:
        other = stage.airflow.trigger("rollback", login="po", conf={"change": "A", "why": "the map is slow"})
        assert stage.airflow.wait_for_run("rollback", other, within_s=LONG_S) == "success"
    finally:
        stage.airflow.airflow.unpause("rollout")
    assert stage.ground.states() == {"A": State.ROLLED_BACK, "B": State.ROLLED_BACK, "C": State.IN_PLACE}
    assert stage.events(EventType.ROLLBACK_STARTED)[-1].payload["because"] == "po: the map is slow"


@dataclass
class Tries:
    """Waits for tasks that were cleared: an end counts once."""

    stage: Stage
    run_id: str

    def ended(self, task: str) -> str:
        """The state of a task at the end of the run that the clear began."""
        self.run_ended()
        return self.stage.airflow.states("rollout", self.run_id)[task]

    def run_ended(self) -> str:
        """The state of the run; a clear sets it back before its answer comes."""
        return self.stage.airflow.wait_for_run("rollout", self.run_id, within_s=LONG_S)


def backends_in_pause(stage: Stage) -> list[int]:
    """The backends of rollouts that are in the statement that waits."""
    with psycopg.connect(stage.ground.target_dsn, autocommit=True) as conn:
        rows = conn.execute(
            "select pid from pg_stat_activity where application_name like 'comporta/rollout/%' and query like '%public.pause%'"
            " and state = 'active'"
        ).fetchall()
    return [pid for (pid,) in rows]


def backend_in_pause(stage: Stage) -> int:
    """The one that is there, once it is."""
    return stage.airflow.until(
        lambda: next(iter(backends_in_pause(stage)), None), "a script that waits", within_s=LONG_S
    )


def kill_task(stage: Stage, backend: int) -> None:
    """SIGKILL the process that runs the task, and see its statement end by itself."""
    tasks = [each for each in psutil.process_iter(["cmdline"]) if is_task(stage, each)]
    assert tasks
    for each in tasks:
        each.kill()
    stage.airflow.until(lambda: backend not in backends_in_pause(stage) or None, "the end of the dead task's statement")


def is_task(stage: Stage, process: psutil.Process) -> bool:
    """Whether a process runs a task of this Airflow, by what it calls itself."""
    try:
        line, home = " ".join(process.info["cmdline"] or ()), process.cwd()
    except psutil.Error:
        return False
    return home == str(stage.airflow.layout.airflow_home) and TASK.match(line) is not None
