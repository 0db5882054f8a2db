"""Models of what was measured, each tested on what it has not seen: ``fit`` is what the forecast works from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from comporta.capacity.model import FitReport, Measured, RungResult
from comporta.capacity.models.draws import COUNT, Array, Draws, Value, as_draws, seeded
from comporta.capacity.models.growth import Growth, fit_growth
from comporta.capacity.models.performance import Performance, usable
from comporta.capacity.models.scaling import Scaling, fit_scaling, known_scaling
from comporta.capacity.models.trial import tried_performance
from comporta.release.capacity import CapacityPlan

__all__ = [
    "COUNT",
    "Array",
    "Draws",
    "Fitted",
    "Growth",
    "Performance",
    "Scaling",
    "Value",
    "as_draws",
    "fit",
    "seeded",
]


_BYTES: Final = 0.02  # relative spread to expect of sizes
_TIMES: Final = 0.15  # of what is timed
_WORTH_A_REPORT: Final = 0.05  # of the database: a smaller relation's fit is used, not shown


@dataclass(frozen=True)
class Fitted:
    """All models of a run. What was not measured is not in the dictionaries: use ``get``.

    ``rows`` below are those of ``StateFacts.rows`` (all history tables together), as at the state and size that was measured.
    """

    performance: dict[str, Performance]
    """By state; a state without rungs is missing."""
    growth: dict[str, Growth]
    """By table."""
    partition_growth: dict[tuple[str, str], Growth]
    """By table and partition (or year of valid time, while the table is in one piece)."""
    relation_bytes: dict[tuple[str, str], Scaling]
    """By state and relation (``RelationSize.name``): bytes against rows."""
    database_bytes: dict[str, Scaling]
    """By state: bytes of the database against rows."""
    refresh_s: dict[tuple[str, str], Scaling]
    """By state and view: seconds of a refresh against rows."""
    planning_ms: dict[str, Scaling]
    """By state: ms of planning the worst query against partitions."""
    memory_bytes: dict[str, Scaling]
    """By state: shared buffers and all connections together, against connections."""
    wal_bytes: dict[str, Scaling]
    """By state: bytes of WAL for one transaction of the mix, against size."""
    apply_s: dict[str, Scaling]
    """By change: seconds to apply it against rows."""
    reports: tuple[FitReport, ...]


def fit(measured: Measured, plan: CapacityPlan) -> Fitted:  # noqa: ARG001 - the plan belongs to the interface
    """Fit every model, test it on what it has not seen, and put the naive rule in the place of a model that is worse."""
    performance, reports = _performance(measured)
    growth = {history.table: fit_growth(history) for history in measured.target.histories}
    partition_growth = {
        (history.table, partition): fit_growth(history, partition, growth[history.table].form)
        for history in measured.target.histories
        for partition in sorted({month.partition for month in history.months if month.partition is not None})
    }
    relations = dict(_relations(measured))
    database = dict(_by_state(measured, "database", "bytes"))
    refresh = dict(_refreshes(measured))
    planning = dict(_planning(measured))
    memory = dict(_memory(measured))
    wal = dict(_wal(measured))
    apply_s = dict(_by_state(measured, "apply", "s"))
    largest = max((facts.database_bytes for facts in measured.facts), default=0)
    shown = [
        *(each.report for each in growth.values()),
        *(each.report for each in database.values()),
        *(each.report for each in relations.values() if each.at(each.x_high).value > _WORTH_A_REPORT * largest),
        *(each.report for part in (refresh, planning, memory, wal, apply_s) for each in part.values()),
    ]
    return Fitted(
        performance=performance,
        growth=growth,
        partition_growth=partition_growth,
        relation_bytes=relations,
        database_bytes=database,
        refresh_s=refresh,
        planning_ms=planning,
        memory_bytes=memory,
        wal_bytes=wal,
        apply_s=apply_s,
        reports=(*reports, *shown),
    )


def _performance(measured: Measured) -> tuple[dict[str, Performance], list[FitReport]]:
    """The states with a whole ladder by themselves, the others by the shape of the one that is nearest."""
    found: dict[str, Performance] = {}
    reports: dict[str, tuple[FitReport, ...]] = {}
    for state in measured.states:
        model, reports[state] = tried_performance(state, measured.of(state))
        if model is not None:
            found[state] = model
    whole = list(found.values())
    for state in measured.states:
        rungs = usable(measured.of(state))
        if state in found or not rungs or not whole:
            continue
        shape = min(whole, key=lambda each: each.distance(rungs))
        found[state] = shape.like(state, rungs)
        reports[state] = (_borrowed(state, shape.state, rungs),)
    ordered = {state: found[state] for state in measured.states if state in found}
    return ordered, [report for state in measured.states for report in reports[state]]


def _borrowed(state: str, shape: str, rungs: Sequence[RungResult]) -> FitReport:
    return FitReport(
        subject=f"throughput and latency, {state}",
        form=f"the shape of {shape!r}, times the ratio measured here",
        unit="1/s and ms",
        points=len(rungs),
        parameters=(),
        held_out=(),
        used=True,
        why=f"{len(rungs)} rung(s) tell how high the curves lie, not their shape: not enough data for a test",
    )


def _by_state(measured: Measured, what: str, unit: str) -> Iterator[tuple[str, Scaling]]:
    for state in measured.states:
        facts = measured.facts_of(state)
        if what == "database":
            pairs = [(each.rows, float(each.database_bytes)) for each in facts]
            subject, noise = f"bytes of the database, {state}", _BYTES
        else:
            pairs = [(each.rows, each.apply_s) for each in facts if each.apply_s is not None]
            subject, noise = f"seconds to apply {state}", _TIMES
        found = fit_scaling(subject, unit, [x for x, _ in pairs], [y for _, y in pairs], noise=noise)
        if found is not None:
            yield state, found


def _relations(measured: Measured) -> Iterator[tuple[tuple[str, str], Scaling]]:
    for state in measured.states:
        points: dict[str, list[tuple[int, int]]] = {}
        for facts in measured.facts_of(state):
            for relation in facts.relations:
                points.setdefault(relation.name, []).append((facts.rows, relation.bytes))
        for name, pairs in points.items():
            subject = f"bytes of {name}, {state}"
            found = fit_scaling(subject, "bytes", [x for x, _ in pairs], [y for _, y in pairs], noise=_BYTES)
            if found is not None:
                yield (state, name), found


def _refreshes(measured: Measured) -> Iterator[tuple[tuple[str, str], Scaling]]:
    for state in measured.states:
        points: dict[str, list[tuple[int, float]]] = {}
        for facts in measured.facts_of(state):
            for refresh in facts.refreshes:
                points.setdefault(refresh.view, []).append((facts.rows, refresh.seconds))
        for view, pairs in points.items():
            subject = f"seconds to refresh {view}, {state}"
            found = fit_scaling(subject, "s", [x for x, _ in pairs], [y for _, y in pairs], noise=_TIMES)
            if found is not None:
                yield (state, view), found


def _planning(measured: Measured) -> Iterator[tuple[str, Scaling]]:
    for state in measured.states:
        worst: dict[tuple[float, int], float] = {}
        for facts in measured.facts_of(state):
            for planning in facts.planning:
                key = (facts.size, max(1, planning.partitions))
                worst[key] = max(worst.get(key, 0.0), planning.median_ms)
        subject = f"planning time, {state}"
        partitions = [float(count) for _, count in worst]
        found = fit_scaling(subject, "ms", partitions, list(worst.values()), noise=_TIMES, alone="constant")
        if found is not None:
            yield state, found


def _memory(measured: Measured) -> Iterator[tuple[str, Scaling]]:
    shared = float(measured.target.shared_buffers_bytes)
    for state in measured.states:
        each = [float(facts.connection_bytes) for facts in measured.facts_of(state) if facts.connection_bytes]
        if each:
            why = f"shared buffers as set, and {len(each)} measurement(s) of a connection that ran every transaction"
            yield state, known_scaling(f"memory by connections, {state}", "bytes", shared, each, noise=0.1, why=why)


def _wal(measured: Measured) -> Iterator[tuple[str, Scaling]]:
    for state in measured.states:
        rungs = [rung for rung in usable(measured.of(state)) if rung.wal_bytes > 0]
        bytes_each = [rung.wal_bytes / rung.transactions for rung in rungs]
        subject = f"WAL of a transaction, {state}"
        sizes = [rung.size for rung in rungs]
        found = fit_scaling(subject, "bytes", sizes, bytes_each, noise=_TIMES, alone="constant")
        if found is not None:
            yield state, found
