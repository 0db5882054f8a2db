"""What is folded from the ledger, and how to rebuild it for any moment. A projection joins by being added to ``PROJECTIONS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from comporta.postgres.queries import load

WORK_MEM = "set local work_mem = '64MB'"
"""A million events are sorted and grouped in memory with this, and on disk, in twice the time, without."""

_LIMIT = 1_000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Projection:
    """A relation that is folded from events, and the function of the last event that folds it again.

    ``live`` and ``as_of`` have the same columns, those in ``key`` tell the rows apart; ``shown`` is what a table has room for.
    """

    name: str
    live: LiteralString
    as_of: LiteralString
    key: tuple[LiteralString, ...]
    shown: tuple[str, ...]


PROJECTIONS: tuple[Projection, ...] = (
    Projection(
        "streams",
        "current_state",
        "current_state_as_of",
        ("stream",),
        ("stream", "version", "event_type", "phase", "feature", "actor", "timestamp"),
    ),
    Projection(
        "types",
        "latest_by_type",
        "latest_by_type_as_of",
        ("stream", "event_type"),
        ("stream", "event_type", "version", "phase", "actor", "timestamp"),
    ),
    Projection(
        "gates",
        "gate",
        "gate_as_of",
        ("gate",),
        ("gate", "name", "feature", "state", "asker", "deadline", "consumed_by"),
    ),
    Projection(
        "breakers",
        "breaker",
        "breaker_as_of",
        ("release", "target", "breaker"),
        ("release", "target", "breaker", "state", "since", "reason"),
    ),
    Projection(
        "holds",
        "breaker_hold",
        "breaker_hold_as_of",
        ("release", "breaker", "held_by"),
        ("release", "breaker", "held_by", "reason", "held_at"),
    ),
)


@dataclass(frozen=True)
class Difference:
    """A row that is not in the live projection as the events have it; one side is None when it is not there at all."""

    projection: str
    key: tuple[Any, ...]
    columns: tuple[str, ...]
    live: Row | None
    rebuilt: Row | None

    def __str__(self) -> str:
        row = f"{self.projection}: {', '.join(map(str, self.key))}"
        if self.live is None:
            return f"{row} is missing"
        if self.rebuilt is None:
            return f"{row} is there, but no event made it"
        told = (f"{name} is {self.live[name]!r}, expected {self.rebuilt[name]!r}" for name in self.columns)
        return f"{row}: {'; '.join(told)}"


def as_of(conn: psycopg.Connection, projection: Projection, upto: int) -> list[Row]:
    """The rows of a projection after the event of that id, in the order of its key."""
    return [row for (row,) in _run(conn, "as_of.sql", projection, upto)]


def differences(conn: psycopg.Connection, projection: Projection) -> list[Difference]:
    """Rebuild a projection from its events and compare it with the live one, in one snapshot; at most 1,000 rows."""
    found = []
    for live, rebuilt in _run(conn, "differing.sql", projection, 0):
        some = live or rebuilt
        columns = tuple(name for name in some if live and rebuilt and live[name] != rebuilt[name])
        found.append(Difference(projection.name, tuple(some[name] for name in projection.key), columns, live, rebuilt))
    return found


def _run(conn: psycopg.Connection, name: str, projection: Projection, upto: int) -> list[tuple[Any, ...]]:
    query = sql.SQL(load("comporta.ledger", name)).format(
        live=sql.Identifier("comporta", projection.live),
        as_of=sql.Identifier("comporta", projection.as_of),
        key=sql.SQL(", ").join(map(sql.Identifier, projection.key)),
        upto=sql.Literal(upto),
        limit=sql.Literal(_LIMIT),
    )
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(WORK_MEM)
        return cursor.execute(query).fetchall()
