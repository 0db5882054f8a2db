"""How a release watches the health of its target: signals, their limits, and when a breaker opens and closes.

A limit is absolute (``at_most``), relative to the baseline (``times``, never under ``floor``), or both: then the lower one holds.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pglast.ast import Node
from pglast.parser import ParseError, parse_sql
from pglast.visitors import Visitor
from pydantic import AfterValidator, Field, model_validator

from comporta.files import Strict

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Reason = Annotated[str, Field(min_length=10)]
SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

EVERYTHING = "all"
"""What a hold without a breaker's name holds."""
_RESERVED = frozenset({EVERYTHING, "baseline", "sampling"})


class _WritesOrLocks(Visitor):
    """Finds what a query that only reads does not have."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def visit(self, ancestors: Any, node: Node) -> None:  # noqa: ARG002 - the signature of a visitor
        if type(node).__name__ in {
            "InsertStmt",
            "UpdateStmt",
            "DeleteStmt",
            "MergeStmt",
            "IntoClause",
            "LockingClause",
        }:
            self.found.append(type(node).__name__)


def _only_reads(text: str) -> str:
    """One SELECT that neither writes nor locks rows. A function in it may still try to: the server refuses that."""
    try:
        statements = parse_sql(text)
    except ParseError as error:
        raise ValueError(f"is not SQL: {error.args[0]}") from error
    if len(statements) != 1 or type(statements[0].stmt).__name__ != "SelectStmt":
        raise ValueError("expected one SELECT")
    looking = _WritesOrLocks()
    looking(statements)
    if looking.found:
        raise ValueError(f"expected a SELECT that only reads, found {', '.join(looking.found)}")
    return text


ReadOnlyQuery = Annotated[str, AfterValidator(_only_reads)]


class Watched(Strict):
    """What every signal has: it may be declared not watched, with a reason that people see beside it."""

    not_watched: Reason | None = None


class Limit(Watched):
    """How high a signal may be: above it, a sample is bad."""

    at_most: Amount | None = None
    times: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    floor: Amount | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if self.not_watched is None and self.at_most is None and self.times is None:
            raise ValueError("expected at_most, or times with floor, or both")
        if (self.times is None) != (self.floor is None):
            raise ValueError(
                "times and floor go together: a limit relative to the baseline needs one that it is never under"
            )
        return self

    def bound(self, baseline: float | None) -> float | None:
        """The limit in force; None when it is relative to a baseline that there is not."""
        if self.times is None:
            return self.at_most
        if baseline is None:
            return None
        relative = max(self.times * baseline, self.floor or 0.0)
        return relative if self.at_most is None else min(relative, self.at_most)


class ErrorsPlan(Limit):
    """The share of canaries that fail."""

    at_most: Share | None = 0.0


class LatencyPlan(Limit):
    """The p95 of the canaries, milliseconds. A run counts as slow against the baseline of its own query."""

    at_most: Amount | None = None
    times: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = 3.0
    floor: Amount | None = 50.0


class LockWaitsPlan(Limit):
    """Sessions that wait for a lock longer than ``longer_than_ms``."""

    longer_than_ms: Annotated[int, Field(gt=0)] = 500
    at_most: Amount | None = 2


class ReplicationPlan(Watched):
    """How far any standby or slot may be behind. ``expected`` are standbys (application_name) and slots that must be there."""

    expected: tuple[str, ...] = ()
    bytes_at_most: Annotated[int, Field(gt=0)] = 64 * 2**20
    seconds_at_most: Seconds = 30.0


class DiskPlan(Watched):
    """What must stay free where the target keeps its files.

    The folder is looked at where it can be seen and is proved to be the target's; elsewhere ``query`` gives free and all bytes.
    """

    free_share_at_least: Share = 0.1
    free_bytes_at_least: Annotated[int, Field(ge=0)] = 2**30
    query: ReadOnlyQuery | None = None


class DeadTuplesPlan(Limit):
    """The largest share of dead rows in any table of the release that has at least ``min_rows`` rows, dead ones counted."""

    min_rows: Annotated[int, Field(ge=0)] = 1_000
    at_most: Share | None = 0.5


class ConnectionsPlan(Limit):
    """The share of max_connections in use."""

    at_most: Share | None = 0.8


class SqlPlan(Limit):
    """A query of the release's own that gives one number."""

    query: ReadOnlyQuery


class SignalsPlan(Strict):
    """The signals: each has a breaker of its own, of the same name."""

    errors: ErrorsPlan = ErrorsPlan()
    latency: LatencyPlan = LatencyPlan()
    lock_waits: LockWaitsPlan = LockWaitsPlan()
    replication_lag: ReplicationPlan = ReplicationPlan()
    disk: DiskPlan = DiskPlan()
    dead_tuples: DeadTuplesPlan = DeadTuplesPlan()
    connections: ConnectionsPlan = ConnectionsPlan()
    sql: dict[SignalName, SqlPlan] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        taken = sorted(set(self.sql) & (_RESERVED | set(type(self).model_fields)))
        if taken:
            raise ValueError(f"a signal of sql: cannot be called {', '.join(taken)}: that name is taken")
        return self

    def __getitem__(self, name: str) -> Watched:
        """The plan of a signal by its name; KeyError when there is none."""
        if name in self.sql:
            return self.sql[name]
        if name == "sql" or name not in type(self).model_fields:
            raise KeyError(name)
        plan: Watched = getattr(self, name)
        return plan

    @property
    def names(self) -> tuple[str, ...]:
        """All signals, those that are not watched included, in the order in which people see them."""
        return (*(name for name in type(self).model_fields if name != "sql"), *self.sql)


class HealthPlan(Strict):
    """How often the target is looked at, and what opens and closes a breaker.

    Of the samples of the last ``window_s`` that hold data there must be ``min_samples``; a breaker opens when ``bad_rate`` of them
    are bad, or ``slow_rate`` of their canary runs slow. After ``open_s`` one process at a time may probe; ``probes`` good ones in a
    row close it. What was not seen for ``stale_s`` is no data.
    """

    every_s: Seconds = 5.0
    window_s: Seconds = 60.0
    min_samples: Annotated[int, Field(ge=1, le=1_000)] = 6
    bad_rate: Rate = 0.5
    slow_rate: Rate = 0.5
    open_s: Seconds = 60.0
    probes: Annotated[int, Field(ge=1, le=100)] = 3
    stale_s: Seconds = 20.0
    keep_h: Annotated[float, Field(gt=0, le=24 * 31, allow_inf_nan=False)] = 24.0
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 2_000
    baseline_runs: Annotated[int, Field(ge=1, le=1_000)] = 20
    canary_role: Annotated[str, Field(min_length=1)] | None = None
    canaries: tuple[str, ...] = ()
    queries: dict[str, ReadOnlyQuery] = Field(default_factory=dict)
    signals: SignalsPlan = SignalsPlan()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.window_s < self.min_samples * self.every_s:
            raise ValueError(
                f"min_samples ({self.min_samples}) never fit into window_s ({self.window_s:g}) at one every_s ({self.every_s:g}): "
                "no verdict would ever be reached"
            )
        if self.stale_s < 2 * self.every_s + 2 * self.timeout_ms / 1000:
            raise ValueError(
                f"stale_s ({self.stale_s:g}) is less than two looks may take: expected at least twice every_s ({self.every_s:g}) "
                f"and timeout_ms ({self.timeout_ms}) together"
            )
        if self.keep_h * 3600 < self.window_s:
            raise ValueError(f"keep_h ({self.keep_h:g}) is less than window_s ({self.window_s:g})")
        if len(set(self.canaries)) < len(self.canaries):
            raise ValueError("a canary is named twice")
        return self

    def canary_queries(self, catalogue: dict[str, str]) -> dict[str, str]:
        """The SQL of each canary, of ``queries`` or of the catalogue's; ValueError names one that is unknown or may write."""
        both = sorted(set(self.queries) & set(catalogue))
        if both:
            raise ValueError(f"health.queries and dry_run.queries both have {', '.join(both)}")
        known = {**catalogue, **self.queries}
        missing = [name for name in self.canaries if name not in known]
        if missing:
            raise ValueError(
                f"health.canaries: {', '.join(missing)} is neither in dry_run.queries nor in health.queries; they have "
                f"{', '.join(known) or 'none'}"
            )
        found = {}
        for name in self.canaries:
            try:
                found[name] = _only_reads(known[name])
            except ValueError as error:
                raise ValueError(f"health.canaries: {name} {error}") from error
        return found
