"""What the target is now: how its rows came about, how large it is, what it is limited by, and how it differs from the shadow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from comporta.capacity.measures.mix import read_record
from comporta.capacity.measures.relations import relation_sizes, stored_in
from comporta.capacity.model import History, MonthCount, TargetFacts
from comporta.errors import ConfigurationError
from comporta.health.signals import free_space
from comporta.postgres.connection import Connection, connect, describe, with_options
from comporta.postgres.queries import load
from comporta.release.capacity import CapacityPlan

# A history reads every row of its table once.
STATEMENT_TIMEOUT_MS: Final = 300_000
LOCK_TIMEOUT_MS: Final = 2_000
_READ_ONLY: Final = "-c default_transaction_read_only=on -c timezone=UTC"
# What is measured on the shadow holds for the target as far as these are alike.
SETTINGS: Final = (
    "autovacuum", "checkpoint_timeout", "data_checksums", "default_statistics_target", "effective_cache_size",
    "effective_io_concurrency", "fsync", "full_page_writes", "huge_pages", "jit", "maintenance_work_mem", "max_connections",
    "max_parallel_workers_per_gather", "max_wal_size", "plan_cache_mode", "random_page_cost", "seq_page_cost", "server_version",
    "shared_buffers", "synchronous_commit", "synchronous_standby_names", "track_io_timing", "wal_buffers", "wal_compression",
    "wal_level", "work_mem",
)  # fmt: skip
_MEMORY = Path("/proc/meminfo")


def target_facts(
    target_dsn: str,
    shadow_dsn: str,
    plan: CapacityPlan,
    *,
    own_queries: Collection[str] = (),
    connections_seen: Iterable[int] = (),
) -> TargetFacts:
    """Read what the target is; nothing is written, and no statement takes longer than five minutes.

    ``connections_seen`` are counts from earlier looks: the most of them, and of now, is the peak. ``own_queries`` are Comporta's
    canaries, which are not the applications' load. ConfigurationError when ``plan.history`` names what is not there.
    """
    with _look(target_dsn) as conn, _look(shadow_dsn) as shadow:
        found = conn.cursor(row_factory=dict_row).execute(load(__package__, "target.sql").encode()).fetchone()
        assert found is not None
        free, whole, is_here = disk_of(conn)
        return TargetFacts(
            target=describe(target_dsn),
            at=found["at"],
            database_bytes=found["database_bytes"],
            cluster_bytes=found["cluster_bytes"],
            disk_total_bytes=plan.disk_bytes or whole,
            disk_free_bytes=free,
            max_connections=found["max_connections"],
            connections_peak=max([found["connections"], *connections_seen]),
            shared_buffers_bytes=found["shared_buffers_bytes"],
            memory_bytes=plan.memory_bytes or (_memory() if is_here else None),
            wal_bytes_per_s=_wal_rate(conn, own_queries, found["wal_bytes_per_s"]),
            max_wal_bytes=found["max_wal_bytes"],
            histories=tuple(_history(conn, table, column, found["at"]) for table, column in plan.history.items()),
            relations=relation_sizes(conn),
            settings_unlike_shadow=_unlike(conn, shadow),
            partition_horizon_years=_horizon(conn, plan, found["at"]),
        )


def _look(dsn: str) -> Connection:
    return connect(
        with_options(dsn, _READ_ONLY),
        name="comporta/capacity",
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        lock_timeout_ms=LOCK_TIMEOUT_MS,
    )


def disk_of(conn: Connection) -> tuple[int | None, int | None, bool]:
    """Free bytes, all bytes, and whether the server runs on this machine: then both are known."""
    try:
        row = conn.execute(load("comporta.health", "data_directory.sql").encode()).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None, None, False
    assert row is not None
    seen = free_space(*row)
    return (None, None, False) if isinstance(seen, str) else (int(seen[0]), int(seen[1]), True)


def _memory() -> int | None:
    """All memory of this machine; None where it does not say in Linux's way."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
        return int(lines["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _wal_rate(conn: Connection, own_queries: Collection[str], mean: float | None) -> float | None:
    """WAL per second of the applications' statements; of the whole server since its counters began, where those are not known.

    The whole includes what filled the server: loads, restores, and the changes themselves.
    """
    record = read_record(conn, own_queries=own_queries)
    if record is not None and record.wal_bytes and record.seconds > 0:
        return record.wal_bytes / record.seconds
    return mean


def _history(conn: Connection, table: str, column: str, at: datetime) -> History:
    is_there, day = _one(conn, "day_column.sql", {"table": table})
    if not is_there:
        raise ConfigurationError(
            f"capacity.history names {table}, which is not on {conn.info.dbname}; nothing was read of it",
            remedy="Correct capacity.history in the release file.",
        )
    made = sql.Identifier(column)
    query = sql.SQL(load(__package__, "history.sql")).format(
        made=made,
        year=sql.SQL("null::text")
        if day is None
        else sql.SQL("extract(year from {})::text").format(sql.Identifier(day)),
        table=sql.Identifier(*table.split(".")),
    )
    try:
        rows = conn.execute(query).fetchall()
    except psycopg.errors.UndefinedColumn:
        raise ConfigurationError(
            f"capacity.history names {column} of {table}, which has no such column",
            remedy="Name the column that says when a row was made.",
        ) from None
    return History(
        table=table,
        column=column,
        months=tuple(MonthCount(month=month, rows=count, partition=year) for month, year, count, _ in rows),
        rows=sum(count for _, _, count, _ in rows),
        until=max((newest for *_, newest in rows), default=at),
    )


def _unlike(conn: Connection, shadow: Connection) -> dict[str, tuple[str, str]]:
    here, there = _settings(conn), _settings(shadow)
    return {name: (here[name], there[name]) for name in SETTINGS if here[name] != there[name]}


def _settings(conn: Connection) -> dict[str, str]:
    rows = conn.execute(load(__package__, "settings.sql").encode(), {"names": list(SETTINGS)}).fetchall()
    return {name: "not known" if value is None else value for name, value in rows}


def _horizon(conn: Connection, plan: CapacityPlan, at: datetime) -> int | None:
    """Whole years from now that every table with yearly partitions has them for; None when none has."""
    ends = []
    for table in plan.history:
        if (relation := stored_in(conn, table)) is not None:
            (end,) = _one(conn, "horizon.sql", {"relation": relation})
            ends += [] if end is None else [end.year - at.year - 1]
    return min(ends, default=None)


def _one(conn: Connection, query: str, values: dict[str, Any]) -> tuple[Any, ...]:
    row = conn.execute(load(__package__, query).encode(), values).fetchone()
    assert row is not None, "an aggregate has one row"
    return row
