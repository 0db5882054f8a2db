"""What the ladder does to a clone between rungs: let it grow, make it steady, read where its WAL stands."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from comporta.capacity.measures.transaction import BEGINNING
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.queries import load
from comporta.postgres.script import Script

WORN_SHARE = 0.04  # below every share at which the catalogue's own settings call autovacuum
_NAME = "comporta/capacity"


def grow(dsn: str, script: Script, times: float) -> None:
    """Make the rows of the clone ``times`` as many, by the catalogue's own script; StatementFailed when it cannot."""
    with connect(dsn, name=_NAME) as conn:
        conn.execute("select set_config('comporta.capacity_times', %s, false)", (f"{times:g}",))
        run_script(conn, script)


def make_steady(dsn: str) -> None:
    """Vacuum and analyze what autovacuum soon would, and checkpoint: every ladder starts alike, and nothing works beside it.

    Tables that a change has analyzed itself are left as they are: the statistics of a large catalogue take longer than its rungs.
    """
    with connect(dsn, name=_NAME) as conn:
        worn = conn.execute(load(__package__, "worn.sql").encode(), {"share": WORN_SHARE}).fetchall()
        for name, vacuum, analyze in worn:
            how = "vacuum (analyze)" if vacuum and analyze else "vacuum" if vacuum else "analyze"
            conn.execute(f"{how} {name}".encode())
        conn.execute("checkpoint")


def load_variables(dsn: str, history: Mapping[str, str]) -> tuple[dict[str, int], int]:
    """What the load scripts begin with, and the rows of all tables: ``low`` and ``high`` are the ids of ``history``'s first."""
    tables = [sql.Identifier(*name.split(".")) for name in history]
    with connect(dsn, name=_NAME) as conn:
        ends = conn.execute(
            sql.SQL("select coalesce(min(id), 0), coalesce(max(id), 0) from {}").format(tables[0])
        ).fetchone()
        counts = [conn.execute(sql.SQL("select count(*) from {}").format(table)).fetchone() for table in tables]
    low, high = ends or (0, 0)
    return {**BEGINNING, "low": low, "high": high}, sum(count[0] for count in counts if count)


def wal_position(dsn: str) -> int:
    """Bytes of WAL that the server has written since it was made."""
    with connect(dsn, name=_NAME) as conn:
        row = conn.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    return int(row[0]) if row else 0
