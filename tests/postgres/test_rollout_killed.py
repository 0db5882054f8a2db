"""The real OPT1, cut by SIGKILL in apply and in rollback: taken up again, it is applied or restored, never in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres.rollout_ground import Ground, make_ground

from comporta.gates import GateBook
from comporta.health import monitoring
from comporta.ledger import EventType
from comporta.local.databases import prepare_control
from comporta.proof import fingerprint
from comporta.rollout.standing import State

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ground(target_dsn: str, control: str, tmp_path: Path) -> Iterator[Ground]:
    """The real release, proved on the target of now."""
    prepare_control(control, PROJECT)
    made = make_ground(tmp_path, target=target_dsn, control=control, tiny=False)
    made.prove()
    # Somebody looks whatever is killed: as the supervised process does, and not as long as it takes to be certain of a death.
    with monitoring(made.settings, made.release):
        yield made


def command(ground: Ground, *words: str) -> subprocess.Popen[str]:
    """``comporta WORDS`` in a process of its own, as at night when Airflow is down."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COMPORTA_")}
    env = inherited | {
        "COMPORTA_HOME": str(ground.home),
        "COMPORTA_TARGET_DSN": ground.target_dsn,
        "COMPORTA_CONTROL_DSN": ground.settings.require("control"),
        "COMPORTA_ARCHIVES": str(ground.settings.archives_path),
        "COLUMNS": "400",
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from comporta.cli import main; main()", *words],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(ground: Ground, *words: str) -> tuple[int, str]:
    """Run it to its end: exit status and what it said."""
    process = command(ground, *words)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def kill_at(ground: Ground, said: str, *words: str) -> None:
    """Run it, and SIGKILL it when it says something."""
    process = command(ground, *words)
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if said in line:
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait(60) == -signal.SIGKILL, "".join(heard)


def let_go(ground: Ground) -> None:
    """Ask for the Go as the command does, and give it."""
    status, said = finish(ground, "rollout", "--change", "OPT1")
    assert status == 2, said
    assert "no Go is in force" in said
    with GateBook(ground.settings.require("control")) as book:
        (gate,) = book.list(states=("open",), name="rollout")
        book.vote(gate.gate, "go", actor="po", reason="read it", digest=gate.digest, via="test")


def test_an_apply_that_was_killed_is_resumed_and_a_rollback_that_was_killed_is_finished(ground: Ground) -> None:
    before = ground.look()
    let_go(ground)
    total = len(ground.release.change("OPT1").apply.statements)
    for number in (3, total // 2, total - 1):
        kill_at(ground, f" {number}/{total} line ", *(("rollout",) if number == 3 else ("resume",)), "--change", "OPT1")
        assert ground.states()["OPT1"] == State.APPLYING
    status, said = finish(ground, "resume", "--change", "OPT1")
    assert (status, ground.states()["OPT1"]) == (0, State.IN_PLACE), said
    assert [event.payload["resumed"] for event in ground.events(EventType.ROLLOUT_APPLY_STARTED)] == [
        False,
        True,
        True,
        True,
    ]
    total = len(ground.release.change("OPT1").rollback.statements)
    for number in (2, total // 2, total - 1):
        kill_at(ground, f" {number}/{total} line ", "rollback", "OPT1", "-r", "slow")
        assert ground.states()["OPT1"] == State.ROLLING_BACK
    status, said = finish(ground, "rollback", "OPT1", "-r", "slow")
    assert (status, ground.states()["OPT1"]) == (0, State.ROLLED_BACK), said
    assert fingerprint.diff(before, ground.look(), ignore=[fingerprint.SEQUENCE_PROGRESS]) == []
    assert ground.events(EventType.ROLLBACK_FINISHED)[-1].payload["restored"] is True
