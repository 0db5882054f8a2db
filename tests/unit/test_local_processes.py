"""A signal reaches exactly the process that was meant, never one that got its number since."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comporta.local.processes import Process, send, session_members, terminate


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session of its own and works in ``tmp_path``."""
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path, start_new_session=True
    )
    yield child
    child.kill()
    child.communicate()


def test_a_process_is_known_by_its_number_and_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    """The same number with another start time is a stranger."""
    found = Process.of(sleeper.pid)
    assert found is not None
    assert found.alive
    assert not Process(found.pid, found.started - 1).alive


def test_a_stranger_with_a_recycled_number_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    """Sending SIGKILL to the former owner of a number leaves its present owner alone."""
    found = Process.of(sleeper.pid)
    assert found is not None
    send(Process(found.pid, found.started - 1), signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_signal_to_a_process_that_is_gone_does_nothing() -> None:
    """No error reaches the caller."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    found = Process.of(child.pid)
    child.wait()
    assert found is not None
    send(found, signal.SIGTERM)
    assert not found.alive


def test_a_session_is_found_by_its_leader_and_its_directory(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Processes that work elsewhere are not ours, whatever their session."""
    leader = Process.of(sleeper.pid)
    assert leader is not None
    assert session_members(leader, tmp_path) == [leader]
    assert session_members(leader, tmp_path.parent) == []
    assert session_members(Process(leader.pid, leader.started - 1), tmp_path) == []


def test_members_are_found_after_their_leader_has_died(tmp_path: Path) -> None:
    """A killed leader leaves members behind; they are still found, and ended."""
    program = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=-3);"
        "print(child.pid, flush=True); input()"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert leader.stdout is not None
    orphan = int(leader.stdout.readline())
    identity = Process.of(leader.pid)
    assert identity is not None
    leader.kill()
    leader.communicate()
    assert [process.pid for process in session_members(identity, tmp_path)] == [orphan]
    assert terminate(lambda: session_members(identity, tmp_path), patience_s=5)
    assert session_members(identity, tmp_path) == []


def test_a_process_that_ignores_term_is_killed_in_the_end(tmp_path: Path) -> None:
    """Patience has an end."""
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); input()"
    stubborn = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"ready\n"
    identity = Process.of(stubborn.pid)
    assert identity is not None
    assert terminate(lambda: session_members(identity, tmp_path), patience_s=0.3)
    stubborn.communicate()
    assert stubborn.returncode == -signal.SIGKILL
