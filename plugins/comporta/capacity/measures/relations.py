"""Where the bytes of a database are, by table, partition, index and view."""

from __future__ import annotations

from comporta.capacity.model import RelationSize
from comporta.postgres.connection import Connection
from comporta.postgres.queries import load


def relation_sizes(conn: Connection) -> tuple[RelationSize, ...]:
    """Every relation of applications that holds bytes; ``rows`` are the planner's, so analyze before."""
    storage = _storage(conn)
    values = {
        "names": [name for name, _, _ in storage],
        "stored": [oid for _, oid, _ in storage],
        "changes": [change for _, _, change in storage],
    }
    rows = conn.execute(load(__package__, "relations.sql").encode(), values).fetchall()
    return tuple(
        RelationSize(table=table, name=name, kind=kind, bytes=size, rows=rows_)
        for table, name, kind, size, rows_ in rows
    )


def stored_in(conn: Connection, table: str) -> int | None:
    """The OID of the relation that holds the rows of ``table`` now: a change may have put a view there. None: no such table."""
    for name, oid, _ in _storage(conn):
        if name == table:
            return oid
    row = conn.execute("select pg_catalog.to_regclass(%s)::oid", (table,)).fetchone()
    return row[0] if row else None


def _storage(conn: Connection) -> list[tuple[str, int, str]]:
    if conn.execute("select pg_catalog.to_regclass('comporta.storage')").fetchone() == (None,):
        return []
    return [(name, oid, change) for name, oid, change in conn.execute(load(__package__, "storage.sql").encode())]
