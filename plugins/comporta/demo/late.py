"""Late writes: which rows the traffic touched, what the audit trail must say of them, and a writer that is always late.

The rows that a record names are left out of the checksums of a proof, and judged by ``lost_writes`` and ``missing_edits``.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from comporta.demo.losses import LostWrite
from comporta.demo.operations import (
    RESERVED_EVERY,
    Log,
    Place,
    WrongAnswer,
    epoch_now,
    failure,
    logged,
    star,
    write_of,
)
from comporta.demo.record import UNIDENTIFIED, AcknowledgedWrite, Mark, Operation, TrafficRecord, merge
from comporta.errors import ComportaError, UnreachableServer
from comporta.postgres.connection import Connection, connect, describe
from comporta.postgres.queries import load

__all__ = ["Conflict", "LateRows", "LateWriter", "last_edit", "late_rows", "merge", "missing_edits", "seed_conflict"]

# Of the ids that the traffic leaves alone, the late writer has every second, and the conflict one of the others.
_LATE_EVERY = 2 * RESERVED_EVERY
_FIRST_YEAR, _YEARS = 2015, 17
_ACTIONS = ("insert", "update", "delete")


class NothingToWrite(ComportaError):
    """The catalogue has no rows that a late writer may have for itself: it is too small, or not the demo catalogue."""


@dataclass(frozen=True)
class LateRows:
    """What ``checksum_tables`` must leave out, by table name; ``writes`` counts acknowledged and unanswered ones.

    Inspections are not among them: no traffic writes any, nor deletes a geometry that has one.
    """

    exclude_ids: Mapping[str, Sequence[int]]
    id_columns: Mapping[str, str]
    writes: int


def late_rows(dsn: str, record: TrafficRecord) -> LateRows:
    """The rows that the writes of the record touched or may have touched; call it once the traffic has stopped.

    ``dsn`` must see every row. An insert without an answer is looked for by its revision; where it is not found, there
    is no row to leave out. A geometry without a write of its own is left out of the annotations alone.
    """
    writes = [*record.acknowledged, *record.unknown]
    written = {write.id for write in writes if write.table == "geometrias"} - {UNIDENTIFIED}
    written.update(_inserted(dsn, [write for write in writes if write.id == UNIDENTIFIED]))
    annotated = {int(write.values["geometria_id"]) for write in writes if write.table == "annotations"}
    return LateRows(
        exclude_ids={
            "catalogue.geometrias": sorted(written),
            "catalogue.annotations": sorted(written | annotated),
            "catalogue.edits": sorted(written),
        },
        id_columns={
            "catalogue.geometrias": "id",
            "catalogue.annotations": "geometria_id",
            "catalogue.edits": "geometria_id",
        },
        writes=len(writes),
    )


def _inserted(dsn: str, unanswered: Iterable[AcknowledgedWrite]) -> list[int]:
    revisions = [write.values["rev"] for write in unanswered if write.table == "geometrias"]
    if not revisions:
        return []
    with connect(dsn, name="comporta/late") as connection:
        return [id_ for (id_,) in connection.execute(_query("late_inserted.sql"), {"revs": revisions})]


def _query(name: str) -> Any:
    return load("comporta.demo", name)


# --- The audit trail --------------------------------------------------------------------------------------------------


def last_edit(dsn: str) -> int:
    """The highest id of catalogue.edits, 0 where it is empty: take it before the traffic starts."""
    with connect(dsn, name="comporta/late") as connection:
        row = connection.execute(_query("late_last_edit.sql")).fetchone()
    return int(row[0]) if row else 0


def missing_edits(dsn: str, record: TrafficRecord, before: int) -> list[str]:
    """Each geometry whose edits after ``before`` are not one for each acknowledged write: the trigger slept, or fired twice.

    A write without an answer may have left one. While the table is partitioned, a row that moves to another year is a
    delete and an insert to its triggers, so that a write of the date may show either way. Nobody else may have written.
    """
    trails = _trails(record)
    with connect(dsn, name="comporta/late") as connection:
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for id_, action, count in connection.execute(
            _query("late_edits.sql"), {"before": before, "ids": sorted(trails)}
        ):
            found[id_][action] = count
    wrong = (trail.compare(id_, found[id_]) for id_, trail in trails.items())
    return [str(each) for each in sorted(filter(None, wrong), key=lambda each: (each.at, each.id))]


@dataclass
class _Trail:
    """The edits that one geometry must have, by action; ``moves`` are the writes of its date among the updates."""

    certain: Counter[str] = field(default_factory=Counter)
    possible: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    last: AcknowledgedWrite | None = None

    def add(self, write: AcknowledgedWrite, *, is_known: bool) -> None:
        (self.certain if is_known else self.possible)[write.action] += 1
        self.moves += write.action == "update" and "data_referencia" in write.values
        self.last = write

    def allows(self, found: Counter[str]) -> bool:
        return any(
            all(
                self.certain[action] <= count <= self.certain[action] + self.possible[action]
                for action, count in _moved_back(found, moves).items()
            )
            for moves in range(self.moves + 1)
        )

    def compare(self, id_: int, found: Counter[str]) -> LostWrite | None:
        if self.last is None or self.allows(found):
            return None
        expected = _counted(self.certain)
        if any(self.possible.values()):
            expected += f", and at most {_counted(self.possible)} more"
        return LostWrite(id_, "geometrias", self.last.action, self.last.at, f"edits: {expected}", f"{_counted(found)}")


def _moved_back(found: Counter[str], moves: int) -> dict[str, int]:
    return {
        "insert": found["insert"] - moves,
        "update": found["update"] + moves,
        "delete": found["delete"] - moves,
    }


def _counted(actions: Counter[str]) -> str:
    return " + ".join(f"{actions[action]} {action}" for action in _ACTIONS if actions[action]) or "none"


def _trails(record: TrafficRecord) -> dict[int, _Trail]:
    trails: dict[int, _Trail] = defaultdict(_Trail)
    known = [(write, True) for write in record.acknowledged]
    unknown = [(write, False) for write in record.unknown if write.id != UNIDENTIFIED]
    for write, is_known in sorted(known + unknown, key=lambda each: each[0].at):
        if write.table == "geometrias":
            trails[write.id].add(write, is_known=is_known)
    return trails


# --- A writer at every boundary ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    id: int
    layer: str
    name: str
    is_cold: bool
    is_deletable: bool


class LateWriter:
    """One editor who writes when told to, on rows that no traffic touches: the same writes on the same catalogue.

    ``dsn`` must be able to take the role gis_editor. An operation that the server refuses, or that must wait longer than
    ``lock_timeout_ms``, is a failed operation of the record and no exception; a lost connection is opened again.
    """

    def __init__(self, dsn: str, *, lock_timeout_ms: int = 10_000) -> None:
        self._dsn, self._lock_timeout_ms = dsn, lock_timeout_ms
        self._dice = random.Random(1)  # noqa: S311 - dice that must repeat, no secret
        self._prefix, self._revision, self._turn = f"late-{os.urandom(4).hex()}", 0, 0
        self._started = epoch_now()
        self._log, self._marks = Log(), list[Mark]()
        self._connection = self._open()
        rows = [_Row(*row) for row in self._connection.execute(_query("late_sample.sql"), {"every": _LATE_EVERY})]
        doomed = [row for row in rows if row.is_deletable][::3]
        self._doomed = list(_alternately(doomed))
        self._rows = list(_alternately([row for row in rows if row not in doomed]))
        self._own: list[int] = []
        if not self._rows:
            self.close()
            raise NothingToWrite(
                f"{describe(dsn)} has no row for a late writer: expected some in catalogue.geometrias with an id that "
                f"{_LATE_EVERY} divides",
                remedy="Load more rows of the demo catalogue.",
            )

    def write(self, label: str) -> None:
        """Write once of each kind, each statement by itself, on hot and cold rows in turn; ``label`` becomes a mark."""
        self._marks.append(Mark(epoch_now(), label))
        self._insert()
        renamed, moved, reshaped = (self._row(nth) for nth in range(3))
        self._update("rename", renamed.id, {"name": f"{renamed.name} {self._turn}", "rev": self._next_revision()})
        self._update("redate", moved.id, {"data_referencia": self._day(5)})
        if self._own:
            self._update("redate", self._own[-1], {"data_referencia": self._day(11)})
        self._update("reshape", reshaped.id, {"geom": self._star()})
        self._replace()
        self._delete_for_good()
        self._annotate(self._row(0).id)
        self._turn += 1

    def record(self) -> TrafficRecord:
        """What was written up to now, in the form of the traffic's own record; its rates are 0, for it keeps no schedule."""
        return TrafficRecord(
            started=self._started,
            stopped=epoch_now(),
            reads_per_s=0,
            writes_per_s=0,
            operations=tuple(Operation(*each) for each in self._log.operations),
            acknowledged=tuple(AcknowledgedWrite(**each) for each in self._log.acknowledged),
            unknown=tuple(AcknowledgedWrite(**each) for each in self._log.unknown),
            marks=tuple(self._marks),
        )

    def close(self) -> None:
        """Close the connection; the record stays."""
        self._connection.close()

    def __enter__(self) -> LateWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(self) -> None:
        values = {"layer": "parcelas", "name": "Tardia", "geom": self._star(), "data_referencia": self._day(0)}
        values["rev"] = self._next_revision()
        id_ = self._perform("insert", "traffic_insert.sql", UNIDENTIFIED, "insert", values)
        if id_ is not None:
            self._own.append(id_)

    def _update(self, kind: str, id_: int, values: dict[str, str]) -> None:
        self._perform(kind, f"traffic_{kind}.sql", id_, "update", values)

    def _replace(self) -> None:
        """Delete a row and bring its id back under another date, in two statements; a row that is not back is given up."""
        free = [row for row in self._rows if row.is_deletable]
        if not free:
            return
        row = free[self._turn % len(free)]
        values = {"layer": row.layer, "name": row.name, "geom": self._star(), "data_referencia": self._day(3)}
        values["rev"] = self._next_revision()
        if (
            self._perform("delete", "traffic_delete.sql", row.id, "delete", {}) is None
            or self._perform("insert", "late_restore.sql", row.id, "insert", values) is None
        ):
            self._rows.remove(row)

    def _delete_for_good(self) -> None:
        """A row that was there before; once they are used up, the oldest of its own."""
        id_ = self._doomed.pop(0).id if self._doomed else self._own.pop(0) if self._own else None
        if id_ is not None:
            self._perform("delete", "traffic_delete.sql", id_, "delete", {})

    def _annotate(self, id_: int) -> None:
        values = {"body": f"traffic {self._next_revision()}"}
        self._perform("annotate", "traffic_annotate.sql", id_, "insert", values, table="annotations")

    def _perform(
        self, kind: str, query: str, id_: int, action: str, values: dict[str, str], table: str = "geometrias"
    ) -> int | None:
        """The id of the row written, or None when the operation failed."""
        at, error = epoch_now(), None
        if table == "annotations":
            writes = [write_of(at, UNIDENTIFIED, action, {"geometria_id": str(id_), **values}, table)]
        else:
            writes = [write_of(at, id_, action, values, table)]
        try:
            if self._connection.closed:
                self._connection = self._open()
            with logged(self._log, writes):
                cursor = self._connection.execute(_query(query), {"id": id_, **values})
                if cursor.rowcount != 1:
                    raise WrongAnswer(f"{kind} of geometria {id_} changed {cursor.rowcount} rows, expected 1")
                if action == "insert":
                    writes[0]["id"] = (cursor.fetchone() or (UNIDENTIFIED,))[0]
        except (psycopg.Error, WrongAnswer, UnreachableServer) as problem:
            error = failure(problem)
        self._log.failed += error is not None
        self._log.operations.append((at, at, epoch_now() - at, kind, True, error))
        return int(writes[0]["id"]) if error is None else None

    def _open(self) -> Connection:
        connection = connect(self._dsn, name="comporta late writer", lock_timeout_ms=self._lock_timeout_ms)
        try:
            connection.execute("set role gis_editor")
        except psycopg.Error:
            connection.close()
            raise
        return connection

    def _row(self, nth: int) -> _Row:
        return self._rows[(3 * self._turn + nth) % len(self._rows)]

    def _day(self, offset: int) -> str:
        """A day of another year at each turn, from the coldest to those without a partition of their own."""
        year = _FIRST_YEAR + (7 * self._turn + offset) % _YEARS
        return str(date(year, 1 + self._turn % 12, 1 + (self._turn + offset) % 28))

    def _star(self) -> str:
        return star(Place(-46.6 + self._turn % 50 / 10, -23.5, ""), self._dice)

    def _next_revision(self) -> str:
        self._revision += 1
        return f"{self._prefix}-{self._revision}"


def _alternately(rows: Sequence[_Row]) -> Iterator[_Row]:
    """Cold and hot in turn, as long as there are both."""
    for pair in itertools.zip_longest((row for row in rows if row.is_cold), (row for row in rows if not row.is_cold)):
        yield from (row for row in pair if row is not None)


# --- A conflict -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """Two rows of catalogue.geometrias with one id, the second under another date and with a revision of its own."""

    id: int
    rev: str

    def rows(self, dsn: str) -> int:
        """How many rows have the id now: 2 while nobody chose between them."""
        with connect(dsn, name="comporta/late") as connection:
            row = connection.execute(_query("late_conflict_rows.sql"), {"id": self.id}).fetchone()
        return int(row[0]) if row else 0

    def undo(self, dsn: str) -> None:
        """Take the second row away as it came, past the triggers; where it is gone already, nothing happens."""
        with _replica(dsn) as connection:
            connection.execute(_at_the_rows(connection, "late_conflict_undo.sql"), {"id": self.id, "rev": self.rev})


def seed_conflict(dsn: str, ids: Collection[int] = ()) -> Conflict | None:
    """Give an id to a second row, as a replication worker does: no trigger fires. Needs a superuser and the support schema.

    The id is one of ``ids``, or one that neither traffic nor late writer writes. None where the catalogue itself refuses
    a second row, by a key that is unique over all its rows.
    """
    rev = f"late-{os.urandom(4).hex()}"
    values = {"rev": rev, "ids": list(ids), "every": _LATE_EVERY, "offset": RESERVED_EVERY}
    with _replica(dsn) as connection:
        try:
            row = connection.execute(_at_the_rows(connection, "late_conflict.sql"), values).fetchone()
        except psycopg.errors.UniqueViolation:
            return None
    if row is None:
        raise NothingToWrite(
            f"{describe(dsn)} has no row to repeat: expected one of 2020 or later among the ids to choose from",
            remedy="Give other ids, or none.",
        )
    return Conflict(int(row[0]), rev)


def _replica(dsn: str) -> Connection:
    connection = connect(dsn, name="comporta/late")
    connection.execute("set session_replication_role = replica")
    return connection


def _at_the_rows(connection: Connection, name: str) -> sql.Composed:
    place = connection.execute(_query("late_stored_in.sql")).fetchone() or ("catalogue", "geometrias")
    return sql.SQL(_query(name)).format(table=sql.Identifier(*place))
