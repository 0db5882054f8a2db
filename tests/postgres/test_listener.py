"""What Airflow says of tasks and runs reaches the ledger, once, without making a task wait or fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from comporta.ledger import Ledger, migrate
from comporta.orchestration import listener as module
from comporta.orchestration.listener import Note, Writer, listener

DAG = """
from datetime import datetime
from airflow.sdk import dag, task
from airflow.exceptions import AirflowSkipException

@dag(schedule=None, start_date=datetime(2026, 1, 1))
def mirrored():
    @task
    def measure(number):
        if number == 2:
            raise AirflowSkipException("nothing to do")
    @task(trigger_rule="all_done")
    def stop():
        raise ValueError("no")
    measure.expand(number=[1, 2]) >> stop()

made = mirrored()
if __name__ == "__main__":
    made.test()
"""


@pytest.fixture
def dsn(control: str) -> str:
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn)
    return control


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    with Ledger(dsn) as opened:
        yield opened


@pytest.fixture
def hooked(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The listener as a process has it that knows the control database."""
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", dsn)
    monkeypatch.setattr(module, "_writers", {})
    yield
    listener.before_stopping()


def note(number: int = 1, **payload: Any) -> Note:
    return Note("task_state_changed", "airflow/d/r", "d", "t", f"airflow/{number}", {"number": number, **payload})


def instance(**fields: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "id": "01a2", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1, "state": "running",
        "hostname": "worker",
    }  # fmt: skip
    return SimpleNamespace(**{**values, **fields})


def numbers(ledger: Ledger) -> list[int]:
    return [event.payload["number"] for event in ledger.read()]


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def test_a_dag_that_runs_leaves_every_state_of_its_tasks_and_its_run(
    dsn: str, ledger: Ledger, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "dags").mkdir()
    path = tmp_path / "dags" / "mirrored.py"
    path.write_text(DAG)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(project / "plugins"),
        "COMPORTA_CONTROL_DSN": dsn,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    airflow = str(Path(sys.executable).parent / "airflow")
    for command in ([airflow, "db", "migrate"], [sys.executable, str(path)]):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    events = ledger.read()
    assert {event.workflow for event in events} == {"airflow"}
    assert len({event.stream for event in events}) == 1
    said = {(event.phase, event.payload["state"]) for event in events}
    assert said == {
        ("measure[0]", "running"),
        ("measure[0]", "success"),
        ("measure[1]", "running"),
        ("measure[1]", "skipped"),
        ("stop", "running"),
        ("stop", "failed"),
        (None, "failed"),
    }
    failed = next(event for event in events if event.phase == "stop" and event.payload["state"] == "failed")
    assert failed.payload["error"] == "ValueError: no"
    assert failed.payload["try"] == 1


def test_a_state_that_is_told_twice_is_one_event_and_the_first_account_stands(hooked: None, ledger: Ledger) -> None:
    for host in ("worker", "worker", "another"):
        listener.on_task_instance_running(task_instance=instance(hostname=host))
    listener.on_task_instance_running(task_instance=instance(try_number=2))
    listener.before_stopping()
    assert [(e.payload["try"], e.payload["hostname"]) for e in ledger.read()] == [(1, "worker"), (2, "worker")]


def test_a_retry_is_told_from_a_failure(hooked: None, ledger: Ledger) -> None:
    error = ValueError("x" * 1_000)
    listener.on_task_instance_failed(task_instance=instance(state="up_for_retry"), error=error)
    listener.on_task_instance_failed(task_instance=instance(state="failed", try_number=2), error="killed")
    listener.before_stopping()
    first, second = ledger.read()
    assert (first.payload["state"], second.payload["state"]) == ("up_for_retry", "failed")
    assert (len(first.payload["error"]), second.payload["error"]) == (500, "killed")


def test_a_run_that_is_cleared_and_ends_again_is_told_again(hooked: None, ledger: Ledger) -> None:
    for cleared in (0, 1, 1):
        run = SimpleNamespace(
            dag_id="d", run_id="r", run_type="manual", clear_number=cleared, start_date=None, end_date=None,
            triggering_user_name="admin",
        )  # fmt: skip
        listener.on_dag_run_success(dag_run=run, msg="success")
    listener.before_stopping()
    assert [event.payload["cleared"] for event in ledger.read()] == [0, 1]
    assert ledger.read()[0].payload["triggered_by"] == "admin"


def test_a_hook_never_raises_and_does_nothing_without_a_control_database(
    hooked: None, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.on_task_instance_success(task_instance=object())
    monkeypatch.delenv("COMPORTA_CONTROL_DSN")
    monkeypatch.setattr(module, "_writers", {})
    listener.on_task_instance_success(task_instance=instance())
    assert ledger.read() == []


def test_a_hook_returns_at_once_while_the_database_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """192.0.2.0/24 is nobody: packets get no answer."""
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", "host=192.0.2.1 port=5432 dbname=x user=x")
    monkeypatch.setattr(module, "_writers", {})
    started = time.monotonic()
    listener.on_task_instance_running(task_instance=instance())
    assert time.monotonic() - started < 0.1
    listener.before_stopping()
    assert time.monotonic() - started < 3


def test_what_happens_while_the_ledger_is_held_is_written_afterwards_and_what_found_no_room_is_counted(
    dsn: str, ledger: Ledger
) -> None:
    writer = Writer(dsn, room=2, pause_s=0.05)
    writer.put(note(0))
    assert writer.flush()
    with psycopg.connect(dsn) as other:
        other.execute("select pg_advisory_xact_lock(hashtext('comporta'), hashtext('ledger'))")
        writer.put(note(1))
        wait_for(writer._notes.empty)
        for number in range(2, 7):
            writer.put(note(number))
        assert not writer.flush(0.2)
    wait_for(lambda: numbers(ledger) == [0, 1, 2, 3])
    assert sum(event.payload.get("lost_before", 0) for event in ledger.read()) == 3


def test_a_note_that_the_ledger_refuses_does_not_hold_up_those_behind_it(dsn: str, ledger: Ledger) -> None:
    writer = Writer(dsn, pause_s=0.05)
    for made in (note(1), note(2, bad="\0"), note(3)):
        writer.put(made)
    assert writer.flush()
    assert numbers(ledger) == [1, 3]
    assert ledger.read()[1].payload["lost_before"] == 1


def test_a_fork_writes_for_itself(hooked: None, ledger: Ledger) -> None:
    """The scheduler forks its workers: its thread does not come with them."""
    listener.on_task_instance_running(task_instance=instance(task_id="parent"))
    child = os.fork()
    if child == 0:
        listener.on_task_instance_running(task_instance=instance(task_id="child", id="02"))
        listener.before_stopping()
        os._exit(0)
    os.waitpid(child, 0)
    listener.before_stopping()
    assert {event.phase for event in ledger.read()} == {"parent", "child"}
    assert threading.active_count() < 20
