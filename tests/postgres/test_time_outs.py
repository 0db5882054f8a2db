"""Scripts under time-outs: what they limit, what they leave alone, and what is worth a second try."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import ScriptProgress, TimeOuts, is_transient, run_script
from comporta.postgres.script import Script

NAME = "comporta/time-outs"
SHORT = TimeOuts(lock_ms=20, statement_ms=0, index_s=600)


@pytest.fixture
def conn(control: str) -> Iterator[Connection]:
    with connect(control, name=NAME) as opened:
        yield opened


@pytest.fixture
def other(control: str) -> Iterator[Connection]:
    with connect(control, name="somebody else") as opened:
        opened.execute("create table busy (a int)")
        yield opened


@pytest.fixture
def watch(control: str) -> Iterator[Connection]:
    """A session outside every transaction: one inside would see the activity of when it began."""
    with connect(control, name="watch") as opened:
        yield opened


def script(text: str) -> Script:
    return Script.parse(text.encode(), Path("sql/apply/trial.sql"))


def failure(conn: Connection, text: str, timeouts: TimeOuts | None = SHORT) -> StatementFailed:
    with pytest.raises(StatementFailed) as caught:
        run_script(conn, script(text), timeouts=timeouts)
    return caught.value


def time_outs(conn: Connection) -> list[str]:
    """lock_timeout and statement_timeout of the session, as the server writes them."""
    found = conn.execute("select current_setting('lock_timeout'), current_setting('statement_timeout')").fetchone()
    assert found is not None
    return list(found)


def seen_by(conn: Connection, text: str, timeouts: TimeOuts | None = SHORT) -> list[str]:
    """What lock_timeout and statement_timeout are in each DO block of a script."""
    look = "do $$ begin raise notice '%', current_setting('lock_timeout') || ' ' || current_setting('statement_timeout'); end $$"
    notices: list[str] = []

    def keep(progress: ScriptProgress) -> None:
        if progress.notice and "SET LOCAL" not in progress.notice:
            notices.append(progress.notice)

    run_script(conn, script(text.replace("LOOK", look)), keep, timeouts=timeouts)
    return notices


@contextmanager
def in_transaction(conn: Connection, statement: str) -> Iterator[None]:
    """Hold what a statement takes until the block ends."""
    with conn.transaction(force_rollback=True):
        conn.execute(statement)
        yield


def wait_until(conn: Connection, query: str, parameters: object = ()) -> None:
    """Until ``query`` gives a row; the server waits, not this process."""
    for _ in range(2_000):
        if conn.execute(query, parameters).fetchone() is not None:  # type: ignore[arg-type]
            return
        conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never came true: {query}")


def test_a_lock_that_is_not_had_in_time_is_worth_another_try(conn: Connection, other: Connection) -> None:
    with in_transaction(other, "lock table busy"):
        error = failure(conn, "select 1;\nalter table busy add b int;\nselect 2;")
    assert (error.sqlstate, error.statement, error.transient) == ("55P03", 2, True)
    run_script(conn, script("alter table busy add b int;"), timeouts=SHORT)


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("select nothing_of_this_name", "42703"),
        ("select 1/0", "22012"),
        ("do $$ begin raise 'OPT3 is not in place'; end $$", "P0001"),
        ("do $$ begin execute 'selct 1'; end $$", "42601"),
    ],
    ids=["unknown column", "division by zero", "failed verify", "syntax error at run time"],
)
def test_what_would_fail_again_is_not_worth_another_try(conn: Connection, text: str, sqlstate: str) -> None:
    error = failure(conn, f"select 1;\n{text};")
    assert (error.sqlstate, error.statement, error.transient) == (sqlstate, 2, False)


def test_a_statement_that_takes_too_long_is_not_worth_another_try(conn: Connection) -> None:
    error = failure(conn, "select pg_sleep(600);", TimeOuts(statement_ms=20))
    assert (error.sqlstate, error.transient) == ("57014", False)


def test_a_killed_backend_is_worth_another_try(conn: Connection) -> None:
    error = failure(conn, "select 1;\nselect pg_terminate_backend(pg_backend_pid());\nselect 2;")
    assert (error.sqlstate, error.statement, error.transient) == ("57P01", 2, True)


def test_a_connection_that_breaks_without_a_word_is_worth_another_try(conn: Connection) -> None:
    def cut(progress: ScriptProgress) -> None:
        if progress.statement.number == 2:
            with socket.socket(fileno=os.dup(conn.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    with pytest.raises(StatementFailed) as caught:
        run_script(conn, script("select 1;\nselect 2;"), cut, timeouts=SHORT)
    assert (caught.value.sqlstate, caught.value.statement, caught.value.transient) == (None, 2, True)


@pytest.mark.parametrize("sqlstate", ["08006", "53300", "57P02", "57P03", "40001", "40P01"])
def test_a_server_that_is_busy_or_away_is_worth_another_try(sqlstate: str) -> None:
    assert is_transient(psycopg.errors.lookup(sqlstate)())


def test_an_error_of_ours_is_not_worth_another_try() -> None:
    assert not is_transient(psycopg.InterfaceError("the connection is closed"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("create index concurrently busy_a on busy (a);", [(True,)]),
        ("create index busy_a on busy (a);\nreindex index concurrently busy_a;", [(True,)]),
        ("create index busy_a on busy (a);\ndrop index concurrently busy_a;", []),
        (
            "set lock_timeout = '20ms'; -- as many scripts open\ncreate index concurrently busy_a on busy (a);",
            [(True,)],
        ),
    ],
    ids=["create", "reindex", "drop", "create in a script that sets a short one"],
)
def test_an_index_made_concurrently_waits_out_old_transactions(
    conn: Connection, other: Connection, watch: Connection, text: str, left: list[tuple[bool]]
) -> None:
    """Under the short lock_timeout it would fail here and leave an invalid index."""
    *before, concurrently = script(text).statements
    for statement in before:
        conn.execute(statement.sql.encode())
    with ThreadPoolExecutor(1) as pool:
        with in_transaction(other, "insert into busy values (1)"):
            run = pool.submit(
                run_script, conn, script(text if text.startswith("set") else concurrently.sql), timeouts=SHORT
            )
            wait_until(
                watch,
                "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock' and query ilike '%%concurrently%%'"
                " and clock_timestamp() - query_start > interval '100 ms'",
                [conn.info.backend_pid],
            )
        run.result()
    assert conn.execute("select indisvalid from pg_index where indrelid = 'busy'::regclass").fetchall() == left


def test_an_index_that_takes_longer_than_its_own_budget_is_stopped(conn: Connection, other: Connection) -> None:
    with in_transaction(other, "insert into busy values (1)"):
        error = failure(conn, "create index concurrently busy_a on busy (a);", TimeOuts(index_s=1))
    assert (error.sqlstate, error.transient) == ("57014", False)


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("create index concurrently i on t (a)", (True, False)),
        ("drop index concurrently i", (True, False)),
        ("reindex (verbose) table concurrently t", (True, False)),
        ("alter table t detach partition p concurrently", (True, False)),
        ("refresh materialized view concurrently m", (False, True)),
        ("refresh materialized view m", (False, False)),
        ("create index i on t (a)", (False, False)),
        ("drop index i", (False, False)),
        ("reindex database gis", (False, False)),
        ("alter table t detach partition p", (False, False)),
        ("vacuum t", (False, False)),
    ],
)  # fmt: skip
def test_what_works_concurrently_is_told_by_the_grammar(text: str, budgets: tuple[bool, bool]) -> None:
    (statement,) = script(text).statements
    assert (statement.concurrent, statement.refreshes_concurrently) == budgets


def test_a_refresh_made_concurrently_has_the_long_budget_and_the_short_lock_timeout(conn: Connection) -> None:
    text = (
        "create view limits as select current_setting('lock_timeout') as l, current_setting('statement_timeout') as s;\n"
        "create materialized view seen as select l, s from limits;\ncreate unique index on seen (l);\n{}"
    )
    run_script(
        conn, script(text.format("refresh materialized view concurrently seen;")), timeouts=TimeOuts(30, 50_000, 60)
    )
    assert conn.execute("select l, s from seen").fetchall() == [("30ms", "1min")]


def test_every_statement_has_the_time_outs_and_the_session_its_own_afterwards(control: str) -> None:
    with connect(control, name=NAME, lock_timeout_ms=7_000, statement_timeout_ms=8_000) as conn:
        assert seen_by(conn, "LOOK;\nselect 1;\nLOOK;", TimeOuts(30, 40_000)) == ["30ms 40s", "30ms 40s"]
        assert time_outs(conn) == ["7s", "8s"]
        failure(conn, "select 1/0;")
        assert time_outs(conn) == ["7s", "8s"]


def test_without_time_outs_those_of_the_session_count(control: str) -> None:
    with connect(control, name=NAME, lock_timeout_ms=7_000) as conn:
        assert seen_by(conn, "LOOK;", None) == ["7s 0"]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("set lock_timeout = '9s';\nLOOK;\nselect 1;\nLOOK;", ["9s 0", "9s 0"]),
        ("set lock_timeout = '9s' -- a comment\n;\nLOOK;", ["9s 0"]),
        ("set lock_timeout = '9s';\nreset lock_timeout;\nLOOK;", ["20ms 0"]),
        ("set lock_timeout = '9s';\nset lock_timeout to default;\nLOOK;", ["20ms 0"]),
        ("set lock_timeout = '9s';\nset statement_timeout = '8s';\nreset all;\nLOOK;", ["20ms 0"]),
        ("begin;\nset local lock_timeout = '9s';\nLOOK;\ncommit;\nLOOK;", ["9s 0", "20ms 0"]),
        ("set local lock_timeout = '9s';\nLOOK;", ["20ms 0"]),
        ("set lock_timeout = '9s';\nbegin;\nset local lock_timeout = '8s';\nLOOK;\nrollback;\nLOOK;", ["8s 0", "9s 0"]),
        ("set lock_timeout = '9s';\nvacuum pg_class;\ncreate table t (a int);\n"
         "create index concurrently on t (a);\nLOOK;", ["9s 0"]),
        ("begin;\nset transaction isolation level serializable;\nLOOK;\ncommit;", ["20ms 0"]),
    ],
    ids=["set", "set, with a comment", "given back", "given back as a default", "reset all", "for a transaction",
         "for no transaction", "for a transaction over its own", "its own after an index", "before the first snapshot"],
)  # fmt: skip
def test_what_a_script_sets_itself_stands_as_long_as_it_says(conn: Connection, text: str, seen: list[str]) -> None:
    assert seen_by(conn, text) == seen


RUNNER = """
import sys
from pathlib import Path
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script

with connect(sys.argv[1], name=sys.argv[2]) as conn:
    run_script(conn, Script.parse(sys.argv[3].encode(), Path("trial.sql")))
"""


@pytest.mark.parametrize(
    "text",
    ["select pg_sleep(100);", "do $$ begin perform pg_sleep(100); end $$;", "alter table busy add b int;"],
    ids=["statement", "block", "waiting for a lock"],
)
def test_the_statement_of_a_killed_runner_ends_by_itself(
    control: str, other: Connection, watch: Connection, text: str
) -> None:
    def backend(condition: str) -> str:
        return f"select from pg_stat_activity where application_name = '{NAME}' and {condition}"

    with in_transaction(other, "lock table busy"):
        runner = subprocess.Popen([sys.executable, "-c", RUNNER, control, NAME, text])
        wait_until(watch, backend("state = 'active' and wait_event is not null and query !~* '^set'"))
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        wait_until(watch, f"select where not exists ({backend('true')})")


def test_a_session_is_told_to_end_with_its_client(control: str) -> None:
    with connect(control, name=NAME) as conn, connect(control, name=NAME, client_check_ms=0) as patient:
        found = [each.execute("show client_connection_check_interval").fetchone() for each in (conn, patient)]
    assert found == [("500ms",), ("0",)]
