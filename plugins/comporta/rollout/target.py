"""The target while it is being changed: one runner at a time, watched, and never left with a statement that nobody
waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, LockTrace
from comporta.postgres.connection import Connection, connect, describe, identify
from comporta.postgres.execution import ScriptProgress, TimeOuts, run_script
from comporta.postgres.queries import load
from comporta.postgres.script import Script
from comporta.postgres.stopping import StopSwitch
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Budget
from comporta.rollout.errors import BreakerOpened, TargetBusy

Say = Callable[[str], None]

_CLAIM = {"room": "comporta", "what": "rollout"}
_ASK_AGAIN_S = 0.5
_TELL_AGAIN_S = 30.0
_TRACE_PAUSE_MS = 5
_TRACE_CHUNK_S = 0.1


@dataclass(frozen=True)
class ScriptRun:
    """What one script did: ``statements`` are [number, headline, seconds]; the two waits are None where nobody could look.

    ``longest_wait_caused_s`` is the longest that another session queued behind the script, ``longest_exclusive_s``
    the longest that it held ACCESS EXCLUSIVE on one relation.
    """

    seconds: float
    statements: tuple[tuple[int, str, float], ...]
    longest_wait_caused_s: float | None = None
    longest_exclusive_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As the payload of an event has it."""
        locks = None
        if self.longest_wait_caused_s is not None:
            locks = {
                "longest_wait_caused_s": round(self.longest_wait_caused_s, 4),
                "longest_exclusive_s": round(self.longest_exclusive_s or 0.0, 4),
            }
        listed = [
            {"number": number, "headline": headline, "seconds": round(seconds, 4)}
            for number, headline, seconds in self.statements
        ]
        return {"seconds": round(self.seconds, 4), "statements": listed, "locks": locks}


@dataclass
class Target:
    """A session on the target that holds the claim on changing it; ``cancel`` may be called from another thread or
    a signal."""

    conn: Connection
    dsn: str
    say: Say
    _stopped_because: str = field(default="", init=False)

    def look(self) -> Fingerprint:
        """The fingerprint of the target now."""
        return fingerprint.take(self.conn)

    def cancel(self) -> None:
        """End the statement that runs, if one does; the script stops there and can be taken up again."""
        with suppress(psycopg.Error, OSError):
            self.conn.cancel_safe(timeout=5)

    def run(self, script: Script, budget: Budget, *, bad: Callable[[], str | None] = lambda: None) -> ScriptRun:
        """Run ``script``, telling every statement and notice. ``bad`` is asked each second: words of it three times in a row
        cancel the statement, and BreakerOpened says them. StatementFailed as ``run_script``."""
        statements: list[tuple[int, str, float]] = []
        total = len(script.statements)

        def told(progress: ScriptProgress) -> None:
            number, line = progress.statement.number, progress.statement.line
            if progress.notice is not None:
                self.say(f"  {number}/{total} notice: {progress.notice}")
                return
            _close(statements)
            statements.append((number, progress.statement.headline, -time.monotonic()))
            self.say(f"  {number}/{total} line {line}: {progress.statement.headline}")

        time_outs = TimeOuts(
            lock_ms=budget.lock_timeout_ms, statement_ms=budget.index_timeout_s * 1000, index_s=budget.index_timeout_s
        )
        known = {oid for (oid,) in self.conn.execute("select oid from pg_catalog.pg_class")}
        with _traced(self.dsn, self.conn.info.backend_pid) as trace, self._guarded(bad):
            began = time.monotonic()
            try:
                run_script(self.conn, script, told, timeouts=time_outs)
            except Exception as error:
                if self._stopped_because:
                    raise BreakerOpened(
                        f"{script.path.name} was stopped in the middle: {self._stopped_because}",
                        remedy="What ran before stays, and is rolled back unless somebody decides otherwise.",
                    ) from error
                raise
            seconds = time.monotonic() - began
            _close(statements)
            wait, exclusive = self._locks(trace, known)
        return ScriptRun(seconds, tuple(statements), wait, exclusive)

    def _locks(self, trace: LockTrace | None, known: Collection[int]) -> tuple[float | None, float | None]:
        """The two waits of a run, of relations that were there before it: nobody can wait for what it made itself."""
        (now,) = self.conn.execute("select date_part('epoch', clock_timestamp())").fetchone() or (0.0,)
        if trace is None or not trace.settle(now):
            return None, None
        pid = self.conn.info.backend_pid
        waits = [wait.seconds for wait in trace.waits() if pid in wait.behind and wait.pid != pid]
        holds = [hold.seconds for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE and hold.oid in known]
        return max(waits, default=0.0), max(holds, default=0.0)

    @contextmanager
    def _guarded(self, bad: Callable[[], str | None]) -> Iterator[None]:
        self._stopped_because = ""
        done = threading.Event()

        def watch() -> None:
            in_a_row = 0
            while not done.wait(1.0):
                why = bad()
                in_a_row = in_a_row + 1 if why else 0
                if why and in_a_row >= 3:
                    self._stopped_because = why
                    self.say(f"  stopping the statement: {why}")
                    self.cancel()
                    return

        guard = threading.Thread(target=watch, name="comporta breaker guard", daemon=True)
        guard.start()
        try:
            yield
        finally:
            done.set()
            guard.join(timeout=10)


@contextmanager
def claimed(dsn: str, *, run: str, say: Say, stop: StopSwitch, patience_s: float) -> Iterator[Target]:
    """The target for this caller alone, across Airflow, the command line and their hosts; waits ``patience_s`` for another.

    The claim is a session lock of the very connection that runs the scripts: whoever dies gives it back, and their
    statement ends with them. It is asked for again and again rather than waited for: a session that waits within a
    statement keeps an old snapshot, for which CREATE INDEX CONCURRENTLY of the other one would wait in turn.
    TargetBusy names the holder.
    """
    with connect(dsn, name=f"comporta/{run}"[:63]) as conn, stop.watch(conn):
        began, told = time.monotonic(), float("-inf")
        while not _try(conn):
            stop.check()
            now = time.monotonic()
            row = conn.execute(load("comporta.rollout", "lock_holder.sql"), _CLAIM).fetchone()
            holder = row[0] if row else "a session that just ended"
            if now - began > patience_s:
                raise TargetBusy(
                    f"{describe(dsn)} is being changed by {holder}; waited {patience_s:.0f} s",
                    remedy="Wait for it, or cancel that backend with pg_cancel_backend. Nothing was changed here.",
                )
            if now - told > _TELL_AGAIN_S:
                say(f"waiting: the target is being changed by {holder}")
                told = now
            time.sleep(_ASK_AGAIN_S)
        yield Target(conn, dsn, say)


def identity(conn: Connection) -> str:
    """``<system identifier>/<database>``: which target the ledger speaks of."""
    server = identify(conn)
    return f"{server.system_identifier}/{server.database}"


def note_backup_point(conn: Connection, run: str) -> dict[str, Any]:
    """Where to restore to if all else fails: the WAL position now, and a named restore point where the role may make one."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(load("comporta.rollout", "backup_point.sql")).fetchone() or {}
    name: str | None = f"comporta {run}"[:63]
    try:
        conn.execute("select pg_catalog.pg_create_restore_point(%s)", (name,))
    except psycopg.Error:  # no right to, or a server that keeps no WAL for it
        name = None
    return {
        **found,
        "at": str(found.get("at")),
        "last_archived_at": _text(found.get("last_archived_at")),
        "restore_point": name,
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _try(conn: Connection) -> bool:
    found = conn.execute("select pg_try_advisory_lock(hashtext(%(room)s), hashtext(%(what)s))", _CLAIM).fetchone()
    return found == (True,)


def _close(statements: list[tuple[int, str, float]]) -> None:
    """Turn the start of the last statement into its duration."""
    if statements and statements[-1][2] < 0:
        number, headline, started = statements[-1]
        statements[-1] = (number, headline, time.monotonic() + started)


@contextmanager
def _traced(dsn: str, pid: int) -> Iterator[LockTrace | None]:
    """A trace of who queues behind us; without the right to look there is none, and nothing is claimed."""
    trace = LockTrace(dsn, applications=(), pause_ms=_TRACE_PAUSE_MS, chunk_seconds=_TRACE_CHUNK_S, prefer=False)
    try:
        trace.start()
    except Exception:
        trace.stop()
        yield None
        return
    try:
        trace.watch(pid)
        yield trace
    finally:
        trace.stop()
