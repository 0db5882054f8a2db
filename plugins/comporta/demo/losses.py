"""Finds acknowledged writes that a database no longer shows, by replaying the log of the traffic beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg

from comporta.demo.record import UNIDENTIFIED, AcknowledgedWrite, TrafficRecord
from comporta.postgres.queries import load

_COLUMNS = ("layer", "name", "rev", "geom", "data_referencia")
_BATCH = 2_000
# One geometry as the table shows it: column to text.
Row = dict[str, str]


@dataclass(frozen=True)
class LostWrite:
    """An acknowledged write whose effect is gone; ``at`` is when it was sent, in epoch seconds."""

    id: int
    table: str
    action: str
    at: float
    expected: str
    found: str

    def __str__(self) -> str:
        sent = datetime.fromtimestamp(self.at, UTC).isoformat(sep=" ", timespec="milliseconds")
        return f"{self.action} of {self.table} {self.id}, sent {sent}: expected {self.expected}, found {self.found}"


@dataclass
class Expected:
    """What one geometry must look like: for each column the values that may stand there, and their write."""

    exists: set[bool] = field(default_factory=lambda: {True})
    last: AcknowledgedWrite | None = None
    columns: dict[str, tuple[set[str], AcknowledgedWrite]] = field(default_factory=dict)
    annotations: dict[int, AcknowledgedWrite] = field(default_factory=dict)


def lost_writes(dsn: str, record: TrafficRecord) -> list[LostWrite]:
    """Compare the last acknowledged write of each row and column with the tables; call it once the traffic has stopped.

    ``dsn`` must see every row (superuser or editor). Nobody else may have written the same rows. A write whose answer
    never came counts neither way: both outcomes are accepted.
    """
    expected = replay(record)
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = _rows(connection, sorted(expected))
        numbers = sorted(number for state in expected.values() for number in state.annotations)
        annotations = _annotations(connection, numbers)
    return compare(expected, rows, annotations)


def compare(
    expected: dict[int, Expected], rows: Mapping[int, Sequence[Row]], annotations: Mapping[int, tuple[int, str]]
) -> list[LostWrite]:
    """Losses in order of time, given the rows found by id (a list each) and the annotations as (geometry id, body)."""
    lost = [loss for id_, state in expected.items() for loss in _compare_one(state, rows.get(id_, ()), annotations)]
    return sorted(lost, key=lambda loss: (loss.at, loss.id))


def replay(record: TrafficRecord) -> dict[int, Expected]:
    """What each geometry must look like, by id, after the writes of the record in the order of their sending."""
    expected: dict[int, Expected] = defaultdict(Expected)
    known = [(write, True) for write in record.acknowledged]
    unknown = [(write, False) for write in record.unknown if write.id != UNIDENTIFIED]
    for write, is_known in sorted(known + unknown, key=lambda each: each[0].at):
        state = expected[_geometry(write)]
        if is_known:
            _acknowledge(state, write)
        else:
            _allow(state, write)
    return expected


def _geometry(write: AcknowledgedWrite) -> int:
    return int(write.values["geometria_id"]) if write.table == "annotations" else write.id


def _acknowledge(state: Expected, write: AcknowledgedWrite) -> None:
    if write.table == "annotations":
        state.annotations[write.id] = write
        return
    state.exists, state.last = {write.action != "delete"}, write
    if write.action == "delete":
        state.columns.clear()
        state.annotations.clear()
    for column, value in write.values.items():
        state.columns[column] = ({value}, write)


def _allow(state: Expected, write: AcknowledgedWrite) -> None:
    """Widen what is accepted by a write that may or may not have happened."""
    if write.action == "delete":
        state.exists.add(False)
        state.annotations.clear()
    for column, value in write.values.items():
        if column in state.columns:
            state.columns[column][0].add(value)


def _compare_one(
    state: Expected, found: Sequence[Row], annotations: Mapping[int, tuple[int, str]]
) -> Iterator[LostWrite]:
    if len(found) > 1 and state.last:
        yield _loss(state.last, "one row", f"{len(found)} rows")
    elif bool(found) not in state.exists:
        if state.last:
            yield _loss(state.last, "no row" if found else "a row", "a row" if found else "no row")
    elif found:
        yield from _compare_columns(state, found[0])
    for number, write in state.annotations.items():
        there = annotations.get(number)
        wanted = (int(write.values["geometria_id"]), write.values["body"])
        if there != wanted:
            yield _loss(write, f"annotation {wanted}", f"annotation {there}" if there else "no annotation")


def _compare_columns(state: Expected, row: Row) -> Iterator[LostWrite]:
    wrong = {column: write for column, (accepted, write) in state.columns.items() if row[column] not in accepted}
    for at in sorted({write.at for write in wrong.values()}):
        columns = [column for column, write in wrong.items() if write.at == at]
        wanted = (f"{column} = {' or '.join(sorted(state.columns[column][0]))}" for column in columns)
        yield _loss(wrong[columns[0]], ", ".join(wanted), ", ".join(f"{column} = {row[column]}" for column in columns))


def _loss(write: AcknowledgedWrite, expected: str, found: str) -> LostWrite:
    return LostWrite(write.id, write.table, write.action, write.at, expected, found)


def _rows(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for batch in _batches(ids):
        for id_, *values in connection.execute(load("comporta.demo", "lost_rows.sql"), {"ids": batch}):
            found[id_].append(dict(zip(_COLUMNS, values, strict=True)))
    return found


def _annotations(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    for batch in _batches(ids):
        for id_, geometry, body in connection.execute(load("comporta.demo", "lost_annotations.sql"), {"ids": batch}):
            found[id_] = (geometry, body)
    return found


def _batches(ids: Sequence[int]) -> Iterable[list[int]]:
    return (list(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH))
