"""Copies of the ledger, and where everything stood at a moment: whole or not at all, verifiable, equal to the live one."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres import health_desk
from tests.postgres.gate_desk import open_desk, request
from typer.testing import CliRunner

from comporta.health import BreakerBook
from comporta.ledger import PROJECTIONS, ExportRefused, Ledger, NewEvent, migrate
from comporta.ledger.anchor import Places, anchor, make_key, read
from comporta.ledger.commands import app
from comporta.ledger.export import verify_lines


def event(number: int, **payload: Any) -> NewEvent:
    kind = "clone_made" if number % 3 == 0 else "change_measured"
    return NewEvent(
        event_type=kind, feature="release", actor="task", workflow="stage2", payload={"number": number, **payload}
    )


@pytest.fixture
def dsn(control: str) -> str:
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn)
    return control


@pytest.fixture
def owner(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    """Blocks of three events each: 1..12, in two streams; the last with values of every kind."""
    with Ledger(dsn) as opened:
        for block in range(4):
            opened.append(f"s/{block % 2}", [event(3 * block + i) for i in range(3)])
        odd = {"π": [1, 2.50, -1e30, 12345678901234567890, None, True], "n": {"": '\n\t\\"\u2028,"payload":'}}
        opened.append('ação,"payload":', [event(13, **odd), event(14)])
        yield opened


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", dsn)
    monkeypatch.setenv("COMPORTA_ANCHORS", str(tmp_path / "none.jsonl"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, words)


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_in_json_lines_has_every_field_and_verifies_without_the_database(
    ledger: Ledger, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    progress: list[tuple[int, int]] = []
    assert ledger.export(path, progress=lambda done, total: progress.append((done, total))) == 14
    assert progress[-1] == (14, 14)
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    events = [line for line in lines if "id" in line]
    for exported, recorded in zip(events, ledger.read(), strict=True):
        assert {**exported, "timestamp": datetime.fromisoformat(exported["timestamp"])} == vars(recorded)
    found = verify_lines(path)
    assert (found.ok, found.events, found.head) == (True, 14, ledger.head())


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"number": 7', '"number": 77', "event 8 of block 3"),
        ('"actor": "task"', '"actor": "cfo"', "event 1 of block 1"),
        ('{"id": 8,', '{"id": 9,', "event 8 of block 3 is missing"),
        ('{"block": 3,', '{"block": 4,', "block 3 is missing"),
        ('{"block": 3,', "{", "belongs to no block|cannot be read|followed by more events"),
        ("+00:00", "+00:01", "event 1 of block 1"),
    ],
    ids=["payload", "actor", "id", "block", "no-block", "time"],
)
def test_an_edited_export_is_found_and_named(ledger: Ledger, tmp_path: Path, old: str, new: str, what: str) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.export(path)
    path.write_text(path.read_text().replace(old, new, 1))
    found = verify_lines(path)
    assert not found.ok
    assert any(part in found.what for part in what.split("|"))


def test_an_export_is_compared_with_the_anchors(ledger: Ledger, tmp_path: Path) -> None:
    places = Places(tmp_path / "anchors.jsonl", tmp_path / "key.pem")
    make_key(places)
    anchor(ledger, places)
    path = tmp_path / "ledger.jsonl"
    ledger.export(path)
    assert verify_lines(path, read(places).held).anchors == 1
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: lines.index(next(x for x in lines if x.startswith('{"block": 5')))]))
    assert "cut off from block 5" in verify_lines(path, read(places).held).what


def test_an_export_in_sqlite_has_the_original_columns(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger.export(path)
    with sqlite3.connect(path) as file:
        columns = [name for _, name, *_ in file.execute("pragma table_info(events)")]
        rows = file.execute("select * from events order by id").fetchall()
    assert columns == ["id", "feature", "event_type", "workflow", "phase", "payload", "timestamp"]
    for (id_, feature, kind, _, _, payload, timestamp), recorded in zip(rows, ledger.read(), strict=True):
        assert (id_, feature, kind) == (recorded.id, recorded.feature, recorded.event_type)
        assert json.loads(payload) == recorded.payload
        assert datetime.fromisoformat(timestamp) == recorded.timestamp
        assert timestamp.endswith("+00:00")


def test_an_export_ends_at_a_time_or_keeps_one_stream(ledger: Ledger, tmp_path: Path) -> None:
    third = ledger.read()[8].timestamp
    assert ledger.export(tmp_path / "until.jsonl", until=third) == 9
    assert verify_lines(tmp_path / "until.jsonl").events == 9
    assert ledger.export(tmp_path / "stream.jsonl", stream="s/1") == 6
    with pytest.raises(ExportRefused, match="export of one stream"):
        verify_lines(tmp_path / "stream.jsonl")


def test_a_file_is_replaced_only_by_force_and_never_half_written(
    ledger: Ledger, owner: psycopg.Connection, tmp_path: Path, run: Callable[..., Any]
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("kept")
    with pytest.raises(ExportRefused, match="exists; nothing was written"):
        ledger.export(path)
    owner.execute("revoke select on comporta.block from comporta_app")
    with pytest.raises(Exception, match="permission denied"):
        ledger.export(path, force=True)
    assert [found.name for found in tmp_path.iterdir()] == ["ledger.jsonl"]
    assert path.read_text() == "kept"
    owner.execute("grant select on comporta.block to comporta_app")
    assert "14 events" in run("export", str(path), "--force").output
    assert run("verify", "--export", str(path)).exit_code == 0
    assert run("export", str(tmp_path / "ledger.csv")).exit_code == 1


# --- replay ----------------------------------------------------------------------------------------------------------


def test_every_projection_rebuilt_for_the_last_event_is_the_live_one(dsn: str, ledger: Ledger) -> None:
    with open_desk(dsn) as desk:
        desk.book.open("rollout/1", request(), actor="task")
    with BreakerBook(dsn) as breakers, psycopg.connect(dsn, autocommit=True) as conn:
        assert breakers.become_sampler(health_desk.RELEASE, health_desk.TARGET, "one", health_desk.PLAN)
        health_desk.HealthDesk(breakers, conn, dsn).open()
        breakers.hold(health_desk.RELEASE, "all", actor="ana", reason="the disk smells")
    for projection in PROJECTIONS:
        assert ledger.as_of(projection, 2**62), projection.name
        assert ledger.differences(projection) == [], projection.name


def test_replay_shows_where_every_stream_stood_at_a_time(ledger: Ledger, run: Callable[..., Any]) -> None:
    moment = ledger.read()[5].timestamp
    said = json.loads(run("replay", "--at", moment.isoformat(), "--json", "--projection", "streams").output)
    assert said["upto"] == 6
    assert {row["stream"]: row["id"] for row in said["projections"]["streams"]} == {"s/0": 3, "s/1": 6}
    before = json.loads(run("replay", "--at", "2000-01-01", "--json").output)
    assert all(rows == [] for rows in before["projections"].values())
    time.sleep(0.001)
    assert "change_measured" in run("replay", "--at", datetime.now(UTC).isoformat()).output


def test_a_row_that_differs_from_what_the_events_add_up_to_is_named(
    dsn: str, owner: psycopg.Connection, ledger: Ledger, run: Callable[..., Any]
) -> None:
    with open_desk(dsn) as desk:
        gates = [desk.book.open(f"rollout/{n}", request(), actor="task").gate for n in range(3)]
    assert run("replay", "--check").exit_code == 0
    owner.execute("update comporta.gate set state = 'go' where gate = %s", (gates[0],))
    owner.execute("delete from comporta.gate where gate = %s", (gates[1],))
    found = run("replay", "--check")
    assert found.exit_code == 1
    assert f"gates: {gates[0]}: state is 'go', expected 'withdrawn'" in found.output
    assert f"gates: {gates[1]} is missing" in found.output


def test_replay_wants_a_time_or_a_check_and_a_projection_that_exists(dsn: str, run: Callable[..., Any]) -> None:
    for words in (("replay",), ("replay", "--at", "yesterday"), ("replay", "--check", "--projection", "x")):
        assert run(*words).exit_code == 2
