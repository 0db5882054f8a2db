"""Models that know the truth of a ``Catalogue``, each draw a little beside it: forecasts can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, cast

import numpy as np
from tests.capacity_data import APPLY_S, BYTES, MB, Catalogue, Law, partition_shares

from comporta.capacity.model import BEFORE, FitReport
from comporta.capacity.models import COUNT, Array, Draws, Fitted, Value, as_draws
from comporta.capacity.models.draws import align


def beside(value: Array, spread: float, seed: int, draws: Array | None = None) -> Draws:
    """The truth with ``spread`` as the standard deviation of its draws' logarithms."""
    noise = np.exp(np.random.default_rng(seed).normal(0, spread, COUNT)) if spread else np.ones(COUNT)
    values, noise = align(np.broadcast_to(value, (COUNT, *value.shape)) if draws is None else draws, noise)
    return Draws(value, values * noise)


@dataclass(frozen=True)
class TrueGrowth:
    """Rows that go on as the catalogue's law says."""

    catalogue: Catalogue
    table: str
    share: float
    spread: float
    verdict: str = "growing"
    why: str = "as drawn"
    form: str = "power"
    partition: str | None = None
    off: float = 1.0
    """How far the fit is from the truth, all draws together."""

    @property
    def months(self) -> tuple[date, ...]:
        return tuple(self.catalogue.months()[:-1])

    @property
    def added(self) -> tuple[int, ...]:
        starts = [self.catalogue.made_until(month) * self.share for month in self.catalogue.months()]
        return tuple(round(late - early) for early, late in pairwise(starts))

    @property
    def rows_now(self) -> int:
        return round(self.catalogue.rows * self.share)

    @property
    def until(self) -> date:
        return self.catalogue.last_day

    def rows(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        first, last = self.catalogue.first_day, self.catalogue.last_day + timedelta(1)
        several = [days] if isinstance(days, date) else list(days)
        share = np.array([(day - first).days for day in several], dtype=float) / (last - first).days
        grown = self.rows_now * (np.maximum(share, 1.0) ** self.catalogue.power - 1) * times * self.off
        ahead = beside(grown, self.spread, 1) + float(self.rows_now)
        return ahead[0] if isinstance(days, date) else ahead

    def per_month(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        assert isinstance(days, date)
        return self.rows(days + timedelta(30), times) - self.rows(days, times)


@dataclass(frozen=True)
class TruePerformance:
    """Throughput and latency by a state's law."""

    state: str
    law: Law
    sizes: tuple[float, ...]
    clients: tuple[int, ...]
    spread: float

    def _by(self, function: Callable[[Array, Array], Array], first: Value, size: Value, sign: int) -> Draws:
        one, two = as_draws(first), as_draws(size)
        with np.errstate(invalid="ignore"):
            values = function(one.value, two.value)
            drawn = function(*align(one.draws, two.draws))
        return beside(np.asarray(values), sign * self.spread, 2, np.asarray(drawn))

    def _mean_ms(self, clients: Array, size: Array) -> Array:
        law = self.law
        slowed = 1 + law.sigma * (clients - 1) + law.kappa * clients * (clients - 1)
        return np.asarray(1000 * slowed / (law.per_s * size**-law.slope))

    def throughput(self, clients: Value, size: Value) -> Draws:
        return self._by(lambda n, s: n / self._mean_ms(n, s) * 1000, clients, size, 1)

    def latency(self, percentile: str, clients: Value, size: Value) -> Draws:
        times = {"p50": 0.6, "p95": self.law.p95, "p99": 4.5}[percentile]
        return self._by(lambda n, s: self._mean_ms(n, s) * times, clients, size, 1)

    def peak(self, size: Value) -> tuple[Draws, Draws]:
        best = np.sqrt((1 - self.law.sigma) / self.law.kappa) if self.law.kappa else 1000.0
        return Draws.exactly(np.broadcast_to(best, as_draws(size).value.shape)), self.throughput(best, size)

    def clients_at(self, rate: Value, size: Value) -> Draws:
        def clients(x: Array, s: Array) -> Array:
            law = self.law
            a, b, c = law.kappa * x, x * (law.sigma - law.kappa) - law.per_s * s**-law.slope, x * (1 - law.sigma)
            found = np.where(
                a > 0, (-b - np.sqrt(b * b - 4 * a * c)) / np.where(a > 0, 2 * a, 1), np.where(b < 0, -c / b, np.nan)
            )
            return np.asarray(np.where(np.isnan(found), np.nan, np.maximum(found, 1)))

        return self._by(clients, rate, size, 0)

    def clients_within(self, percentile: str, limit_ms: float, size: Value) -> Draws:
        assert percentile == "p95"
        times = self.law.p95
        known = as_draws(size)

        def most(s: Array, noise: Array) -> Array:
            law = self.law
            room = limit_ms / (1000 * times * noise) * law.per_s * s**-law.slope - 1
            if not law.kappa:
                return (
                    np.asarray(np.where(room < 0, 0, 1 + room / law.sigma)) if law.sigma else np.full_like(room, 1000.0)
                )
            half = (law.sigma + law.kappa) / (2 * law.kappa)
            return np.asarray(np.where(room < 0, 0, 1 - half + np.sqrt(half**2 + room / law.kappa)))

        noise = beside(np.ones(()), self.spread, 2)
        return Draws(most(known.value, noise.value), most(*align(known.draws, noise.draws)))


@dataclass(frozen=True)
class Affine:
    """``base + slope * x``."""

    base: float
    slope: float
    spread: float
    x_low: float = 1.0
    x_high: float = 1e9
    seed: int = 3

    def at(self, x: Value) -> Draws:
        known = as_draws(x)
        return beside(
            self.base + self.slope * known.value, self.spread, self.seed, self.base + self.slope * known.draws
        )


def truth(catalogue: Catalogue | None = None, spread: float = 0.05, **changes: Any) -> Fitted:
    """Models of a catalogue; ``changes`` replace fields of ``Fitted``."""
    it = catalogue or Catalogue()
    states = it.states
    last = states[-1]
    per_row = {state: sum(BYTES[state]) + 15 for state in states}
    models: dict[str, Any] = {
        "performance": {state: TruePerformance(state, it.laws[state], it.sizes, it.clients, spread) for state in states},
        "growth": {
            "catalogue.geometrias": TrueGrowth(it, "catalogue.geometrias", 1.0, spread),
            "catalogue.annotations": TrueGrowth(it, "catalogue.annotations", 0.1, spread),
            "catalogue.edits": TrueGrowth(it, "catalogue.edits", 0.001, spread, "not_enough_data", "1 month of history"),
        },
        "partition_growth": {
            ("catalogue.geometrias", str(year)): TrueGrowth(it, "catalogue.geometrias", share, spread, partition=str(year))
            for year, share in partition_shares().items()
        },
        "relation_bytes": {
            (last, relation.name): Affine(32_768, relation.bytes / (it.rows * 1.1), 0.01) for relation in it.relations(last, 1)
        },
        "database_bytes": {state: Affine(12 * MB, each / 1.1, 0.01) for state, each in per_row.items()},
        "refresh_s": {(last, "catalogue.search_names"): Affine(0.1, it.refresh_s / 330_000, spread)},
        "planning_ms": {state: Affine(0.4, 0.021, spread, 15, 1 if state == BEFORE else 256) for state in (BEFORE, last)},
        "memory_bytes": {state: Affine(1.1e9, (11 if state == BEFORE else 14) * MB, spread) for state in (BEFORE, last)},
        "wal_bytes": {state: Affine(1300, 0, spread) for state in (BEFORE, last)},
        "apply_s": {change: Affine(0, seconds / 330_000, spread) for change, seconds in APPLY_S.items() if change in states},
        "reports": (
            FitReport(
                subject="throughput", form="Universal Scalability Law", unit="/s", points=30, parameters=(), held_out=(), used=True,
                why="nearer than the naive rules on every held-out rung",
            ),
        ),
    }  # fmt: skip
    return Fitted(**cast(Any, models | changes))
