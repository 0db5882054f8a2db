"""Anchors: signed outside the database, checked line by line, followed through restarts, never a vouch for something untrue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres.conftest import Servers
from typer.testing import CliRunner

from comporta.errors import ConfigurationError
from comporta.ledger import AnchorRefused, Ledger, NewEvent, migrate
from comporta.ledger.anchor import Places, anchor, follow, load_key, make_key, read
from comporta.ledger.commands import app


def event(number: int = 0) -> NewEvent:
    return NewEvent(event_type="change_measured", feature="release", actor="task", payload={"number": number})


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
def places(tmp_path: Path) -> Places:
    """Keys and empty anchors, with a second copy."""
    made = Places(tmp_path / "anchors" / "ledger.jsonl", tmp_path / "key.pem", tmp_path / "copy" / "ledger.jsonl")
    make_key(made)
    return made


@pytest.fixture
def run(dsn: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", dsn)
    monkeypatch.setenv("COMPORTA_ANCHORS", str(places.file))
    monkeypatch.setenv("COMPORTA_ANCHOR_KEY", str(places.key))
    monkeypatch.setenv("COMPORTA_ANCHOR_COPY", str(places.file.parent.parent / "copy"))
    return lambda *words: CliRunner().invoke(app, words)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def test_the_private_key_is_for_its_owner_only_and_is_refused_when_others_may_read_it(places: Places) -> None:
    assert places.key.stat().st_mode & 0o777 == 0o600
    places.key.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"others may read this private key \(mode 0640"):
        load_key(places.key)


def test_a_key_is_never_overwritten_and_an_old_one_stays_valid_for_what_it_signed(
    ledger: Ledger, places: Places
) -> None:
    ledger.append("s", [event()])
    anchor(ledger, places)
    with pytest.raises(AnchorRefused, match="holds a key already"):
        make_key(places)
    places.key.rename(places.key.with_suffix(".old"))
    make_key(places)
    ledger.append("s", [event()])
    anchor(ledger, places)
    assert [len(read(places).held), read(places).faults] == [2, ()]


def test_an_anchor_covers_the_head_and_a_second_one_of_the_same_head_is_not_made(
    ledger: Ledger, places: Places
) -> None:
    assert anchor(ledger, places) is None
    ledger.append("s", [event(1), event(2)])
    made = anchor(ledger, places)
    assert made is not None
    assert made.head == ledger.head()
    assert anchor(ledger, places) is None
    assert read(places).held == (made,)
    assert places.copy is not None
    assert places.copy.read_bytes() == places.file.read_bytes()
    found = ledger.verify(anchors=read(places).held)
    assert (found.ok, found.anchors, found.unanchored) == (True, 1, 0)


def test_what_is_not_anchored_yet_is_told_with_its_beginning(ledger: Ledger, places: Places) -> None:
    ledger.append("s", [event(1)])
    anchor(ledger, places)
    ledger.append("s", [event(2), event(3)])
    found = ledger.verify(anchors=read(places).held)
    assert (found.ok, found.unanchored, found.unanchored_since) == (True, 2, ledger.read(after=1)[0].timestamp)


def test_a_history_that_is_not_that_of_the_last_anchor_is_not_signed(dsn: str, ledger: Ledger, places: Places) -> None:
    ledger.append("s", [event(1)])
    anchor(ledger, places)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("drop schema comporta cascade")
        migrate(owner)
    with Ledger(dsn) as other:
        other.append("s", [event(9)])
        with pytest.raises(AnchorRefused, match="anchor 1 was signed for block 1, which the ledger does not contain"):
            anchor(other, places)


def test_anchors_that_are_gone_are_not_begun_anew(ledger: Ledger, places: Places) -> None:
    ledger.append("s", [event(1)])
    places.file.unlink()
    with pytest.raises(AnchorRefused, match="are gone; nothing was written"):
        anchor(ledger, places)


def test_a_line_that_a_power_cut_left_incomplete_is_dropped_and_the_chain_of_anchors_goes_on(
    ledger: Ledger, places: Places
) -> None:
    ledger.append("s", [event(1)])
    anchor(ledger, replace(places, copy=None))
    whole = places.file.read_bytes()
    places.file.write_bytes(whole + whole[:40])
    ledger.append("s", [event(2)])
    anchor(ledger, replace(places, copy=None))
    assert read(replace(places, copy=None)).faults == ()
    assert len(read(replace(places, copy=None)).held) == 2


def test_the_command_anchors_and_verify_tells_how_far(ledger: Ledger, places: Places, run: Callable[..., Any]) -> None:
    ledger.append("s", [event(1)])
    assert "anchor 1: block 1, event 1" in run("anchor").output
    assert "covers everything" in run("anchor").output
    ledger.append("s", [event(2)])
    found = run("verify")
    assert found.exit_code == 0
    assert "1 anchors hold; 1 events since" in found.output
    verdict = json.loads(run("verify", "--json", "--anchors", str(places.file)).stdout)
    assert (verdict["ok"], verdict["anchors"], verdict["unanchored"]) == (True, 1, 1)


def test_an_auditor_trusts_keys_of_his_own(
    ledger: Ledger, places: Places, run: Callable[..., Any], tmp_path: Path
) -> None:
    ledger.append("s", [event(1)])
    anchor(ledger, places)
    other = Places(tmp_path / "other" / "ledger.jsonl", tmp_path / "other.pem")
    make_key(other)
    found = run("verify", "--anchors", str(places.file), "--public-key", str(other.public))
    assert found.exit_code == 1
    assert "anchor 1" in found.output
    assert "not one of those trusted" in found.output


def test_the_follower_anchors_a_decision_at_once_the_rest_after_the_interval_and_only_one_runs(
    dsn: str, ledger: Ledger, places: Places
) -> None:
    ending = threading.Event()
    follower = threading.Thread(target=follow, args=(dsn, places), kwargs={"ending": ending, "every_s": 2.0})
    follower.start()
    try:
        wait_for((places.file.parent / "ledger.follow.lock").exists)
        with pytest.raises(AnchorRefused, match="another process follows"):
            follow(dsn, places, ending=threading.Event())
        time.sleep(0.3)
        ledger.append("s", [event(1)])
        time.sleep(0.3)
        assert read(places).held == ()
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(
                "select comporta.append('g', null, "
                """'[{"event_type": "gate_decided", "feature": "f", "actor": "cfo"}]')"""
            )
        wait_for(lambda: [a.head.last_id for a in read(places).held] == [2], 1.5)
        ledger.append("s", [event(3)])
        wait_for(lambda: [a.head.last_id for a in read(places).held] == [2, 3], 6)
    finally:
        ending.set()
        follower.join(timeout=10)
    assert not follower.is_alive()


def test_the_command_that_follows_survives_a_restart_of_the_database_and_ends_on_a_signal(
    servers: Servers, dsn: str, ledger: Ledger, places: Places, project: Path
) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(project / "plugins"),
        "COMPORTA_HOME": str(project),
        "COMPORTA_CONTROL_DSN": dsn,
        "COMPORTA_ANCHORS": str(places.file),
        "COMPORTA_ANCHOR_KEY": str(places.key),
    }
    command = [sys.executable, "-c", "from comporta.cli import main; main()", "events", "anchor", "--follow"]
    ledger.append("s", [event(1)])
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    alone = replace(places, copy=None)
    try:
        wait_for(lambda: len(read(alone).held) == 1)
        servers.control.stop("immediate")
        time.sleep(1)
        servers.control.start()
        with Ledger(dsn) as again:
            again.append("s", [event(2)])
        wait_for(lambda: len(read(alone).held) == 2)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
    assert process.returncode == 0, said
    assert "the control database is away" in said
