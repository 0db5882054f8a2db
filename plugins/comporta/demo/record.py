"""What traffic leaves behind: the latency of every operation, and every acknowledged write to look for afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Kinds = str | Collection[str] | None
# The id of an inserted row whose number never came: only its values tell which it is, if it is there at all.
UNIDENTIFIED = 0


@dataclass(frozen=True)
class Operation:
    """One operation: ``due`` and ``at`` (when it was sent) in epoch seconds, ``seconds`` from ``at`` to the answer.

    ``error`` is the SQLSTATE and the message, or None. A transaction of two rows is one operation.
    """

    at: float
    due: float
    seconds: float
    kind: str
    is_write: bool
    error: str | None = None

    @property
    def ended(self) -> float:
        """Epoch seconds of the answer."""
        return self.at + self.seconds

    @property
    def seconds_from_due(self) -> float:
        """Latency as a user feels it: an operation that waited for its turn behind a stalled one has waited too."""
        return self.ended - self.due


@dataclass(frozen=True)
class AcknowledgedWrite:
    """A write that the server acknowledged; ``values`` are the columns that it set.

    Of ``geom`` the MD5 of its text is kept; ``rev`` is a key of ``properties``.
    """

    at: float
    id: int
    table: str
    action: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mark:
    """A named moment of the surrounding work, in epoch seconds."""

    at: float
    label: str


@dataclass(frozen=True)
class TrafficRecord:
    """The whole run. ``unknown`` are writes cut off before their answer: they may or may not be in the table.

    ``longest_lag_s`` is how late the generator itself woke for an operation: latencies below it may be its own.
    """

    started: float
    stopped: float
    reads_per_s: float
    writes_per_s: float
    operations: tuple[Operation, ...]
    acknowledged: tuple[AcknowledgedWrite, ...]
    unknown: tuple[AcknowledgedWrite, ...] = ()
    marks: tuple[Mark, ...] = ()
    longest_lag_s: float = 0.0

    def select(
        self, kind: Kinds = None, since: float | None = None, until: float | None = None, is_write: bool | None = None
    ) -> list[Operation]:
        """Operations of the kind(s) under way at some time between ``since`` and ``until`` (epoch seconds)."""
        kinds = {kind} if isinstance(kind, str) else kind
        return [
            operation
            for operation in self.operations
            if (kinds is None or operation.kind in kinds)
            and (since is None or operation.ended >= since)
            and (until is None or operation.at <= until)
            and (is_write is None or operation.is_write == is_write)
        ]

    def failed(self, kind: Kinds = None, since: float | None = None, until: float | None = None) -> list[Operation]:
        """Operations that ended with an error, in order of time."""
        return [operation for operation in self.select(kind, since, until) if operation.error is not None]

    def longest(
        self, kind: Kinds = None, since: float | None = None, until: float | None = None, *, from_due: bool = False
    ) -> float:
        """Seconds of the slowest operation from sending (or from when it was due) to the answer; 0.0 without any."""
        return max(_latencies(self.select(kind, since, until), from_due), default=0.0)

    def slowest(
        self, count: int = 10, kind: Kinds = None, since: float | None = None, until: float | None = None
    ) -> list[Operation]:
        """The ``count`` slowest operations, slowest first."""
        return sorted(self.select(kind, since, until), key=lambda operation: -operation.seconds)[:count]

    def percentile(
        self,
        percent: float,
        kind: Kinds = None,
        since: float | None = None,
        until: float | None = None,
        *,
        from_due: bool = False,
    ) -> float:
        """Latency in seconds that ``percent`` of the operations did not exceed (nearest rank); 0.0 without any."""
        ordered = sorted(_latencies(self.select(kind, since, until), from_due))
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else 0.0

    def to_json(self) -> str:
        """The whole record as one JSON object; ``from_json`` reads it back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TrafficRecord:
        """Read what ``to_json`` wrote."""
        raw: dict[str, Any] = json.loads(text)
        raw["operations"] = tuple(Operation(**each) for each in raw["operations"])
        raw["acknowledged"] = tuple(AcknowledgedWrite(**each) for each in raw["acknowledged"])
        raw["unknown"] = tuple(AcknowledgedWrite(**each) for each in raw["unknown"])
        raw["marks"] = tuple(Mark(**each) for each in raw["marks"])
        return cls(**raw)


def merge(records: Collection[TrafficRecord]) -> TrafficRecord | None:
    """One record of several that wrote to the same database, in order of time; None of none.

    What they wrote must be apart, or one after the other: the order of writes is told by when they were sent.
    """

    def sent(each: Operation | AcknowledgedWrite | Mark) -> float:
        return each.at

    if not records:
        return None
    return TrafficRecord(
        started=min(record.started for record in records),
        stopped=max(record.stopped for record in records),
        reads_per_s=sum(record.reads_per_s for record in records),
        writes_per_s=sum(record.writes_per_s for record in records),
        operations=tuple(sorted((each for record in records for each in record.operations), key=sent)),
        acknowledged=tuple(sorted((each for record in records for each in record.acknowledged), key=sent)),
        unknown=tuple(sorted((each for record in records for each in record.unknown), key=sent)),
        marks=tuple(sorted((each for record in records for each in record.marks), key=sent)),
        longest_lag_s=max(record.longest_lag_s for record in records),
    )


def _latencies(operations: Iterable[Operation], from_due: bool) -> list[float]:
    return [operation.seconds_from_due if from_due else operation.seconds for operation in operations]
