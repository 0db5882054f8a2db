"""What STAGE 4 measures, as records: each is one JSON file of the run's folder, so that a run that was killed goes on.

A **state** is how far the release is applied: ``before``, or the name of the last change that stands. A **size** is how many times
the rows of the target there are. A **rung** is one measurement: a state, a size, so many clients at once, a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

BEFORE = "before"
Day = date  # for records that have a field of that name


class Record(BaseModel):
    """A part of what a run measured: frozen, and read back as strictly as it was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """The record that ``to_dict`` wrote."""
        return cls.model_validate(record)


@dataclass(frozen=True, order=True)
class Rung:
    """One measurement to be made. ``round`` counts from 1: each size's ladder is climbed several times, to see the noise."""

    state: str
    size: float
    clients: int
    round: int = 1

    @property
    def key(self) -> str:
        """The name of its file."""
        return f"rung-{self.state}-{self.size:g}x-c{self.clients:03}-r{self.round}"

    def __str__(self) -> str:
        return f"{self.state} · {self.size:g}x rows · {self.clients} client(s) · round {self.round}"


class Latency(Record):
    """Milliseconds from the start of a transaction to its end, as a client sees them."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class RungResult(Record):
    """What one rung showed. ``rows`` are those of the history tables when its ladder began; ``wal_bytes`` of the whole rung."""

    state: str
    size: float
    clients: int
    round: int
    rows: int
    seconds: float
    transactions: int
    failed: int
    throughput_per_s: float
    latency: Latency
    by_transaction: dict[str, Latency]
    calls: dict[str, int]
    wal_bytes: int
    stop: str | None = None
    """Why no higher rung of this state and size was climbed; None when nothing spoke against it."""


class RelationSize(Record):
    """One relation that holds bytes. ``kind``: table, partition, index, view (materialized). ``rows``: -1 where not counted."""

    table: str
    name: str
    kind: str
    bytes: int
    rows: int


class Refresh(Record):
    """One refresh of a materialized view, timed, and how often it is scheduled (None: by nobody)."""

    view: str
    rows: int
    seconds: float
    schedule: str | None
    interval_s: float | None


class Planning(Record):
    """How long the planner takes with so many partitions, ms: median of several, worst query of the mix."""

    partitions: int
    median_ms: float
    query: str


class StateFacts(Record):
    """What stands still at a state and size: sizes, refreshes, planning, memory of a connection, how long the change took."""

    state: str
    size: float
    rows: int
    database_bytes: int
    relations: tuple[RelationSize, ...]
    refreshes: tuple[Refresh, ...] = ()
    planning: tuple[Planning, ...] = ()
    connection_bytes: int | None = None
    apply_s: float | None = None


class MonthCount(Record):
    """Rows of one table, or of one partition of it, that were created in a month (its first day)."""

    month: date
    rows: int
    partition: str | None = None
    """Where the rows lie by valid time: partition, or the year it would be (``2024``) while the table is in one piece."""


class History(Record):
    """When the rows of a table were made, by the column that says so; ``until`` is the newest, the month of which is not over."""

    table: str
    column: str
    months: tuple[MonthCount, ...]
    rows: int
    until: datetime


class MixedTransaction(Record):
    """One kind of transaction of the load, and its share by the calls that production recorded."""

    name: str
    weight: float
    calls: int
    mean_ms: float


class Mix(Record):
    """The load of production. ``recorded`` is False when pg_stat_statements had nothing and the release's own shares stand in."""

    recorded: bool
    since: datetime | None
    calls_per_s: float | None
    transactions: tuple[MixedTransaction, ...]
    covered_calls: float
    """Share of the recorded calls that the transactions stand for."""
    covered_time: float
    missing: tuple[str, ...] = ()
    """The costliest recorded statements that no transaction stands for, shortened."""


class TargetFacts(Record):
    """What the target is now: sizes, limits, load. None is what its server did not tell."""

    target: str
    at: datetime
    database_bytes: int
    cluster_bytes: int
    disk_total_bytes: int | None
    disk_free_bytes: int | None
    max_connections: int
    connections_peak: int | None
    shared_buffers_bytes: int
    memory_bytes: int | None
    wal_bytes_per_s: float | None
    max_wal_bytes: int
    histories: tuple[History, ...]
    relations: tuple[RelationSize, ...]
    settings_unlike_shadow: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """Settings that matter to speed: name -> (on the target, on the shadow)."""
    partition_horizon_years: int | None = None


@dataclass(frozen=True)
class Measured:
    """All that a run measured: what fit, forecast and report work from."""

    states: tuple[str, ...]
    target: TargetFacts
    mix: Mix
    rungs: tuple[RungResult, ...]
    facts: tuple[StateFacts, ...]

    @property
    def release(self) -> str:
        """The state with the whole release applied."""
        return self.states[-1]

    def of(self, state: str) -> tuple[RungResult, ...]:
        """The rungs of a state, by size, clients and round."""
        return tuple(sorted((r for r in self.rungs if r.state == state), key=lambda r: (r.size, r.clients, r.round)))

    def facts_of(self, state: str) -> tuple[StateFacts, ...]:
        """The facts of a state, by size."""
        return tuple(sorted((f for f in self.facts if f.state == state), key=lambda f: f.size))


class Parameter(Record):
    """One fitted number with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    unit: str = ""


class HeldOut(Record):
    """A test on what the fit has not seen: the value there, ours, and what naive rules say. Errors are relative, 0.1 = 10 %."""

    what: str
    measured: float
    predicted: float
    error: float
    naive: dict[str, float]
    naive_error: dict[str, float]

    @property
    def beats_naive(self) -> bool:
        """True when no naive rule was nearer."""
        return not self.naive_error or self.error <= min(self.naive_error.values())


class FitReport(Record):
    """One model: what it is of, its form, its parameters, how it did on what it had not seen, and whether it is used."""

    subject: str
    form: str
    unit: str
    points: int
    parameters: tuple[Parameter, ...]
    held_out: tuple[HeldOut, ...]
    used: bool
    why: str
    """Why it is used, what is used instead, or what is missing (not enough data)."""


class Band(Record):
    """A value with its 80 % interval."""

    value: float
    low: float
    high: float


class Answer(Record):
    """An answer to one question, with a verdict per objective: ``met``, ``met_until``, ``not_met``, ``not_enough_data``.

    A date is None where it lies beyond the horizon (``high``) or where there is none; ``amount`` is for answers that are numbers.
    """

    question: str
    subject: str
    state: str
    verdict: str
    objective: str
    text: str
    """The answer as a sentence."""
    date: Day | None = None
    low: Day | None = None
    high: Day | None = None
    amount: Band | None = None
    unit: str = ""
    assumptions: tuple[str, ...] = ()
    why: str = ""


class Series(Record):
    """A line with its band, for a plot: ``x`` are dates (ISO), clients or rows."""

    name: str
    x: tuple[str | float, ...]
    value: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    unit: str


class Scenario(Record):
    """What if: growth times so much, so many clients at once (None: as the load grows), seen until a day."""

    growth: float = 1.0
    clients: int | None = None
    until: date


class Forecast(Record):
    """What is to come, from ``now`` on, under a scenario."""

    now: date
    scenario: Scenario
    answers: tuple[Answer, ...]
    series: dict[str, tuple[Series, ...]]
    """By plot: rows, disk, partitions, p95, throughput, connections, memory, refresh, planning, wal."""
    assumptions: tuple[str, ...]
    verdict: str
    """pass, warn or stop: stop when an objective is not met now, warn when one will not be within the plan's ``look_ahead``."""
