"""Scripts under a real Airflow: they end with their tasks, wait for locks, and what people do to them is on record."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest

from comporta.ledger import Event, Ledger
from comporta.local.private import PrivateAirflow

BACKENDS = "select pid from pg_stat_activity where application_name = 'comporta/sleeps' and wait_event = 'PgSleep'"


@pytest.fixture
def target(airflow: PrivateAirflow) -> Iterator[psycopg.Connection]:
    with psycopg.connect(airflow.target, autocommit=True) as conn:
        yield conn


def sleeping(airflow: PrivateAirflow, target: psycopg.Connection, *, other_than: int = 0) -> int:
    """The backend that sleeps for the task, once there is one."""

    def look() -> int | None:
        found = [pid for (pid,) in target.execute(BACKENDS.encode()) if pid != other_than]
        return found[0] if found else None

    return airflow.until(look, "a statement of the task")


def gone(airflow: PrivateAirflow, target: psycopg.Connection, pid: int) -> None:
    """Until the backend has ended; far sooner than its statement would."""
    query = "select from pg_stat_activity where pid = %s"
    airflow.until(lambda: target.execute(query, [pid]).fetchone() is None, f"the end of backend {pid}", within_s=15)


def mark(airflow: PrivateAirflow, login: str, run_id: str, state: str, **more: Any) -> None:
    with airflow.client(login) as client:
        path = f"/api/v2/dags/sleeps/dagRuns/{run_id}/taskInstances/sleeps"
        client.patch(path, json={"new_state": state, **more}).raise_for_status()


def clear(airflow: PrivateAirflow, login: str, dag_id: str, run_id: str, *tasks: str, **more: Any) -> None:
    with airflow.client(login) as client:
        asked = {"dry_run": False, "dag_run_id": run_id, "task_ids": list(tasks), "only_failed": False, **more}
        client.post(f"/api/v2/dags/{dag_id}/clearTaskInstances", json=asked).raise_for_status()


def log_of(airflow: PrivateAirflow, dag_id: str, run_id: str, task: str, number: int = 1) -> str:
    with airflow.client() as client:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/logs/{number}?full_content=true"
        return "\n".join(str(line.get("event")) for line in client.get(path).raise_for_status().json()["content"])


def recorded(airflow: PrivateAirflow, dag_id: str, run_id: str) -> list[Event]:
    with Ledger(airflow.control) as ledger:
        return ledger.read(f"cleared/{dag_id}/{run_id}")


def note_on(airflow: PrivateAirflow, dag_id: str, run_id: str, task: str) -> tuple[str, str, int]:
    """Note, state and number of tries of a task."""
    with airflow.client() as client:
        found = client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}").raise_for_status().json()
    return found["note"], found["state"], found["try_number"]


@pytest.mark.timeout(400)
def test_a_task_that_is_marked_failed_ends_its_statement_and_is_on_record(
    airflow: PrivateAirflow, target: psycopg.Connection
) -> None:
    run_id = airflow.trigger("sleeps")
    backend = sleeping(airflow, target)
    mark(airflow, "po", run_id, "failed", note="not today")
    gone(airflow, target, backend)
    assert airflow.wait_for_run("sleeps", run_id) == "failed"
    assert airflow.states("sleeps", run_id) == {"sleeps": "failed", "behind": "upstream_failed"}
    assert target.execute("select count(*) from public.slept").fetchone() == (0,)
    (event,) = recorded(airflow, "sleeps", run_id)
    assert (event.event_type, event.actor) == ("task_marked", "po")
    assert event.payload == {
        "tasks": ["sleeps"], "note": "not today", "run_id": run_id, "whole_run": False, "state": "failed",
    }  # fmt: skip
    said = "stopped because it was asked to: sleeps.sql:2: statement 2 of 3 failed (select pg_sleep(600))"
    airflow.until(lambda: said in log_of(airflow, "sleeps", run_id, "sleeps"), "the end of the log")


@pytest.mark.timeout(400)
def test_a_task_that_is_cleared_while_it_runs_ends_its_statement_and_begins_anew(
    airflow: PrivateAirflow, target: psycopg.Connection
) -> None:
    run_id = airflow.trigger("sleeps")
    first = sleeping(airflow, target)
    clear(airflow, "cfo", "sleeps", run_id, "sleeps", note="once more", include_downstream=True)
    gone(airflow, target, first)
    second = sleeping(airflow, target, other_than=first)
    (event,) = recorded(airflow, "sleeps", run_id)
    assert (event.actor, event.feature, event.workflow) == ("cfo", "sleeps", "airflow")
    assert sorted(event.payload["tasks"]) == ["behind", "sleeps"]
    assert {**event.payload, "tasks": []} == {"tasks": [], "note": "once more", "run_id": run_id, "whole_run": False}
    mark(airflow, "po", run_id, "success")
    gone(airflow, target, second)
    assert airflow.wait_for_run("sleeps", run_id) == "success"


@pytest.mark.timeout(400)
def test_a_task_whose_process_is_killed_ends_its_statement_and_is_tried_again(
    airflow: PrivateAirflow, target: psycopg.Connection
) -> None:
    run_id = airflow.trigger("sleeps")
    first = sleeping(airflow, target)
    (port,) = target.execute("select client_port from pg_stat_activity where pid = %s", [first]).fetchone() or ()
    owner = next(each.pid for each in psutil.net_connections("tcp4") if each.laddr.port == port)
    os.kill(owner, signal.SIGKILL)
    gone(airflow, target, first)
    second = sleeping(airflow, target, other_than=first)
    mark(airflow, "po", run_id, "failed")
    gone(airflow, target, second)
    assert airflow.wait_for_run("sleeps", run_id) == "failed"

    with airflow.client("security") as client:
        client.cookies.set("_token", client.headers.pop("Authorization").removeprefix("Bearer "))  # as a browser does
        path = f"/api/v2/dags/sleeps/dagRuns/{run_id}/clear"
        client.post(path, json={"dry_run": False, "only_failed": True}).raise_for_status()
    event = recorded(airflow, "sleeps", run_id)[-1]
    assert (event.event_type, event.actor) == ("task_cleared", "security")
    assert event.payload == {"tasks": ["behind", "sleeps"], "note": None, "run_id": run_id, "whole_run": False}
    third = sleeping(airflow, target, other_than=second)
    mark(airflow, "po", run_id, "success")
    gone(airflow, target, third)


@pytest.mark.timeout(400)
def test_a_lock_that_is_not_had_is_asked_for_again_until_it_is(
    airflow: PrivateAirflow, target: psycopg.Connection
) -> None:
    target.execute("create table public.busy (a int)")
    with target.transaction(force_rollback=True):
        target.execute("lock table public.busy")
        run_id = airflow.trigger("scripts")
        airflow.wait_for("scripts", run_id, "alters", "up_for_retry")
    assert airflow.wait_for_run("scripts", run_id) == "success"
    assert "55P03: canceling statement due to lock timeout" in log_of(airflow, "scripts", run_id, "alters")
    note, state, tries = note_on(airflow, "scripts", run_id, "alters")
    assert (note, state) == ("about alters", "success")
    assert tries >= 2
    # A note on a task that runs leaves it running.
    assert note_on(airflow, "scripts", run_id, "tell") == ("about tell", "success", 1)

    clear(airflow, "security", "scripts", run_id, "alters", dry_run=True)
    with airflow.client("security") as client:
        path = f"/api/v2/dags/scripts/dagRuns/{run_id}/clear"
        client.post(path, json={"dry_run": False, "note": "all of it"}).raise_for_status()
    (event,) = recorded(airflow, "scripts", run_id)
    assert (event.event_type, event.actor) == ("task_cleared", "security")
    assert event.payload == {"tasks": [], "note": "all of it", "run_id": run_id, "whole_run": True}
    assert airflow.wait_for_run("scripts", run_id) == "success"
