"""A private Airflow ends with all that it started, and ends what a killed predecessor left behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comporta.local import supervisor
from comporta.local.layout import Layout
from comporta.local.private import PrivateAirflow, end_leftovers
from comporta.local.processes import Process
from comporta.local.web import Airflow

# As Airflow's scheduler does it: the process that runs a task is in a process group of its own.
AIRFLOW = f"""#!{sys.executable}
import os, time
if os.fork() == 0:
    os.setpgid(0, 0)
    with open("task-of-" + str(os.getppid()), "w") as note:
        note.write(str(os.getpid()))
time.sleep(300)
"""


class Healthy(Airflow):
    """One that is healthy at once."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")

    def wait_until_healthy(self, *, within_s: float, on_change: Callable[[list[str]], None] = lambda _: None) -> None:
        """It is."""


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateAirflow]:
    """With two components, each of which runs a task."""
    layout = Layout(tmp_path, tmp_path / "place")
    for folder in (layout.airflow_home, layout.logs, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (tmp_path / "bin" / "airflow").write_text(AIRFLOW)
    (tmp_path / "bin" / "airflow").chmod(0o755)
    made = PrivateAirflow(layout, {}, "", "", {}, Healthy(), programs=tmp_path / "bin")
    made.start("scheduler", "triggerer")
    for name in ("scheduler", "triggerer"):
        processes_of(made, name)
    yield made
    made.end()


def processes_of(private: PrivateAirflow, name: str) -> list[Process]:
    """A component and its task."""
    record = supervisor.record_of(private.layout)
    assert record is not None
    leader = record.children[name]
    note = private.layout.airflow_home / f"task-of-{leader.pid}"
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline, "the task never started"
        time.sleep(0.02)
    task = Process.of(int(note.read_text()))
    assert task is not None
    return [leader, task]


def test_a_component_is_killed_with_the_tasks_that_it_runs_and_without_its_neighbours(private: PrivateAirflow) -> None:
    killed, spared = processes_of(private, "scheduler"), processes_of(private, "triggerer")
    private.kill("scheduler")
    assert [process.alive for process in killed] == [False, False]
    assert [process.alive for process in spared] == [True, True]


def test_nothing_is_left_at_the_end_not_even_of_a_component_that_was_started_again(private: PrivateAirflow) -> None:
    private.kill("scheduler")
    private.start("scheduler")
    all_of_it = processes_of(private, "scheduler") + processes_of(private, "triggerer")
    private.end()
    assert not any(process.alive for process in all_of_it)
    assert supervisor.record_of(private.layout) is None


def test_what_a_killed_session_left_behind_is_ended_by_the_next(private: PrivateAirflow) -> None:
    left = processes_of(private, "scheduler") + processes_of(private, "triggerer")
    end_leftovers(private.layout)  # all that the next session has is the record
    assert not any(process.alive for process in left)


def test_two_sessions_have_nothing_of_each_other(private: PrivateAirflow, tmp_path: Path) -> None:
    end_leftovers(Layout(tmp_path, tmp_path / "another"))
    assert all(process.alive for process in processes_of(private, "scheduler"))
