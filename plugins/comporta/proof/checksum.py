"""The checksum: an order-free digest of each table's rows, summed inside the server in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import Connection, Cursor, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from comporta.errors import ComportaError
from comporta.postgres.queries import load
from comporta.proof.fingerprint import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

# hash_record_extended is linear in its columns: summed as it is, two rows that swap a value would cancel out.
# Hashing the row hash once more makes it non-linear; the second sum has another seed.
_SUMS = (
    "select count(*), coalesce(sum(hashint4extended(1, s.h)), 0)::text,"
    " coalesce(sum(hashint4extended(2, s.h)), 0)::text"
    " from (select hash_record_extended(row({expressions}), 0) as h from {source} t{where} offset 0) s"
)


class ChecksumError(ComportaError):
    """A checksum cannot be computed: the relation or column is named."""


@dataclass(frozen=True)
class TableChecksum:
    """Number of rows, and 128 bits (hex) over names and values; the order of rows and columns plays no part."""

    rows: int
    digest: str


@dataclass(frozen=True)
class _Plan:
    name: str
    source: str
    columns: tuple[str, ...]
    expressions: tuple[str, ...]


def checksum_tables(
    conn: Connection[Any],
    tables: Collection[str] | None = None,
    *,
    exclude_ids: Mapping[str, Collection[Any]] | None = None,
    id_columns: Mapping[str, str] | None = None,
) -> dict[str, TableChecksum]:
    """Sum up the named tables, partitioned tables or views; by default every table that no extension owns.

    ``exclude_ids`` leaves out, by table name, the rows whose ``id`` (or column named in ``id_columns``) is given.
    Reads one snapshot unless the caller has a transaction open; refuses to read through row level security.
    """
    excluded, keys = exclude_ids or {}, id_columns or {}
    with _snapshot(conn) as cursor:
        plans = _plan(cursor, tables)
        unknown = excluded.keys() - {plan.name for plan in plans}
        if unknown:
            raise ChecksumError(
                f"rows to leave out are given for {', '.join(sorted(unknown))}, which is not among the tables to sum up",
                remedy="Name tables as schema.table.",
            )
        return {
            plan.name: _sum_up(cursor, plan, excluded.get(plan.name, ()), keys.get(plan.name, "id")) for plan in plans
        }


def diff_checksums(
    expected: Mapping[str, TableChecksum], found: Mapping[str, TableChecksum], names: Collection[str] | None = None
) -> list[Difference]:
    """Tables whose rows are not as expected, in the words of the fingerprint; ``names`` restricts the comparison."""
    differences: list[Difference] = []
    for name in sorted(names if names is not None else expected.keys() | found.keys()):
        before, after = expected.get(name), found.get(name)
        if before == after:
            continue
        if before is None or after is None:
            differences.append(Difference("table", name, "rows", _rows(before), _rows(after)))
        elif before.rows != after.rows:
            differences.append(Difference("table", name, "number of rows", str(before.rows), str(after.rows)))
        else:
            differences.append(Difference("table", name, "checksum of rows", before.digest, after.digest))
    return differences


@contextmanager
def _snapshot(conn: Connection[Any]) -> Iterator[Cursor[tuple[Any, ...]]]:
    own = conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        if own:
            cursor.execute("set transaction isolation level repeatable read, read only")
        cursor.execute(load("comporta.proof", "checksum_session.sql"))
        yield cursor


def _plan(cursor: Cursor[tuple[Any, ...]], tables: Collection[str] | None) -> list[_Plan]:
    names = None if tables is None else list(tables)
    found = cursor.execute(load("comporta.proof", "checksum_plan.sql"), {"names": names}).fetchall()
    missing = sorted(asked for asked, name, *_ in found if name is None)
    if missing:
        raise ChecksumError(f"no such table or view: {', '.join(missing)}", remedy="Name tables as schema.table.")
    return [_Plan(name, source, tuple(columns or ()), tuple(exprs or ())) for _, name, source, columns, exprs in found]


def _sum_up(cursor: Cursor[tuple[Any, ...]], plan: _Plan, ids: Collection[Any], key: str) -> TableChecksum:
    if ids and key not in plan.columns:
        raise ChecksumError(
            f"{plan.name}: expected a column {key} to leave rows out by, found {', '.join(plan.columns)}",
            remedy="Name the column in id_columns.",
        )
    # Names and expressions come quoted from the server itself (checksum_plan.sql).
    query = _SUMS.format(
        expressions=", ".join(plan.expressions), source=plan.source, where=_outside(cursor, sorted(set(ids)), key)
    )
    rows, first, second = cursor.execute(query.encode()).fetchone() or (0, "0", "0")
    named = "\n".join((*plan.columns, str(rows), first, second))
    return TableChecksum(rows=rows, digest=hashlib.sha256(named.encode()).hexdigest()[:32])


def _outside(cursor: Cursor[tuple[Any, ...]], ids: Sequence[Any], key: str) -> str:
    if not ids:
        return ""
    clause = sql.SQL(" where not exists (select from unnest({ids}) as late (key) where late.key = t.{key})")
    return clause.format(ids=sql.Literal(list(ids)), key=sql.Identifier(key)).as_string(cursor)


def _rows(checksum: TableChecksum | None) -> str | None:
    return None if checksum is None else str(checksum.rows)
