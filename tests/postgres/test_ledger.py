"""The ledger on a real server: order, concurrency, idempotency, append-only, the chain, its migrations and commands."""

from __future__ import annotations

import hashlib
import json
import multiprocessing as mp
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from comporta.ledger import (
    Event,
    GuardedStream,
    IdempotencyConflict,
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerNotInstalled,
    MigrationRefused,
    NewEvent,
    VersionConflict,
    fold,
    migrate,
    migrations_folder,
    project,
    verify,
)
from comporta.ledger.commands import app
from comporta.ledger.verification import encode
from comporta.local.cluster import find_programs


def event(number: int = 0, *, key: str | None = None, event_type: str = "change_measured", **fields: Any) -> NewEvent:
    values: dict[str, Any] = {"feature": "release", "actor": "task", "workflow": "stage2", "phase": "OPT1"}
    return NewEvent(
        event_type=event_type, payload={"number": number, "note": "ação"}, idempotency_key=key, **{**values, **fields}
    )


@pytest.fixture
def dsn(control: str) -> str:
    """Conninfo of a control database with an empty ledger."""
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn)
    return control


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    with Ledger(dsn) as opened:
        yield opened


@pytest.fixture
def owner(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection of the owner of the ledger's tables, who is a superuser here."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


# --- order -----------------------------------------------------------------------------------------------------------


def write(dsn: str, writer: int, calls: int, results: Any) -> None:
    """Append in mixed batch sizes to a shared and an own stream; repeat a third of the calls as after a lost answer."""
    chance = random.Random(writer)  # noqa: S311 - a repeatable choice, not a secret
    given: list[int] = []
    with Ledger(dsn, lock_timeout_ms=60_000) as ledger:
        for call in range(calls):
            batch = [event(i, key=f"{writer}/{call}/{i}") for i in range(chance.choice((1, 1, 2, 7, 40)))]
            stream = chance.choice(("shared", f"own/{writer}"))
            ids = ledger.append(stream, batch)
            if chance.random() < 0.3:
                assert ledger.append(stream, batch) == ids
            given.extend(ids)
    results.put(given)


def test_eight_writers_leave_no_gap_and_no_duplicate_and_a_tailing_reader_misses_nothing(dsn: str) -> None:
    context = mp.get_context("fork")  # before the thread below starts
    results = context.Queue()
    writers = [context.Process(target=write, args=(dsn, number, 60, results)) for number in range(8)]
    seen: list[Event] = []
    all_written = threading.Event()
    total: list[int] = []

    def done() -> bool:
        return all_written.is_set() and len(seen) >= total[0]

    def follow() -> None:
        with Ledger(dsn) as ledger:
            for found in ledger.tail(0, wake_up_timeout_s=0.2, stop=done):
                seen.append(found)  # noqa: PERF402 - done() looks at it meanwhile

    for process in writers:
        process.start()
    reader = threading.Thread(target=follow)
    reader.start()
    given = sorted(number for _ in writers for number in results.get(timeout=60))
    for process in writers:
        process.join()
    total.append(len(given))
    all_written.set()
    reader.join(timeout=30)

    assert not reader.is_alive()
    assert given == list(range(1, len(given) + 1))
    assert [found.id for found in seen] == given
    keys = [found.idempotency_key for found in seen]
    assert len(set(keys)) == len(keys)
    for stream in {found.stream for found in seen}:
        versions = [found.version for found in seen if found.stream == stream]
        assert versions == list(range(1, len(versions) + 1))
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert verify(conn).ok


def test_an_append_that_is_rolled_back_leaves_no_gap(dsn: str, ledger: Ledger) -> None:
    ledger.append("s", [event(1)])
    with psycopg.connect(dsn) as conn:
        assert Ledger(conn).append("s", [event(2)]) == (2,)
        conn.rollback()
    assert ledger.append("s", [event(3)]) == (2,)


def test_a_reader_never_sees_an_id_before_a_lower_one(dsn: str, ledger: Ledger) -> None:
    with psycopg.connect(dsn) as conn:
        Ledger(conn).append("first", [event(1)])
        with Ledger(dsn, lock_timeout_ms=50) as second, pytest.raises(LedgerBusy, match="lock budget"):
            second.append("second", [event(2)])
        assert ledger.read() == []
    assert [found.stream for found in ledger.read()] == ["first"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_appending_under_an_older_snapshot_is_refused(owner: psycopg.Connection, level: str) -> None:
    owner.execute(f"set default_transaction_isolation = '{level}'".encode())
    with pytest.raises(LedgerError, match=f"READ COMMITTED only; this transaction is {level.upper()}"):
        Ledger(owner).append("s", [event()])


def test_tail_hands_over_what_was_there_and_what_comes_then_stops(dsn: str, ledger: Ledger) -> None:
    ledger.append("s", [event(number) for number in range(5)])
    seen: list[int] = []
    follower = Ledger(dsn)
    for found in follower.tail(2, wake_up_timeout_s=0.2, stop=lambda: len(seen) == 5):
        seen.append(found.id)
        if found.id == 5:
            ledger.append("s", [event(6), event(7)])
    follower.close()
    assert seen == [3, 4, 5, 6, 7]


# --- concurrency and idempotency -------------------------------------------------------------------------------------


def test_a_wrong_expected_version_names_expected_and_found(ledger: Ledger) -> None:
    ledger.append("s", [event(1), event(2)], expected_version=0)
    with pytest.raises(VersionConflict, match='stream "s" is at version 2, expected 1') as refused:
        ledger.append("s", [event(3)], expected_version=1)
    assert (refused.value.expected, refused.value.found) == (1, 2)
    assert ledger.append("s", [event(3)], expected_version=2) == (3,)


def test_the_same_key_with_the_same_content_gives_the_first_id_even_if_the_stream_went_on(ledger: Ledger) -> None:
    first = ledger.append("s", [event(1, key="a")], expected_version=0)
    ledger.append("s", [event(2)])
    assert ledger.append("s", [event(1, key="a")], expected_version=0) == first
    assert len(ledger.read()) == 2


def test_a_batch_that_is_partly_known_adds_the_rest_and_keeps_the_order_of_ids(ledger: Ledger) -> None:
    ledger.append("s", [event(1, key="a"), event(2, key="b")])
    assert ledger.append("s", [event(3), event(2, key="b"), event(4, key="d"), event(1, key="a")]) == (3, 2, 4, 1)


@pytest.mark.parametrize(
    ("stream", "changed", "differs"),
    [
        ("s", event(2, key="a"), "payload"),
        ("s", event(1, key="a", actor="other"), "actor"),
        ("s", event(1, key="a", phase=None), "phase"),
        ("s", event(1, key="a", workflow="stage3"), "workflow"),
        ("s", event(1, key="a", feature="other"), "feature"),
        ("s", event(1, key="a", event_type="clone_made"), "event_type"),
        ("t", event(1, key="a"), "stream"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_same_key_with_other_content_is_refused_by_name(
    ledger: Ledger, stream: str, changed: NewEvent, differs: str
) -> None:
    ledger.append("s", [event(1, key="a")])
    with pytest.raises(IdempotencyConflict, match=f'"a" already names event 1, which differs in: {differs};'):
        ledger.append(stream, [event(9), changed])
    assert len(ledger.read()) == 1


def test_a_key_that_occurs_twice_in_one_call_is_refused(ledger: Ledger) -> None:
    with pytest.raises(IdempotencyConflict, match=r'key "a/1" occurs twice in one call'):
        ledger.append("s", [event(1, key="a/1"), event(1, key="a/1")])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"when": object()}, "is not JSON"),
        ({"n": float("nan")}, "is not JSON"),
        ({"text": "\0"}, "the ledger refused"),
        ([1, 2], "the ledger refused"),
    ],
    ids=["object", "not-a-number", "nul-character", "list"],
)
def test_a_payload_that_cannot_be_kept_is_refused_and_nothing_is_written(
    ledger: Ledger, payload: Any, message: str
) -> None:
    with pytest.raises(LedgerError, match=message):
        ledger.append("s", [event(), NewEvent(event_type="clone_made", feature="f", actor="a", payload=payload)])
    assert ledger.read() == []


def test_an_append_without_events_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="without events"):
        ledger.append("s", [])


@pytest.mark.parametrize("name", ["gate/", "gate/rollout/1"])
def test_a_stream_of_a_gate_is_refused_and_the_way_out_named(ledger: Ledger, name: str) -> None:
    with pytest.raises(GuardedStream, match=f'stream "{name}" belongs to a gate') as refused:
        ledger.append(name, [event()])
    assert "functions of the gates" in str(refused.value)
    assert ledger.append("gates/1", [event()]) == (1,)


def test_the_application_role_cannot_call_what_writes_any_stream(owner: psycopg.Connection) -> None:
    owner.execute("set role comporta_app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function record"):
        owner.execute("select comporta.record('gate/1', 0, '[]')")


def test_a_function_that_guards_a_stream_writes_it_into_the_same_chain(
    owner: psycopg.Connection, ledger: Ledger
) -> None:
    owner.execute(
        """create function comporta.vote() returns bigint[] language sql security definer
           set search_path = pg_catalog, pg_temp
           return comporta.record('gate/1', 0, '[{"event_type": "voted", "feature": "f", "actor": "a"}]')"""
    )
    owner.execute("grant execute on function comporta.vote() to comporta_app")
    ledger.append("s", [event()])
    owner.execute("set role comporta_app")
    assert owner.execute("select comporta.vote()").fetchone() == ([2],)
    owner.execute("reset role")
    assert verify(owner).ok


def test_what_calls_the_writer_without_a_safe_search_path_is_refused(owner: psycopg.Connection) -> None:
    with pytest.raises(psycopg.DatabaseError, match="called with search_path"):
        owner.execute("select comporta.record('s', 0, '[]')")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"event_type": "x", "actor": ""', 'event 1 of the append to stream "s" has no actor'),
        ('"actor": "x"', "has no event_type"),
        ('"event_type": "x", "actor": "a", "payload": [1]', "has a payload that is not an object"),
        (None, "is not an object"),
    ],
    ids=["actor", "event-type", "payload", "no-object"],
)
def test_an_event_that_lacks_something_is_refused_by_its_number(
    owner: psycopg.Connection, ledger: Ledger, count: int, fields: str | None, message: str
) -> None:
    ledger.append("s", [event()])
    one = "5" if fields is None else f'{{"feature": "f", {fields}}}'
    with pytest.raises(psycopg.DatabaseError, match=message):
        owner.execute("select comporta.append('s', null, %s)", (f"[{', '.join([one] * count)}]",))
    with pytest.raises(psycopg.DatabaseError, match="has no stream"):
        owner.execute("select comporta.append('', null, %s)", ('[{"event_type": "x", "actor": "a"}]',))
    assert len(ledger.read()) == 1


def test_events_are_timed_by_the_clock_of_the_ledger_which_a_test_may_replace(
    owner: psycopg.Connection, ledger: Ledger
) -> None:
    ledger.append("s", [event()])
    owner.execute(
        "create or replace function comporta.now() returns timestamptz language sql as "
        "$$select timestamptz '2029-01-01 12:00+00'$$"
    )
    ledger.append("s", [event()])
    assert [found.timestamp.year == 2029 for found in ledger.read()] == [False, True]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_an_event_comes_back_as_it_was_appended(ledger: Ledger) -> None:
    ledger.append("dry_run/1", [event(7, key="k", event_type="clone_made")])
    (found,) = ledger.read("dry_run/1")
    assert (found.id, found.stream, found.version, found.feature) == (1, "dry_run/1", 1, "release")
    assert (found.event_type, found.workflow, found.phase, found.actor) == ("clone_made", "stage2", "OPT1", "task")
    assert found.payload == {"number": 7, "note": "ação"}
    assert found.idempotency_key == "k"
    assert found.timestamp.tzinfo is not None


def test_reading_is_by_stream_type_position_and_limit(ledger: Ledger) -> None:
    ledger.append("a", [event(1), event(2, event_type="clone_made"), event(3)])
    ledger.append("b", [event(4), event(5, event_type="clone_made")])
    assert [e.id for e in ledger.read("b")] == [4, 5]
    assert [e.id for e in ledger.read("a", after=1)] == [2, 3]
    assert [e.id for e in ledger.read(after=1, limit=2)] == [2, 3]
    assert [e.id for e in ledger.read(event_type="clone_made")] == [2, 5]
    assert [e.id for e in ledger.latest(2)] == [4, 5]
    assert [e.id for e in ledger.latest(2, stream="a")] == [2, 3]


def test_the_state_in_sql_equals_the_fold_in_python(ledger: Ledger) -> None:
    chance = random.Random(1)  # noqa: S311 - a repeatable choice, not a secret
    for number in range(60):
        ledger.append(f"dry_run/{chance.randrange(5)}", [event(number), event(number, event_type="clone_made")])
    folded = fold(ledger.read(), {}, project)
    assert {state.stream: state for state in ledger.current_state("dry_run/")} == folded


# --- append-only -----------------------------------------------------------------------------------------------------

FORBIDDEN = [
    "update comporta.event set actor = 'x'",
    "delete from comporta.event",
    "truncate comporta.event",
    "update comporta.block set hash = prev_hash",
    "delete from comporta.block",
    "truncate comporta.block",
]


def test_the_application_role_has_no_right_to_change_the_ledger(owner: psycopg.Connection, ledger: Ledger) -> None:
    ledger.append("s", [event()])
    owner.execute("set role comporta_app")
    for statement in [*FORBIDDEN, "insert into comporta.block values (2, 2, 2, '', '', '')"]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(statement.encode())


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_a_trigger_refuses_the_owner_too_even_as_a_replica(
    owner: psycopg.Connection, ledger: Ledger, role: str
) -> None:
    ledger.append("s", [event()])
    owner.execute(f"set session_replication_role = {role}".encode())
    for statement in FORBIDDEN:
        with pytest.raises(psycopg.Error, match="the ledger is append-only"):
            owner.execute(statement.encode())


# --- the chain -------------------------------------------------------------------------------------------------------


def filled(ledger: Ledger) -> None:
    """Blocks 1..6 with events 1..18: block n holds 3n-2..3n."""
    for block in range(6):
        ledger.append(f"s/{block % 2}", [event(block * 3 + i, key=f"{block}/{i}") for i in range(3)])


def tamper(owner: psycopg.Connection, *statements: str) -> None:
    for table in ("event", "block"):
        owner.execute(f"alter table comporta.{table} disable trigger all".encode())
    for statement in statements:
        owner.execute(statement.encode())


def test_an_empty_ledger_holds(owner: psycopg.Connection) -> None:
    found = verify(owner)
    assert (found.ok, found.events, found.blocks, found.head) == (True, 0, 0, None)


def test_an_untouched_ledger_holds_and_gives_its_head(owner: psycopg.Connection, ledger: Ledger) -> None:
    filled(ledger)
    progress: list[tuple[int, int]] = []
    found = verify(owner, progress=lambda done, total: progress.append((done, total)))
    assert (found.ok, found.events, found.blocks) == (True, 18, 6)
    assert found.head == ledger.head()
    assert progress[-1] == (18, 18)


def test_what_python_recomputes_is_what_the_server_hashed_for_every_kind_of_value(
    owner: psycopg.Connection, ledger: Ledger
) -> None:
    payload = {
        "π": [1, 2.50, -1e30, 12345678901234567890, None, True],
        "nested": {"": "\n\t\\\"'"},
        "big": "x" * 200_000,
    }
    ledger.append(
        "ação/日本",
        [
            NewEvent(event_type="clone_made", feature="", actor="ã", workflow="", phase=None, payload=payload),
            NewEvent(event_type="clone_made", feature="f", actor="a", idempotency_key="k" * 300),
        ],
    )
    assert verify(owner).ok
    columns = 'id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key'
    with (
        owner.cursor() as cursor,
        cursor.copy(
            f"copy (select {columns} from comporta.event order by id) to stdout (format binary)".encode()
        ) as copy,
    ):
        copy.set_types(["bytea"] * 11)
        leaves = b"".join(hashlib.sha256(encode(row)).digest() for row in copy.rows())  # type: ignore[arg-type]
    assert owner.execute("select leaves from comporta.block").fetchone() == (leaves,)


EDITS = {
    "feature": "feature = 'other'",
    "event_type": "event_type = 'change_failed'",
    "workflow": "workflow = 'stage3'",
    "workflow to null": "workflow = null",
    "phase": "phase = 'OPT2'",
    "payload": "payload = payload || '{\"number\": 99}'",
    "actor": "actor = 'somebody'",
    "timestamp by 1 us": '"timestamp" = "timestamp" + interval \'1 microsecond\'',
    "key": "idempotency_key = 'other'",
    "stream": "stream = 'other', version = 1",
    "characters shifted between fields": "workflow = 'stage2O', phase = 'PT1'",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edited_event_is_named_with_its_block(owner: psycopg.Connection, ledger: Ledger, edit: str) -> None:
    filled(ledger)
    tamper(owner, f"update comporta.event set {edit} where id = 8")
    found = verify(owner)
    assert (found.ok, found.first_bad_block, found.first_bad_event) == (False, 3, 8)
    assert "event 8 of block 3" in found.what


TAMPERED = {
    "event deleted": (["delete from comporta.event where id = 8"], 3, 8),
    "event deleted, the rest renumbered": (
        [
            "delete from comporta.event where id = 8",
            "update comporta.event set id = -id where id > 8",
            "update comporta.event set id = -id - 1 where id < 0",
        ],
        3,
        8,
    ),
    "event inserted in the middle": (
        [
            "update comporta.event set id = -id where id > 8",
            "update comporta.event set id = -id + 1 where id < 0",
            "insert into comporta.event select 9, 'x', 1, feature, event_type, workflow, phase, payload, actor, "
            '"timestamp", null from comporta.event where id = 8',
        ],
        3,
        9,
    ),
    "two events swapped": (
        [
            "update comporta.event set id = -id where id in (7, 8)",
            "update comporta.event set id = 15 + id where id < 0",
        ],
        3,
        7,
    ),
    "event behind the last block": (
        [
            "insert into comporta.event select 19, 'x', 1, feature, event_type, workflow, phase, payload, actor, "
            '"timestamp", null from comporta.event where id = 18'
        ],
        None,
        19,
    ),
    "last event cut": (["delete from comporta.event where id = 18"], 6, 18),
    "all events cut": (["truncate comporta.event"], 1, 1),
    "block deleted": (["delete from comporta.block where n = 3"], 3, None),
    "two blocks swapped": (
        ["update comporta.block set n = -n where n in (3, 4)", "update comporta.block set n = 7 + n where n < 0"],
        3,
        None,
    ),
    "hash of a block": (["update comporta.block set hash = sha256(hash) where n = 3"], 3, None),
    "event edited and its digest with it": (
        [
            "update comporta.event set actor = 'somebody' where id = 8",
            "update comporta.block b set leaves = substr(leaves, 1, 32) || (select sha256(record_send(row(id, stream, "
            'version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key))) '
            "from comporta.event where id = 8) || substr(leaves, 65) where n = 3",
        ],
        3,
        None,
    ),
}


@pytest.mark.parametrize(("statements", "block", "event_id"), TAMPERED.values(), ids=TAMPERED.keys())
def test_tampering_is_found_where_it_happened(
    owner: psycopg.Connection, ledger: Ledger, statements: list[str], block: int | None, event_id: int | None
) -> None:
    filled(ledger)
    tamper(owner, "alter table comporta.event drop constraint event_stream_version", *statements)
    found = verify(owner)
    assert (found.ok, found.first_bad_block, found.first_bad_event) == (False, block, event_id)
    assert found.what


def test_a_session_in_another_encoding_verifies_but_cannot_append(dsn: str, ledger: Ledger) -> None:
    filled(ledger)
    with psycopg.connect(dsn, client_encoding="LATIN1", autocommit=True) as conn:
        assert verify(conn).ok
        with pytest.raises(LedgerError, match="client_encoding UTF8 only; this session has LATIN1"):
            Ledger(conn).append("s", [event()])


# --- migrations ------------------------------------------------------------------------------------------------------


def dumped(dsn: str) -> str:
    """The definition of the schema comporta, without what differs between two runs of pg_dump."""
    programs = find_programs()
    where = conninfo_to_dict(dsn)
    password = {"PGPASSWORD": str(where.pop("password"))} if "password" in where else {}
    address = f"--dbname={make_conninfo('', **where)}"
    found = subprocess.run(
        [programs / "pg_dump", "--schema-only", "--schema=comporta", "--no-owner", address],
        env=password,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "\n".join(line for line in found.splitlines() if line and not re.match(r"--|\\(un)?restrict|SET ", line))


def test_all_migrations_add_up_to_the_current_schema(dsn: str, owner: psycopg.Connection) -> None:
    """``sql/control/schema.sql`` is the ledger to read; the migrations are how a database gets there."""
    migrated = dumped(dsn)
    owner.execute("drop schema comporta cascade")
    later = [path for path in sorted(migrations_folder().glob("[0-9]*.sql")) if path.name > "0003_guarded_streams.sql"]
    for path in (migrations_folder() / "schema.sql", *later):
        owner.execute(path.read_bytes())
    assert dumped(dsn) == migrated


def test_a_ledger_that_was_begun_before_the_gates_goes_on(control: str, tmp_path: Path) -> None:
    """What was recorded under the first two migrations still verifies when the others came, and more follows it."""
    for name in ("0001_ledger.sql", "0002_current_state.sql"):
        (tmp_path / name).write_bytes((migrations_folder() / name).read_bytes())
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn, tmp_path)
        with Ledger(control) as ledger:
            ledger.append("dry_run/1", [event(number) for number in range(3)])
        assert migrate(conn)[0] == "0003_guarded_streams.sql"
        with Ledger(control) as ledger:
            ledger.append("dry_run/1", [event(3)], expected_version=3)
        found = verify(conn)
    assert (found.ok, found.events, found.blocks) == (True, 4, 2)


def test_migrating_again_does_nothing(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert migrate(conn) == ()


def test_of_several_runners_at_once_one_applies(control: str) -> None:
    applied: list[tuple[str, ...]] = []

    def run() -> None:
        with psycopg.connect(control, autocommit=True) as conn:
            applied.append(migrate(conn))

    runners = [threading.Thread(target=run) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(timeout=60)
    assert sorted(len(names) for names in applied)[:3] == [0, 0, 0]
    assert max(applied)[0] == "0001_ledger.sql"


@pytest.fixture
def own_migrations(tmp_path: Path) -> Path:
    for number, table in ((1, "one"), (3, "three")):
        text = f"create table comporta.{table} (id int);\n"
        if number == 1:
            text = (migrations_folder() / "0001_ledger.sql").read_text() + text
        (tmp_path / f"000{number}_{table}.sql").write_text(text)
    return tmp_path


def change(folder: Path) -> None:
    (folder / "0003_three.sql").write_text("select 1;\n")


def remove(folder: Path) -> None:
    (folder / "0003_three.sql").unlink()


def squeeze_in(folder: Path) -> None:
    (folder / "0002_two.sql").write_text("select 1;\n")


@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (change, "0003_three.sql changed after it was applied: expected sha256 .*, found "),
        (remove, "0003_three.sql is applied in the database but is not in"),
        (squeeze_in, "0002_two.sql comes before 0003_three.sql"),
    ],
)
def test_a_contradicting_migration_is_refused_by_name(
    control: str, own_migrations: Path, meddle: Callable[[Path], None], message: str
) -> None:
    with psycopg.connect(control, autocommit=True) as conn:
        assert migrate(conn, own_migrations) == ("0001_one.sql", "0003_three.sql")
        meddle(own_migrations)
        (own_migrations / "0009_nine.sql").write_text("create table comporta.nine (id int);\n")
        with pytest.raises(MigrationRefused, match=message):
            migrate(conn, own_migrations)
        assert conn.execute("select to_regclass('comporta.nine')").fetchone() == (None,)


def test_a_migration_that_fails_leaves_nothing_of_any(control: str, own_migrations: Path) -> None:
    (own_migrations / "0004_four.sql").write_text("create table comporta.four (id int); select 1/0;\n")
    with psycopg.connect(control, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(conn, own_migrations)
        assert conn.execute("select to_regnamespace('comporta')").fetchone() == (None,)


def test_a_database_without_a_ledger_says_what_to_do(control: str) -> None:
    with pytest.raises(LedgerNotInstalled, match=r"has no ledger.*\n.*sql/control"), Ledger(control) as ledger:
        ledger.read()


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", dsn)
    monkeypatch.setenv("COMPORTA_ANCHORS", str(tmp_path / "ledger.jsonl"))  # not those of a system that runs beside
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, words)


def test_list_shows_events_as_a_table_and_as_json_lines(ledger: Ledger, run: Callable[..., Any]) -> None:
    filled(ledger)
    assert "change_measured" in run("list").output
    lines = run("list", "--json", "--stream", "s/1", "--after", "4", "--limit", "2").output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [5, 6]
    assert run("list", "--type", "clone_made").output.strip() == "No such event."


def test_verify_exits_with_1_and_names_block_and_event_when_the_chain_is_broken(
    owner: psycopg.Connection, ledger: Ledger, run: Callable[..., Any]
) -> None:
    filled(ledger)
    good = run("verify")
    assert (good.exit_code, "18 events in 6 blocks" in good.output) == (0, True)
    tamper(owner, "update comporta.event set actor = 'x' where id = 8")
    bad = run("verify")
    assert (bad.exit_code, "event 8 of block 3" in bad.output) == (1, True)
    verdict = json.loads(run("verify", "--json").stdout)
    assert (verdict["ok"], verdict["first_bad_block"], verdict["first_bad_event"]) == (False, 3, 8)
