"""The tests on what a fit has not seen, and what follows: a model that a naive rule beats is not used.

Of the load models: the fit without the highest number of clients has to tell the rungs there, the fit without the largest size
those of that size. Beside it stand the two rules of thumb, "as at the last rung" and "on the line through the last two". A rule
wins when its median error is smaller by more than the difference between rounds of one rung, which is what the comparison cannot
see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median
from typing import Final, Literal

import numpy as np

from comporta.capacity.model import FitReport, HeldOut, RungResult
from comporta.capacity.models.curves import RULES, Curve, Replaced, Rule, table
from comporta.capacity.models.draws import COUNT, Array, seeded
from comporta.capacity.models.performance import (
    PERCENTILES,
    Percentile,
    Performance,
    columns,
    fit_performance,
    usable,
    value_of,
)

Direction = Literal["client", "size"]

_SUBJECTS: Final[tuple[str, ...]] = ("throughput", *PERCENTILES)
_NOISE: Final = {"throughput": 0.05, "p50": 0.1, "p95": 0.1, "p99": 0.15}  # where each rung was climbed once


@dataclass(frozen=True)
class _Test:
    direction: Direction
    held: tuple[HeldOut, ...]

    @property
    def ours(self) -> float:
        return median(each.error for each in self.held)

    @property
    def naive(self) -> tuple[Rule, float]:
        """The better rule, by the median of its errors."""
        errors = {rule: median(each.naive_error[rule] for each in self.held) for rule in RULES}
        best = min(RULES, key=lambda rule: errors[rule])
        return best, errors[best]


def tried_performance(state: str, rungs: Sequence[RungResult]) -> tuple[Performance | None, tuple[FitReport, ...]]:
    """The load model of a state, with naive rules where they did better, and a report of throughput and each percentile."""
    rungs = usable(rungs)
    whole = fit_performance(state, rungs)
    if whole is None:
        few = len({rung.clients for rung in rungs})
        return None, (
            _missing(state, len(rungs), f"not enough data: {few} number(s) of clients, at least 3 are needed"),
        )
    without: dict[Direction, Performance | None] = {
        "client": fit_performance(state, [rung for rung in rungs if rung.clients < whole.clients[-1]]),
        "size": fit_performance(state, [rung for rung in rungs if rung.size < whole.sizes[-1]])
        if len(whole.sizes) > 2
        else None,
    }
    reports = []
    rate: Curve = whole.rate
    latencies: dict[Percentile, Curve] = dict(whole.latencies)
    for subject in _SUBJECTS:
        tests = {
            direction: _test(subject, direction, partial, rungs)
            for direction, partial in without.items()
            if partial is not None
        }
        curve, report = _decide(whole, subject, tests, rungs)
        reports.append(report)
        if subject == "throughput":
            rate = curve
        for percentile in PERCENTILES:
            if percentile == subject:
                latencies[percentile] = curve
    return replace(whole, rate=rate, latencies=latencies), tuple(reports)


def _test(subject: str, direction: Direction, partial: Performance, rungs: Sequence[RungResult]) -> _Test:
    if direction == "client":
        last = max(rung.clients for rung in rungs)
        held = [rung for rung in rungs if rung.clients == last]
        seen = [rung for rung in rungs if rung.clients < last]
    else:
        largest = max(rung.size for rung in rungs)
        held = [rung for rung in rungs if rung.size == largest]
        seen = [rung for rung in rungs if rung.size < largest]
    cells = _medians(subject, seen)
    rules = {rule: table(cells, rule, rule) for rule in RULES}
    found = []
    for clients, size, measured in _medians(subject, held):
        asked = (np.array([[clients]]), np.array([[size]]))
        ours = _predict(partial, subject, clients, size)
        naive: dict[str, float] = {rule: float(curve.at(*asked)[0, 0]) for rule, curve in rules.items()}
        found.append(
            HeldOut(
                what=f"next {direction} rung: {clients:g} clients, {size:g}x rows",
                measured=measured,
                predicted=ours,
                error=abs(ours - measured) / measured,
                naive={**naive},
                naive_error={rule: abs(value - measured) / measured for rule, value in naive.items()},
            )
        )
    return _Test(direction, tuple(found))


def _predict(model: Performance, subject: str, clients: float, size: float) -> float:
    for percentile in PERCENTILES:
        if percentile == subject:
            return float(model.latency(percentile, clients, size).value)
    return float(model.throughput(clients, size).value)


def _decide(
    whole: Performance, subject: str, tests: dict[Direction, _Test], rungs: Sequence[RungResult]
) -> tuple[Curve, FitReport]:
    noise = _noise(subject, rungs)
    model = whole.rate
    for percentile in PERCENTILES:
        if percentile == subject:
            model = whole.latencies[percentile]
    lost: dict[Direction, Rule] = {}
    said = []
    for direction in ("client", "size"):
        test = tests.get(direction)
        if test is None:
            said.append(f"next {direction} rung: not enough data for the test")
            continue
        rule, error = test.naive
        beaten = test.ours > error + noise
        if beaten:
            lost[direction] = rule
        verdict = f"the rule {rule!r} is used" if beaten else "used"
        said.append(f"next {direction} rung: {test.ours:.1%} off, the best naive rule ({rule}) {error:.1%}: {verdict}")
    curve = model
    if lost:
        spread = max([noise, *(tests[direction].naive[1] for direction in lost)])
        random = seeded("rule", whole.state, subject, sorted(lost))
        error_draws: Array = spread * random.standard_normal(COUNT)
        cells = _medians(subject, rungs)
        by_clients, by_size = lost.get("client"), lost.get("size")
        curve = Replaced(
            model, table(cells, by_clients or "last rung", by_size or "last rung", error_draws), by_clients, by_size
        )
    form = whole.usl.form if whole.usl else "none"
    if subject != "throughput":
        form = "Little's law on the throughput, times a ratio that a crowd of clients changes, and a power of size"
    report = FitReport(
        subject=f"{subject}, {whole.state}",
        form=form,
        unit="1/s" if subject == "throughput" else "ms",
        points=len(rungs),
        parameters=whole.usl.parameters if whole.usl and subject == "throughput" else (),
        held_out=tuple(each for test in tests.values() for each in test.held),
        used=not lost,
        why="; ".join(said) + f" (rounds differ by {noise:.1%})",
    )
    return curve, report


def _noise(subject: str, rungs: Sequence[RungResult]) -> float:
    """The relative spread between rounds of one rung; a usual one where each was climbed once."""
    squares, freedom = 0.0, 0
    for _, same in groupby(sorted(rungs, key=_cell), key=_cell):
        logs = np.log([value_of(rung, subject) for rung in same])
        squares += float(((logs - logs.mean()) ** 2).sum())
        freedom += len(logs) - 1
    return float(np.sqrt(squares / freedom)) if freedom >= 3 else _NOISE[subject]


def _medians(subject: str, rungs: Sequence[RungResult]) -> list[tuple[float, float, float]]:
    found = []
    for (clients, size), same in groupby(sorted(rungs, key=_cell), key=_cell):
        found.append((clients, size, float(np.median(columns(list(same), subject)[2]))))
    return found


def _cell(rung: RungResult) -> tuple[float, float]:
    return float(rung.clients), rung.size


def _missing(state: str, points: int, why: str) -> FitReport:
    return FitReport(
        subject=f"throughput, {state}",
        form="none",
        unit="1/s",
        points=points,
        parameters=(),
        held_out=(),
        used=False,
        why=why,
    )
