"""Sessions in the way of a rollback: a report that is being read, and a writer that has not committed yet.

An obstacle never waits for a lock while it holds another: it takes all of them without waiting, or lets all go and tries
again. So it can delay a script, and cannot be one half of a deadlock with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from comporta.postgres.connection import Connection, connect
from comporta.validation.faults import FaultNotPossible

TAKEN_WITHIN_S = 2.0

_READABLE = "rpvmf"
_WRITABLE = "rpv"

Take = Callable[[Connection, sql.Composable], object]


@dataclass
class Obstacle:
    """A session that holds locks on ``relations`` (``schema.name``); times in epoch seconds, ``ended`` once it let go.

    ``cut_short`` says what ended it before its time: a crash of the server, or somebody who ended the session.
    """

    pid: int
    relations: tuple[str, ...]
    started: float
    ended: float | None = None
    cut_short: str | None = None


@contextmanager
def reader(dsn: str, relations: Sequence[str], seconds: float) -> Iterator[Obstacle]:
    """A transaction that has read from every relation (``schema.name``, unquoted) and stays open for ``seconds``.

    Relations that have vanished, and materialized views without data, are left out. FaultNotPossible when its locks are
    not to be had within 2 s. Leaving the block waits for its end; an error in the block cuts it short.
    """
    with _in_the_way(dsn, relations, seconds, _READABLE, _read) as obstacle:
        yield obstacle


@contextmanager
def writer(dsn: str, relations: Sequence[str], seconds: float) -> Iterator[Obstacle]:
    """A transaction with the lock of a writer (ROW EXCLUSIVE) on every table and view among ``relations``; it changes nothing.

    A partitioned table is locked with its partitions, a view with the tables below it; the rest is as for ``reader``.
    """
    with _in_the_way(dsn, relations, seconds, _WRITABLE, _lock_as_writer) as obstacle:
        yield obstacle


def _read(conn: Connection, relation: sql.Composable) -> None:
    conn.execute(sql.SQL("select from {} limit 1").format(relation))


def _lock_as_writer(conn: Connection, relation: sql.Composable) -> None:
    conn.execute(sql.SQL("lock table {} in row exclusive mode").format(relation))


@contextmanager
def _in_the_way(dsn: str, relations: Sequence[str], seconds: float, kinds: str, take: Take) -> Iterator[Obstacle]:
    # The shortest lock_timeout that there is: NOWAIT exists for LOCK TABLE, which refuses materialized views.
    with connect(dsn, name="comporta/obstacle", lock_timeout_ms=1) as conn:
        taken = _take_all(conn, relations, kinds, take)
        if not taken:
            raise FaultNotPossible(
                f"an obstacle would be in nobody's way: nothing to lock among {', '.join(relations) or 'no relations'}",
                remedy="Name relations that exist, as schema.name.",
            )
        obstacle = Obstacle(conn.info.backend_pid, taken, time.time())
        holding = threading.Thread(target=_hold, args=(conn, obstacle, seconds), daemon=True)
        holding.start()
        try:
            yield obstacle
        except BaseException:
            while holding.is_alive():  # a cancellation that comes before the statement is forgotten
                with suppress(psycopg.Error):
                    conn.cancel()
                holding.join(0.05)
            raise
        finally:
            holding.join()


def _hold(conn: Connection, obstacle: Obstacle, seconds: float) -> None:
    try:
        conn.execute("select pg_sleep(%s)", (seconds,))
        conn.execute("commit")
    except psycopg.Error as error:
        obstacle.cut_short = " ".join(str(error).split())
        with suppress(psycopg.Error):
            conn.execute("rollback")
    finally:
        obstacle.ended = time.time()


def _take_all(conn: Connection, relations: Sequence[str], kinds: str, take: Take) -> tuple[str, ...]:
    retrying = Retrying(
        stop=stop_after_delay(TAKEN_WITHIN_S),
        wait=wait_fixed(0.05),
        retry=retry_if_exception_type((psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable)),
        reraise=True,
    )
    try:
        return retrying(_try_all, conn, relations, kinds, take)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable) as error:
        raise FaultNotPossible(
            f"no obstacle could be put up within {TAKEN_WITHIN_S:g} s: {error.diag.message_primary}",
            remedy="Something holds these relations all the time; put the obstacle up before the script starts.",
        ) from error


def _try_all(conn: Connection, relations: Sequence[str], kinds: str, take: Take) -> tuple[str, ...]:
    """One attempt: every lock at once, or none."""
    there = _present(conn, relations, kinds)
    conn.execute("begin")
    try:
        for name in there:
            take(conn, _identifier(name))
    except BaseException:
        with suppress(psycopg.Error):
            conn.execute("rollback")
        raise
    return there


def _present(conn: Connection, relations: Sequence[str], kinds: str) -> tuple[str, ...]:
    found = {
        name
        for (name,) in conn.execute(
            "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname || '.' || c.relname = any(%s) and c.relkind = any(%s)"
            " and (c.relkind <> 'm' or c.relispopulated)",
            (list(relations), list(kinds)),
        )
    }
    return tuple(name for name in relations if name in found)


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split(".", 1))
