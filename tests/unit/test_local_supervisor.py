"""The supervisor keeps its processes running, and ends all of them and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comporta.local import supervisor
from comporta.local.layout import Layout
from comporta.local.processes import Process, boot_id, terminate
from comporta.local.supervisor import Record

PROGRAM = """
import sys
from pathlib import Path
from comporta.local.layout import Layout
from comporta.local.supervisor import Supervisor
one = [sys.executable, '-c', 'import time; time.sleep(300)']
Supervisor(Layout(Path(sys.argv[1])), first_delay_s=0.1, longest_delay_s=0.2, patience_s=3).run({'first': one, 'second': one})
"""


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until the condition holds; the bound is generous because nothing here is about speed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def children(layout: Layout) -> dict[str, Process]:
    record = supervisor.record_of(layout)
    return dict(record.children) if record else {}


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """A layout whose supervisor looks after two idle processes."""
    made = Layout(tmp_path)
    made.logs.mkdir(parents=True)
    made.airflow_home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(children(made)) == 2)
    yield made
    process.kill()
    process.wait()
    terminate(lambda: supervisor.leftovers(made), patience_s=1)


def test_a_process_that_ends_is_started_again(layout: Layout) -> None:
    """The other process is left alone."""
    before = children(layout)
    os.kill(before["first"].pid, signal.SIGKILL)
    wait_for(lambda: children(layout)["first"] != before["first"] and children(layout)["first"].alive)
    assert children(layout)["second"] == before["second"]
    assert before["second"].alive


def test_stopping_ends_every_process(layout: Layout) -> None:
    """After the stop nothing runs, and a second stop finds nothing."""
    started = children(layout).values()
    assert supervisor.stop(layout) is True
    assert not any(process.alive for process in started)
    assert supervisor.stop(layout) is False


def test_what_a_killed_supervisor_left_behind_is_ended(layout: Layout) -> None:
    """The record outlives the supervisor, so its processes are found."""
    record = supervisor.record_of(layout)
    assert record is not None
    os.kill(record.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.is_running(layout))
    assert len(supervisor.leftovers(layout)) == 2
    assert supervisor.stop(layout) is True
    assert supervisor.leftovers(layout) == []


def test_a_record_of_another_boot_names_nobody(tmp_path: Path) -> None:
    """Start times of another boot could match a stranger."""
    path = tmp_path / "supervisor.json"
    me = Process.of(os.getpid())
    assert me is not None
    Record(boot_id(), me, {"first": me}).write(path)
    assert Record.read(path) == Record(boot_id(), me, {"first": me})
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert Record.read(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}'], ids=["empty", "cut", "list", "keys missing"])
def test_a_record_that_was_cut_short_is_no_record(tmp_path: Path, text: str) -> None:
    """A killed writer must not keep the next start from working."""
    path = tmp_path / "supervisor.json"
    path.write_text(text)
    assert Record.read(path) is None


def test_anchorer_and_mail_catcher_are_supervised_beside_the_airflow_processes() -> None:
    """The first signs the ledger's head: without it, the end of the chain has no witness."""
    found = supervisor.commands(Path("/venv/bin"))
    assert (
        tuple(found)
        == supervisor.SUPERVISED
        == (*supervisor.COMPONENTS, "ledger-anchor", "mail-catcher", "health-monitor")
    )
    assert found["health-monitor"] == ["/venv/bin/comporta", "health", "watch"]
    assert found["ledger-anchor"] == ["/venv/bin/comporta", "events", "anchor", "--follow"]
