"""What stands still at a state and size of the clone: sizes, refreshes, planning times, and the memory of a connection."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from croniter import croniter  # type: ignore[import-untyped]
from psycopg import sql

from comporta.capacity.measures.clone import load_variables
from comporta.capacity.measures.relations import relation_sizes, stored_in
from comporta.capacity.measures.transaction import Transaction
from comporta.capacity.model import Planning, Refresh, StateFacts
from comporta.errors import ComportaError
from comporta.postgres.connection import Connection, connect
from comporta.postgres.queries import load

PARTITION_COUNTS: Final = (16, 64, 128, 256)
PLANNED: Final = 7  # times each query is planned
STATEMENT_TIMEOUT_MS: Final = 60_000
_NAME: Final = "comporta/capacity"
_SECONDS: Final = re.compile(r"^(\d+) seconds?$")
_BEGIN: Final = datetime(2030, 1, 1, tzinfo=UTC)  # any day: only the distances between runs count


class Scripted(Protocol):
    """A transaction of the load: where its script is."""

    @property
    def path(self) -> Path: ...


class PartitionsRefused(ComportaError):
    """The clone's table takes no further partitions, so planning with many of them is not known."""


def state_facts(
    dsn: str,
    *,
    state: str,
    size: float,
    history: Mapping[str, str],
    scripts: Iterable[Scripted],
    refresh: bool = True,
    planning: bool = False,
) -> StateFacts:
    """Look at a clone as it stands; all but the refresh of its views is rolled back. ``planning``: with many partitions too.

    The tables of ``history`` are the release's: its first one gives the ids that the scripts draw from.
    """
    transactions = [Transaction.read(each.path) for each in scripts]
    variables, rows = load_variables(dsn, history)
    with _session(dsn) as conn:
        views = conn.execute(load(__package__, "views.sql").encode()).fetchall() if refresh else []
        refreshes = tuple(_refresh(conn, *view) for view in views)
        times = [_planning(conn, history, transactions, variables)]
    if planning:
        times += planning_ladder(dsn, history, transactions, variables)
    memory = connection_memory(dsn, transactions, variables)
    with _session(dsn) as conn:
        size_row = conn.execute("select pg_catalog.pg_database_size(pg_catalog.current_database())").fetchone()
        assert size_row is not None
        return StateFacts(
            state=state,
            size=size,
            rows=rows,
            database_bytes=size_row[0],
            relations=relation_sizes(conn),
            refreshes=refreshes,
            planning=tuple(each for each in times if each is not None),
            connection_bytes=memory,
        )


def planning_ladder(
    dsn: str,
    tables: Iterable[str],
    transactions: Sequence[Transaction],
    variables: Mapping[str, int],
    counts: Sequence[int] = PARTITION_COUNTS,
) -> list[Planning]:
    """Planning times with so many partitions: empty years are added to the partitioned tables, and rolled back.

    Nothing when no table is partitioned by a date; counts that are below what stands are passed over. PartitionsRefused when
    the table takes no more.
    """
    found: list[Planning] = []
    names = tuple(tables)
    with _session(dsn) as conn, conn.transaction(force_rollback=True):
        for count in counts:
            partitioned = _partitioned(conn, names)
            have = sum(leaves for *_, leaves in partitioned)
            ends = [(name, end) for oid, name, _ in partitioned if (end := _end(conn, oid)) is not None]
            if not ends or have >= count:
                continue
            _add_years(conn, *ends[0], count - have)
            found += [each for each in [_planning(conn, names, transactions, variables)] if each is not None]
    return found


def connection_memory(dsn: str, transactions: Sequence[Transaction], variables: Mapping[str, int]) -> int | None:
    """Bytes that a session holds for itself when it has run each kind of transaction once; None when the server does not say."""
    with _session(dsn) as conn:
        for transaction in transactions:
            with _undone(conn):
                transaction.run(conn, variables)
        try:
            row = conn.execute(load(__package__, "memory.sql").encode()).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return None
    return None if row is None else row[0]


def interval_s(schedule: str) -> float | None:
    """The shortest time between two runs of a pg_cron schedule; None when it cannot be read."""
    if seconds := _SECONDS.match(schedule.strip()):
        return float(seconds[1])
    try:
        runs = croniter(schedule.replace("$", "L"), _BEGIN)
        moments: list[datetime] = [runs.get_next(datetime) for _ in range(60)]
    except (ValueError, KeyError):
        return None
    return min((later - earlier).total_seconds() for earlier, later in pairwise(moments))


@contextmanager
def _session(dsn: str) -> Iterator[Connection]:
    with connect(dsn, name=_NAME, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as conn:
        yield conn


@contextmanager
def _undone(conn: Connection) -> Iterator[None]:
    """A transaction that leaves nothing; a statement that takes too long ends it, and what it left in memory counts."""
    try:
        with conn.transaction(force_rollback=True):
            yield
    except psycopg.errors.QueryCanceled:
        return


# -- refreshes -----------------------------------------------------------------------------------------------------------


def _refresh(
    conn: Connection,
    schema: str,
    name: str,
    concurrently: bool,
    procedure_schema: str | None,
    procedure: str | None,
    callers: Sequence[str],
) -> Refresh:
    """Refresh a view once, by the procedure that is there for it."""
    view = sql.Identifier(schema, name)
    if procedure_schema is not None and procedure is not None:
        statement = sql.SQL("call {}()").format(sql.Identifier(procedure_schema, procedure))
    else:
        way = sql.SQL("concurrently") if concurrently else sql.SQL("")
        statement = sql.SQL("refresh materialized view {} {}").format(way, view)
    started = time.perf_counter()
    conn.execute(statement)
    took = time.perf_counter() - started
    count = conn.execute(sql.SQL("select count(*) from {}").format(view)).fetchone()
    schedule = _schedule(conn, [*callers, f"{schema}.{name}"])
    return Refresh(
        view=f"{schema}.{name}",
        rows=count[0] if count else 0,
        seconds=round(took, 3),
        schedule=schedule,
        interval_s=None if schedule is None else interval_s(schedule),
    )


def _schedule(conn: Connection, names: Iterable[str]) -> str | None:
    """When pg_cron does something by one of these names in this database; None when it never does."""
    if conn.execute("select pg_catalog.to_regclass('cron.job')").fetchone() == (None,):
        return None
    row = conn.execute(load(__package__, "schedule.sql").encode(), {"names": list(names)}).fetchone()
    return None if row is None else row[0]


# -- planning ------------------------------------------------------------------------------------------------------------


def _planning(
    conn: Connection, tables: Iterable[str], transactions: Sequence[Transaction], variables: Mapping[str, int]
) -> Planning | None:
    """The slowest to plan of the queries; None when the load reads nothing."""
    leaves = sum(leaves for *_, leaves in _partitioned(conn, tables))
    times = {each.name: _planned(conn, each, variables) for each in transactions if each.reads_only}
    if not times:
        return None
    worst = max(times, key=lambda name: times[name])
    return Planning(partitions=leaves, median_ms=round(times[worst], 3), query=worst)


def _planned(conn: Connection, transaction: Transaction, variables: Mapping[str, int]) -> float:
    """Planning time of a query, ms: the median of several, as the role that sends it, without the first, which fills caches."""
    with conn.transaction(force_rollback=True):
        *_, query = transaction.run(conn, variables, without_last=True)
        explain = f"explain (summary, format json) {query}".encode()
        rows = [conn.execute(explain).fetchone() for _ in range(PLANNED + 1)]
    return statistics.median(float(row[0][0]["Planning Time"]) for row in rows[1:] if row is not None)


def _partitioned(conn: Connection, tables: Iterable[str]) -> list[tuple[int, sql.Identifier, int]]:
    """The partitioned tables behind the names: OID, name, leaves."""
    oids = [oid for table in tables if (oid := stored_in(conn, table)) is not None]
    rows = conn.execute(load(__package__, "partitions.sql").encode(), {"relations": oids}).fetchall()
    return [(oid, sql.Identifier(schema, name), leaves) for oid, schema, name, leaves in rows]


def _end(conn: Connection, relation: int) -> date | None:
    row: tuple[Any, ...] | None = conn.execute(
        load(__package__, "horizon.sql").encode(), {"relation": relation}
    ).fetchone()
    return None if row is None else row[0]


def _add_years(conn: Connection, table: sql.Identifier, end: date, years: int) -> None:
    schema = sql.Identifier(table._obj[0])
    for year in range(end.year, end.year + years):
        statement = sql.SQL("create table {} partition of {} for values from ({}) to ({})").format(
            sql.SQL(".").join((schema, sql.Identifier(f"comporta_ladder_{year}"))),
            table,
            sql.Literal(end.replace(year=year).isoformat()),
            sql.Literal(end.replace(year=year + 1).isoformat()),
        )
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            raise PartitionsRefused(
                f"{table.as_string()} takes no partition for {year}: {error.diag.message_primary or error}",
                remedy="Look at the table on the clone: its default partition may hold rows of that year.",
            ) from error
