"""What runs on a server ends when somebody asks for it, and nothing further begins."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.postgres.stopping import Stopped, StopSwitch

NAME = "comporta/stopping"
LONG = "create table before (a int);\nselect pg_sleep(600);\ncreate table after (a int);"


@pytest.fixture
def conn(control: str) -> Iterator[Connection]:
    with connect(control, name=NAME) as opened:
        yield opened


@pytest.fixture
def watch(control: str) -> Iterator[Connection]:
    with connect(control, name="watch") as opened:
        yield opened


def script(text: str) -> Script:
    return Script.parse(text.encode(), Path("trial.sql"))


def wait_for_backend(watch: Connection, condition: str, *, number: int = 1) -> None:
    """Until ``number`` sessions of the runner are as described; the server waits, not this process."""
    query = f"select count(*) from pg_stat_activity where application_name = '{NAME}' and {condition}"
    for _ in range(2_000):
        if watch.execute(query.encode()).fetchone() == (number,):
            return
        watch.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never {number} sessions where {condition}")


def tables(conn: Connection) -> list[str]:
    return [name for (name,) in conn.execute("select tablename from pg_tables where schemaname = 'public'")]


RUNNER = """
import signal, sys
from pathlib import Path
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.postgres.stopping import Stopped, StopSwitch

switch = StopSwitch()
signal.signal(signal.SIGTERM, lambda *_: switch.stop())
try:
    with connect(sys.argv[1], name=sys.argv[2]) as conn, switch.watch(conn):
        run_script(conn, Script.parse(sys.argv[3].encode(), Path("trial.sql")))
except Stopped as stopped:
    print(stopped)
"""


def test_a_statement_is_ended_from_a_signal_handler_and_none_follows(control: str, watch: Connection) -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, control, NAME, LONG], stdout=subprocess.PIPE, text=True)
    wait_for_backend(watch, "wait_event = 'PgSleep'")
    runner.send_signal(signal.SIGTERM)
    said, _ = runner.communicate()
    assert "stopped because it was asked to: trial.sql:2: statement 2 of 3 failed (select pg_sleep(600))" in said
    wait_for_backend(watch, "true", number=0)
    assert tables(watch) == ["before"]


def test_a_stop_that_comes_a_moment_before_the_statement_ends_it_all_the_same(conn: Connection) -> None:
    """What was asked for last is not lost between two statements: it is asked for again until the block is left."""
    switch = StopSwitch()
    long = script("select pg_sleep(600);")
    with pytest.raises(Stopped), switch.watch(conn):
        run_script(conn, long, lambda _: switch.stop())


def test_a_stop_between_two_statements_lets_the_next_one_not_begin(conn: Connection, watch: Connection) -> None:
    switch = StopSwitch()
    with pytest.raises(Stopped, match="not begun"), switch.watch(conn):
        run_script(
            conn, script(LONG), lambda progress: progress.statement.number == 2 and (switch.stop(), switch.check())
        )
    assert tables(watch) == ["before"]
    assert conn.closed, "a cancel that comes late would hit the next statement"


def test_no_session_is_worked_on_after_a_stop(conn: Connection) -> None:
    switch = StopSwitch()
    switch.stop()
    with pytest.raises(Stopped), switch.watch(conn):
        raise AssertionError("the block was entered")


def test_a_session_that_was_left_is_left_alone(conn: Connection) -> None:
    switch = StopSwitch()
    with switch.watch(conn):
        pass
    switch.stop()
    assert switch.stopped
    assert conn.execute("select pg_sleep(0.5)").fetchone() is not None  # longer than between two tries to end something


def test_a_failure_without_a_stop_is_what_it_was(conn: Connection) -> None:
    with pytest.raises(StatementFailed, match="22012"), StopSwitch().watch(conn):
        run_script(conn, script("select 1/0;"))


def test_a_block_that_is_left_while_a_statement_runs_ends_it(control: str, watch: Connection) -> None:
    """As when the time of a whole task runs out: Airflow raises out of whatever the task does."""

    class OutOfTime(BaseException):
        """What psycopg does not know, and so does not cancel for."""

    def raise_it(*_: object) -> None:
        raise OutOfTime

    def sleep() -> None:
        with connect(control, name=NAME) as conn, StopSwitch().watch(conn):
            conn.execute("select pg_sleep(600)")

    def interrupt() -> None:
        wait_for_backend(watch, "wait_event = 'PgSleep'")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    former = signal.signal(signal.SIGALRM, raise_it)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(OutOfTime):
            sleep()
    signal.signal(signal.SIGALRM, former)
    wait_for_backend(watch, "true", number=0)


def test_a_server_that_is_gone_does_not_make_a_stop_fail(conn: Connection, watch: Connection) -> None:
    switch = StopSwitch()

    def end(_: object) -> None:
        watch.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        switch.stop()

    with pytest.raises(Stopped), switch.watch(conn):
        run_script(conn, script("select 1;"), end)
