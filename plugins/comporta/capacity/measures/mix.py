"""The query mix of production: what pg_stat_statements recorded, told by the transactions of the load.

A recorded statement and a script belong together when libpg_query gives both the same fingerprint: constants, parameters and
layout are the same to it, tables, columns and operators are not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from pglast import ast, parse_sql
from pglast.parser import ParseError, fingerprint
from pglast.visitors import Visitor
from psycopg import sql

from comporta.capacity.measures.transaction import Transaction, read_transactions
from comporta.capacity.model import Mix, MixedTransaction
from comporta.errors import ConfigurationError
from comporta.postgres.connection import Connection, connect
from comporta.postgres.queries import load

STATEMENT_TIMEOUT_MS: Final = 30_000
# So few calls are somebody's look around, not the load of a system.
FEWEST_CALLS: Final = 100
_MISSING_SHOWN: Final = 10
_SHOWN: Final = 160
_WORK = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.CallStmt)
# Not installed after all, not loaded (outside shared_preload_libraries), hidden, or of a version without these columns.
_CANNOT_LOOK = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.QueryCanceled,
)


@dataclass(frozen=True)
class Recorded:
    """One kind of statement of the applications, over all texts that differ in layout only."""

    text: str
    calls: int
    total_ms: float
    wal_bytes: int


@dataclass(frozen=True)
class Record:
    """What a server recorded of its applications: by fingerprint, from ``since`` to ``until`` by its own clock."""

    since: datetime
    until: datetime
    statements: Mapping[str, Recorded]

    @property
    def seconds(self) -> float:
        """How long it recorded."""
        return (self.until - self.since).total_seconds()

    @property
    def calls(self) -> int:
        """Calls of all statements."""
        return sum(each.calls for each in self.statements.values())

    @property
    def total_ms(self) -> float:
        """Time of all statements."""
        return sum(each.total_ms for each in self.statements.values())

    @property
    def wal_bytes(self) -> int:
        """WAL of all statements."""
        return sum(each.wal_bytes for each in self.statements.values())


def recorded_mix(
    target_dsn: str, load_folder: Path, shares: Mapping[str, float], *, own_queries: Collection[str] = ()
) -> Mix:
    """The load by the recorded calls, or by ``shares`` where fewer than 100 calls of it were recorded.

    ``own_queries`` are those that Comporta itself sends under an application's role (canaries): they are left out.
    ConfigurationError when the shares are asked for and name a transaction that is not in ``load_folder``.
    """
    scripts = read_transactions(load_folder)
    with connect(target_dsn, name="comporta/capacity", statement_timeout_ms=STATEMENT_TIMEOUT_MS) as conn:
        record = read_record(conn, own_queries=own_queries)
    if record is not None:
        matched = {script: record.statements.get(script.stands_for) for script in scripts}
        found = {script: each for script, each in matched.items() if each is not None}
        if sum(each.calls for each in found.values()) >= FEWEST_CALLS:
            return _by_record(record, found)
    return _by_shares(scripts, shares, load_folder)


def read_record(conn: Connection, *, own_queries: Collection[str] = ()) -> Record | None:
    """What pg_stat_statements has of the applications of this database; None when it is not there or hides it."""
    installed = conn.execute(load(__package__, "recorded_since.sql").encode()).fetchone()
    if installed is None or not installed[1]:
        return None
    schema, _, until = installed
    try:
        (since,) = _fetch(conn, "select stats_reset from {schema}.pg_stat_statements_info", schema)[0]
        rows = _fetch(conn, load(__package__, "recorded.sql"), schema)
    except _CANNOT_LOOK:
        return None
    own = {fingerprint(query) for query in own_queries}
    return Record(since, until, {print_: each for print_, each in _by_fingerprint(rows) if print_ not in own})


def _fetch(conn: Connection, query: str, schema: str) -> list[tuple[Any, ...]]:
    return conn.execute(sql.SQL(query).format(schema=sql.Identifier(schema))).fetchall()


def _by_fingerprint(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, Recorded]]:
    found: dict[str, Recorded] = {}
    for text, calls, total_ms, wal_bytes in rows:
        if (print_ := _fingerprint_of_work(text)) is None:
            continue
        before = found.get(print_, Recorded(text, 0, 0.0, 0))
        found[print_] = Recorded(
            before.text, before.calls + calls, before.total_ms + total_ms, before.wal_bytes + wal_bytes
        )
    yield from found.items()


def _fingerprint_of_work(text: str) -> str | None:
    """None for what is no work on tables: settings, transactions, schema changes, looks into the system catalogues."""
    try:
        (raw,) = parse_sql(text)
        if not isinstance(raw.stmt, _WORK):
            return None
        touches = _Touches()
        touches(raw.stmt)
        return fingerprint(text) if touches.data or isinstance(raw.stmt, ast.CallStmt) else None
    except (ParseError, ValueError):
        return None  # cut off by track_activity_query_size, or not one statement


class _Touches(Visitor):
    """Whether a statement names a table or a function that is not the system's."""

    def __init__(self) -> None:
        self.data = False

    def visit_RangeVar(self, _ancestors: Any, node: Any) -> None:  # noqa: N802 - pglast finds it by this name
        system = node.schemaname in ("pg_catalog", "information_schema")
        self.data |= not system and not (node.schemaname is None and node.relname.startswith("pg_"))

    def visit_FuncCall(self, _ancestors: Any, node: Any) -> None:  # noqa: N802 - likewise
        first, *rest = (part.sval for part in node.funcname)
        self.data |= bool(rest) and first not in ("pg_catalog", "information_schema", "public", "comporta")


def _by_record(record: Record, found: Mapping[Transaction, Recorded]) -> Mix:
    calls = sum(each.calls for each in found.values())
    of = {each.stands_for for each in found}
    missing = sorted(
        (each for print_, each in record.statements.items() if print_ not in of),
        key=lambda each: (-each.total_ms, each.text),
    )
    return Mix(
        recorded=True,
        since=record.since,
        calls_per_s=calls / record.seconds if record.seconds > 0 else None,
        transactions=tuple(
            MixedTransaction(
                name=script.name, weight=each.calls / calls, calls=each.calls, mean_ms=each.total_ms / each.calls
            )
            for script, each in found.items()
            if each.calls
        ),
        covered_calls=calls / record.calls,
        covered_time=sum(each.total_ms for each in found.values()) / record.total_ms if record.total_ms > 0 else 1.0,
        missing=tuple(_shortly(each) for each in missing[:_MISSING_SHOWN]),
    )


def _by_shares(scripts: Sequence[Transaction], shares: Mapping[str, float], folder: Path) -> Mix:
    names = {script.name for script in scripts}
    if unknown := sorted(set(shares) - names):
        raise ConfigurationError(
            f"capacity.shares names {', '.join(unknown)}; expected transactions of {folder}: {', '.join(sorted(names))}",
            remedy="Correct capacity.shares in the release file, or add the script.",
        )
    chosen = shares or dict.fromkeys(sorted(names), 1.0)
    whole = sum(chosen.values())
    return Mix(
        recorded=False,
        since=None,
        calls_per_s=None,
        transactions=tuple(
            MixedTransaction(name=name, weight=share / whole, calls=0, mean_ms=0.0)
            for name, share in sorted(chosen.items())
        ),
        covered_calls=0.0,
        covered_time=0.0,
    )


def _shortly(each: Recorded) -> str:
    text = " ".join(each.text.split())
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return f"{cut} ({each.calls} calls, {each.total_ms:.0f} ms)"
