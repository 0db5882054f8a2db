"""The operations of the traffic: what is read and written, on which rows, and what is noted of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from comporta.demo.ewkb import multipolygon
from comporta.demo.record import UNIDENTIFIED
from comporta.errors import UnreachableServer
from comporta.postgres.queries import load

# Under row security a box alone cannot use the GiST index for readers (&& is not leakproof), so readers look into a few
# days and a box, and editors, whose policy hides nothing, look at the map. A search without an index reads every row.
# A search takes as long as its words ask for, from milliseconds to seconds: its time says little about waiting.
SLOW_KINDS = frozenset({"search"})
READS = {"read_id": 0.52, "read_window": 0.22, "read_map": 0.13, "read_published": 0.125, "search": 0.005}
WRITES = {
    "insert": 0.25,
    "rename": 0.22,
    "reshape": 0.15,
    "redate": 0.12,
    "delete": 0.06,
    "annotate": 0.12,
    "pair": 0.08,
}
# Answers after which the server may still have committed: connection failures and shutdowns.
_OPEN_ENDED = ("08", "57P")
_SAMPLE = 4_000
# One id in so many is left to writers who must be alone with their rows.
RESERVED_EVERY = 10
_FIRST_DAY = date(2015, 1, 1)
_DAYS = 5_114


@dataclass(frozen=True)
class Place:
    """Somewhere with rows: centre of an outline in degrees, and its name."""

    x: float
    y: float
    name: str


@dataclass
class Sample:
    """Rows that were there at the start: for reading (never deleted by this traffic), and for writing."""

    read_ids: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    write_ids: list[int] = field(default_factory=list)
    delete_ids: list[int] = field(default_factory=list)


@dataclass
class Log:
    """What happened, in plain tuples and dicts that cost little to write down."""

    operations: list[tuple[float, float, float, str, bool, str | None]] = field(default_factory=list)
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0
    longest_lag_s: float = 0.0


# Epoch seconds that never step back, so that the order of writes can be told by their time.
_EPOCH = time.time() - time.perf_counter()


def epoch_now() -> float:
    """Seconds since 1970."""
    return _EPOCH + time.perf_counter()


class WrongAnswer(Exception):
    """The server answered without an error, but not with what a correct catalogue would say."""


class Client:
    """One connection under one role; connects again when the last operation lost it."""

    def __init__(self, dsn: str, role: str, name: str) -> None:
        self._dsn, self._role, self._name = dsn, role, name
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def connection(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, connect_timeout=5, application_name=f"comporta traffic {self._name}"
            )
            self._connection = connection
            # Whoever signs in, grants and row security of this role are the ones that apply.
            try:
                await connection.execute(sql.SQL("set role {}").format(sql.Identifier(self._role)))
            except psycopg.Error:
                await connection.close()
                raise
        return self._connection

    async def execute(self, name: str, values: dict[str, Any]) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        return await (await self.connection()).execute(_query(name), values)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def _query(name: str) -> LiteralString:
    return load("comporta.demo", f"traffic_{name}.sql")


class Reader:
    """Performs read operations on one connection."""

    def __init__(self, client: Client, sample: Sample, dice: random.Random) -> None:
        self._client, self._sample, self._dice = client, sample, dice

    async def perform(self, kind: str, _log: Log, _at: float) -> str:
        values = self._values(kind)
        cursor = await self._client.execute(kind, values)
        rows = await cursor.fetchall()
        if kind == "read_id" and len(rows) != 1:
            raise WrongAnswer(f"geometria {values['id']} gave {len(rows)} rows, expected 1")
        return kind

    def _values(self, kind: str) -> dict[str, Any]:
        if kind == "read_id":
            return {"id": self._dice.choice(self._sample.read_ids)}
        place = self._dice.choice(self._sample.places)
        half = 0.2 if kind == "read_map" else 4.0
        days = 366 if kind == "search" else 4
        since = _FIRST_DAY + timedelta(days=self._dice.randrange(_DAYS - days))
        return {
            "west": place.x - half,
            "east": place.x + half,
            "south": place.y - half,
            "north": place.y + half,
            "from_date": since,
            "to_date": since + timedelta(days=days),
            "query": place.name,
        }


class Writer:
    """Performs write operations on one connection, on rows that no other connection writes: their order is known."""

    def __init__(
        self, client: Client, sample: Sample, dice: random.Random, number: int, count: int, token: str
    ) -> None:
        """``token`` sets this traffic's revisions apart from those of any other on the same database."""
        self._client, self._dice, self._prefix = client, dice, f"{token}-{number}"
        self._ids = [id_ for id_ in sample.write_ids if id_ % count == number]
        self._deletable = [id_ for id_ in sample.delete_ids if id_ % count == number]
        self._places = sample.places
        self._revision = 0

    @property
    def is_idle(self) -> bool:
        """True when no row of the sample is this connection's to write."""
        return not self._ids

    async def perform(self, kind: str, log: Log, at: float) -> str:
        # What could not be sent for want of a connection has failed, and is not unknown.
        await self._client.connection()
        if kind == "delete" and not self._deletable:
            kind = "rename"
        actions = {
            "insert": self._insert,
            "rename": self._rename,
            "reshape": self._reshape,
            "redate": self._redate,
            "delete": self._delete,
            "annotate": self._annotate,
            "pair": self._pair,
        }
        await actions[kind](log, at)
        return kind

    async def _insert(self, log: Log, at: float) -> None:
        values = {
            "layer": self._dice.choice(("parcelas", "uso_solo", "loteamentos", "lagos")),
            "name": self._name(),
            "geom": self._geometry(),
            "data_referencia": self._day(),
            "rev": self._next_revision(),
        }
        writes = [write_of(at, UNIDENTIFIED, "insert", values)]
        with logged(log, writes):
            writes[0]["id"] = await self._insert_one("insert", values)
        self._deletable.append(writes[0]["id"])

    async def _rename(self, log: Log, at: float) -> None:
        await self._update("rename", {"name": self._name(), "rev": self._next_revision()}, log, at)

    async def _reshape(self, log: Log, at: float) -> None:
        await self._update("reshape", {"geom": self._geometry()}, log, at)

    async def _redate(self, log: Log, at: float) -> None:
        await self._update("redate", {"data_referencia": self._day()}, log, at)

    async def _update(self, name: str, values: dict[str, str], log: Log, at: float) -> None:
        id_ = self._target()
        with logged(log, [write_of(at, id_, "update", values)]):
            await self._change_one(name, {"id": id_, **values})

    async def _delete(self, log: Log, at: float) -> None:
        position = self._dice.randrange(len(self._deletable))
        self._deletable[position], self._deletable[-1] = self._deletable[-1], self._deletable[position]
        id_ = self._deletable.pop()
        with logged(log, [write_of(at, id_, "delete", {})]):
            await self._change_one("delete", {"id": id_})

    async def _annotate(self, log: Log, at: float) -> None:
        values = {"body": f"traffic {self._next_revision()}"}
        id_ = self._target()
        writes = [write_of(at, UNIDENTIFIED, "insert", {"geometria_id": str(id_), **values}, table="annotations")]
        with logged(log, writes):
            writes[0]["id"] = await self._insert_one("annotate", {"id": id_, **values})

    async def _pair(self, log: Log, at: float) -> None:
        """Rename two rows in one explicit transaction: both are acknowledged by the commit, or neither."""
        changes = [
            (id_, {"name": self._name(), "rev": self._next_revision()}) for id_ in {self._target(), self._target()}
        ]
        with logged(log, [write_of(at, id_, "update", values) for id_, values in changes]):
            async with (await self._client.connection()).transaction():
                for id_, values in changes:
                    await self._change_one("rename", {"id": id_, **values})

    async def _insert_one(self, name: str, values: dict[str, Any]) -> int:
        row = await (await self._client.execute(name, values)).fetchone()
        if row is None:
            raise WrongAnswer(f"{name} returned no id")
        return int(row[0])

    async def _change_one(self, name: str, values: dict[str, Any]) -> None:
        cursor = await self._client.execute(name, values)
        if cursor.rowcount != 1:
            raise WrongAnswer(f"{name} of geometria {values['id']} changed {cursor.rowcount} rows, expected 1")

    def _target(self) -> int:
        """Three times in four a row that was there before, else one that this connection inserted."""
        fresh = self._deletable and self._dice.random() < 0.25
        return self._dice.choice(self._deletable if fresh else self._ids)

    def _name(self) -> str:
        return f"{self._dice.choice(self._places).name} {self._dice.randrange(1, 1000)}"

    def _day(self) -> str:
        return str(_FIRST_DAY + timedelta(days=self._dice.randrange(_DAYS)))

    def _geometry(self) -> str:
        return star(self._dice.choice(self._places), self._dice)

    def _next_revision(self) -> str:
        self._revision += 1
        return f"{self._prefix}-{self._revision}"


def star(place: Place, dice: random.Random) -> str:
    """A star-shaped outline of 24 corners around a place, which is always valid, as hexadecimal EWKB."""
    size = 0.005 + 0.02 * dice.random()
    ring = [
        (place.x + reach * math.cos(turn), place.y + reach * math.sin(turn))
        for turn, reach in ((2 * math.pi * nth / 24, size * (0.6 + 0.4 * dice.random())) for nth in range(24))
    ]
    return multipolygon([*ring, ring[0]]).hex().upper()


def write_of(at: float, id_: int, action: str, values: dict[str, str], table: str = "geometrias") -> dict[str, Any]:
    """The entry of a write in the log: an AcknowledgedWrite as a dict, the geometry by its digest."""
    shown = {
        name: hashlib.md5(value.encode(), usedforsecurity=False).hexdigest() if name == "geom" else value
        for name, value in values.items()
    }
    return {"at": at, "id": id_, "table": table, "action": action, "values": shown}


@contextlib.contextmanager
def logged(log: Log, writes: list[dict[str, Any]]) -> Iterator[None]:
    """Log writes as acknowledged when the body ends well, as unknown when it was cut off, not when it was refused.

    An insert learns its id in the body.
    """
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(_OPEN_ENDED):
            log.unknown.extend(writes)
        raise
    except asyncio.CancelledError:
        log.unknown.extend(writes)
        raise
    log.acknowledged.extend(writes)


def failure(problem: Exception) -> str:
    """The error of a failed operation: SQLSTATE and message; without an answer, ``connection`` stands for the SQLSTATE."""
    if isinstance(problem, psycopg.Error):
        return f"{problem.sqlstate or 'connection'}: {str(problem).strip()}"
    kind = "connection" if isinstance(problem, UnreachableServer) else type(problem).__name__
    return f"{kind}: {problem}"


async def take_sample(reader: Client, editor: Client, dice: random.Random) -> Sample:
    """Look at the table once, before the traffic: which rows to read, to change and to delete, and where they lie."""
    row = await (await editor.execute("range", {})).fetchone()
    first, last = row or (0, 0)
    count = min(_SAMPLE, last - first + 1)
    ids = sorted(id_ for id_ in dice.sample(range(first, last + 1), count) if id_ % RESERVED_EVERY)
    sample = Sample()
    async for id_, name, x, y, _ in await reader.execute("sample", {"ids": ids[1::2]}):
        sample.read_ids.append(id_)
        sample.places.append(Place(x, y, name))
    async for id_, _, _, _, inspected in await editor.execute("sample", {"ids": ids[::2]}):
        (sample.write_ids if inspected or id_ % 5 else sample.delete_ids).append(id_)
    return sample
