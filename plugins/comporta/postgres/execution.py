"""Run a script as psql would: statement by statement, in autocommit, and stop at the first failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection
from comporta.postgres.script import Script, Statement


@dataclass(frozen=True)
class ScriptProgress:
    """A statement that is about to run, or a notice that the server sent while it ran."""

    script: Script
    statement: Statement
    notice: str | None = None


OnProgress = Callable[[ScriptProgress], None]


def run_script(conn: Connection, script: Script, on_progress: OnProgress | None = None) -> None:
    """Run every statement of ``script`` on an autocommit connection.

    Raises StatementFailed at the first that fails; what ran before it stays, and running the script again continues.
    """
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
                execute(conn, statement.sql)
            except psycopg.Error as error:
                _leave_transaction(conn)
                raise statement_failed(script, statement, error) from error
    finally:
        if not conn.closed:
            conn.remove_notice_handler(on_notice)


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
    )


def _leave_transaction(conn: Connection) -> None:
    if not conn.closed and conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        conn.execute("rollback")
