"""Run a script as psql would: statement by statement, in autocommit, and stop at the first failure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from pglast import enums

from comporta.errors import ComportaError, StatementFailed
from comporta.postgres.connection import Connection
from comporta.postgres.script import Script, Statement


@dataclass(frozen=True)
class ScriptProgress:
    """A statement that is about to run, or a notice that the server sent while it ran."""

    script: Script
    statement: Statement
    notice: str | None = None


OnProgress = Callable[[ScriptProgress], None]

# The server could not do it now and may the next time: a serialization failure, a deadlock, no lock, no free connection, a
# server that shuts down, crashed or starts up. A time-out of the statement (57014) would only be hit again.
_TRANSIENT = frozenset({"40001", "40P01", "55P03", "53300", "57P01", "57P02", "57P03"})
_CONNECTION_EXCEPTION = "08"
_TIME_OUTS = ("lock_timeout", "statement_timeout")
_VARIABLE = enums.VariableSetKind


@dataclass(frozen=True)
class TimeOuts:
    """How long the statements of a script may take; 0 is for ever.

    ``lock_ms`` is how long a statement waits for a lock, and everybody else behind it; ``statement_ms`` how long it runs,
    a CALL as a whole. What works CONCURRENTLY has ``index_s`` instead of ``statement_ms``, and unlike all others waits for
    locks that long, too: nobody waits behind it, and cut short it leaves an invalid index.
    """

    lock_ms: int = 2_000
    statement_ms: int = 0
    index_s: int = 3_600


def run_script(
    conn: Connection, script: Script, on_progress: OnProgress | None = None, *, timeouts: TimeOuts | None = None
) -> None:
    """Run every statement of ``script`` on an autocommit connection, under ``timeouts`` or those that the session has.

    What the script sets itself stands, except that nothing CONCURRENTLY runs under a lock_timeout. Afterwards the session has
    the time-outs that it was opened with. Raises StatementFailed at the first statement that fails; what ran before it stays,
    and running the script again continues.
    """
    limits = _Limits(timeouts) if timeouts else None
    current: list[Statement] = []

    def on_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        if on_progress and current and diagnostic.message_primary:
            on_progress(ScriptProgress(script, current[-1], diagnostic.message_primary))

    conn.add_notice_handler(on_notice)
    try:
        for statement in script.statements:
            current.append(statement)
            if on_progress:
                on_progress(ScriptProgress(script, statement))
            try:
                if limits:
                    limits.set(conn, statement)
                execute(conn, statement.sql)
            except psycopg.Error as error:
                _leave_transaction(conn)
                raise statement_failed(script, statement, error) from error
    finally:
        if not conn.closed:
            conn.remove_notice_handler(on_notice)
            if limits:
                _reset_limits(conn)


class _Limits:
    """Sets the time-outs before each statement, and knows which of them the script has taken into its own hands."""

    def __init__(self, timeouts: TimeOuts) -> None:
        self._timeouts = timeouts
        self._own: dict[str, str] = {}  # the script's own SET, by name of the time-out
        self._local: set[str] = set()  # those that it has set for its transaction

    def set(self, conn: Connection, statement: Statement) -> None:
        """The time-outs for ``statement``, in one message. SET, not set_config(), because SET takes no snapshot."""
        wanted = {"lock_timeout": self._timeouts.lock_ms, "statement_timeout": self._timeouts.statement_ms}
        if statement.concurrent or statement.refreshes_concurrently:
            wanted["statement_timeout"] = self._timeouts.index_s * 1_000
        settings = {name: self._own.get(name, f"set {name} = {value}") for name, value in wanted.items()}
        if statement.concurrent:
            settings["lock_timeout"] = "set lock_timeout = 0"
        if conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._local.clear()
        if left := [sql for name, sql in settings.items() if name not in self._local]:
            execute(conn, "\n;\n".join(left))  # a script's own may end with a comment
        self._heed(conn, statement)

    def _heed(self, conn: Connection, statement: Statement) -> None:
        """Leave to the script what it is about to set, until it gives that back."""
        if statement.kind != "VariableSetStmt":
            return
        name = str(statement.node.name or "").lower()
        if statement.node.kind == _VARIABLE.VAR_RESET_ALL:
            self._own.clear()
        elif name not in _TIME_OUTS:
            return
        elif statement.node.kind not in (_VARIABLE.VAR_SET_VALUE, _VARIABLE.VAR_SET_CURRENT):
            self._own.pop(name, None)
        elif not statement.node.is_local:
            self._own[name] = statement.sql
        elif conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            self._local.add(name)


def _reset_limits(conn: Connection) -> None:
    with suppress(
        psycopg.OperationalError
    ):  # a connection that is lost now has done its work, or says so when it is used
        execute(conn, ";\n".join(f"reset {name}" for name in _TIME_OUTS))


def execute(conn: Connection, sql: str, parameters: Any = None) -> psycopg.Cursor[tuple[Any, ...]]:
    """Send the text of a script as it stands; it is a file of ours or the user's own, never assembled from values."""
    return conn.execute(sql, parameters)


def statement_failed(script: Script, statement: Statement, error: psycopg.Error) -> StatementFailed:
    """Name file, line, statement, SQLSTATE, message, and what remains."""
    detail = "".join(f"\n  {part}" for part in (error.diag.message_detail, error.diag.message_hint) if part)
    left = len(script.statements) - statement.number
    return StatementFailed(
        f"{script.path}:{statement.line}: statement {statement.number} of {len(script.statements)} failed "
        f"({statement.headline})\n  {error.sqlstate or type(error).__name__}: "
        f"{error.diag.message_primary or ' '.join(str(error).split())}{detail}",
        remedy=f"{left} statement(s) after it did not run; what ran before it stays. "
        "Correct the cause and run the same script again: one that can be resumed continues.",
        sqlstate=error.sqlstate,
        statement=statement.number,
        transient=is_transient(error),
    )


def is_transient(error: psycopg.Error) -> bool:
    """True when the same statement may succeed a moment later: a lock that was not had, a conflict, a lost connection."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)  # the server went away without a word
    return error.sqlstate in _TRANSIENT or error.sqlstate.startswith(_CONNECTION_EXCEPTION)


def may_pass(error: BaseException) -> bool | None:
    """Whether the same work may succeed a moment later; None for an error that is neither ours nor PostgreSQL's."""
    if isinstance(error, ComportaError):
        return error.transient
    return is_transient(error) if isinstance(error, psycopg.Error) else None


def _leave_transaction(conn: Connection) -> None:
    if not conn.closed and conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        conn.execute("rollback")
