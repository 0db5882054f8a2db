"""Throughput and latency of one state, against clients and size.

The load is a closed loop: each client asks again as soon as it is answered. So by Little's law clients = throughput x mean latency,
and a percentile is the mean latency times a ratio. Throughput follows the Universal Scalability Law (``usl``), the log of the ratio
is linear in log size and in the share of other clients, with slopes that must earn their distance from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from comporta.capacity.model import RungResult
from comporta.capacity.models.curves import Curve, Ratio, Scaled, crowd
from comporta.capacity.models.draws import COUNT, Array, Draws, Value, align, as_draws, seeded
from comporta.capacity.models.kinds import kinds_of
from comporta.capacity.models.robust import first_reached, huber_weights, linear_draws, soft_l1
from comporta.capacity.models.usl import Usl, fit_usl

Percentile = Literal["p50", "p95", "p99"]
Course = Literal["scales", "saturated", "retrograde", "noisy"]

PERCENTILES: Final[tuple[Percentile, ...]] = ("p50", "p95", "p99")
MOST_CLIENTS: Final = 1000
_GRID: Final = np.geomspace(1, MOST_CLIENTS, 241)
_SLOPE: Final = 0.3  # prior standard deviation of a ratio's slope by log size
_CROWD: Final = 0.7  # and of what a crowd adds to its log
_RATIO_SPREAD: Final = 0.1


@dataclass(frozen=True)
class Performance:
    """How one state serves its load: ``sizes`` and ``clients`` are those that were measured, ascending.

    Every argument may be a number, an array or ``Draws``; arguments broadcast against each other, and the answer has their
    shape. With ``Draws`` as an argument, draw ``i`` of the model meets draw ``i`` of the argument.
    """

    state: str
    sizes: tuple[float, ...]
    clients: tuple[int, ...]
    rate: Curve
    latencies: dict[Percentile, Curve]
    usl: Usl | None
    """The law behind ``rate``; None where the state borrows another one's."""
    spread: float
    """Relative noise of throughput around the curve."""

    def throughput(self, clients: Value, size: Value) -> Draws:
        """Transactions a second."""
        return _on(self.rate, clients, size)

    def latency(self, percentile: Percentile, clients: Value, size: Value) -> Draws:
        """Milliseconds."""
        return _on(self.latencies[percentile], clients, size)

    def peak(self, size: Value) -> tuple[Draws, Draws]:
        """Clients at the peak (at most 1,000: where throughput never falls), and the throughput there."""
        values, shape = _over_grid(self.rate, as_draws(size).draws)
        top = np.argmax(values, axis=-1)
        return (
            Draws.of(_vertex(values, top).reshape(shape)),
            Draws.of(values.max(axis=-1).reshape(shape)),
        )

    def clients_at(self, rate: Value, size: Value) -> Draws:
        """The fewest clients (not a whole number; at least 1) whose throughput reaches ``rate``; nan where none do."""
        goal, sizes = np.broadcast_arrays(*align(as_draws(rate).draws, as_draws(size).draws))
        values, shape = _over_grid(self.rate, sizes)
        return Draws.of(first_reached(values, goal.reshape(COUNT, -1), _GRID).reshape(shape))

    def clients_within(self, percentile: Percentile, limit_ms: float, size: Value) -> Draws:
        """The most clients (not a whole number, at most 1,000) whose latency stays within the limit; 0 where one is too slow."""
        values, shape = _over_grid(self.latencies[percentile], as_draws(size).draws)
        passed = first_reached(values, np.full(values.shape[:-1], limit_ms), _GRID)
        most = np.where(np.isnan(passed), MOST_CLIENTS, np.where(values[..., 0] > limit_ms, 0.0, passed))
        return Draws.of(most.reshape(shape))

    def course(self, size: float) -> Course:
        """What more clients bring at a size, seen from the most that were measured.

        ``noisy``: the draws do not agree (80 % interval of the throughput there wider than half of it), ``retrograde``: the peak
        lies below, more than 5 % higher, in nine draws of ten; ``saturated``: twice as many would bring less than a tenth more;
        else ``scales``.
        """
        most = float(self.clients[-1])
        there = self.throughput(most, size)
        low, high = there.band()
        if high - low > 0.5 * there.value:
            return "noisy"
        clients, top = self.peak(size)
        falls = (clients.draws < 0.95 * most) & (there.draws < 0.95 * top.draws)
        if falls.mean() >= 0.9:
            return "retrograde"
        return "saturated" if self.throughput(2 * most, size).value < 1.1 * there.value else "scales"

    def like(self, state: str, rungs: Sequence[RungResult]) -> Performance:
        """Another state of which only a few rungs were measured: this one's shape, times the ratios there."""
        rungs = usable(rungs)
        log_ratio = self._ratio(state, "throughput", self.rate, rungs)
        rate = Scaled(self.rate, log_ratio)
        latencies: dict[Percentile, Curve] = {
            percentile: Scaled(curve, self._ratio(state, percentile, curve, rungs))
            for percentile, curve in self.latencies.items()
        }
        sizes = tuple(sorted({rung.size for rung in rungs}))
        clients = tuple(sorted({rung.clients for rung in rungs}))
        return replace(self, state=state, sizes=sizes, clients=clients, rate=rate, latencies=latencies, usl=None)

    def distance(self, rungs: Sequence[RungResult]) -> float:
        """How far the throughput of other rungs lies from this curve, as the mean of the logs."""
        clients, size, x = (np.array(each, float) for each in columns(usable(rungs)))
        return float(np.abs(np.log(x / self.throughput(clients, size).value)).mean())

    def _ratio(self, state: str, what: str, curve: Curve, rungs: Sequence[RungResult]) -> Array:
        clients, size, x = (np.array(each, float) for each in columns(rungs, what))
        logs = np.log(x) - np.log(_on(curve, clients, size).draws)
        spread = self.spread if what == "throughput" else max(self.spread, _RATIO_SPREAD)
        random = seeded("like", state, what, x.tolist())
        own = spread * random.standard_t(max(2, len(x)), COUNT) / np.sqrt(len(x))
        return np.asarray(np.median(logs, axis=1) + own)


def usable(rungs: Sequence[RungResult]) -> list[RungResult]:
    """Those that carried at least some transactions, by size, clients and round."""
    carried = (
        rung for rung in rungs if rung.transactions > 0 and rung.throughput_per_s > 0 and rung.latency.p50_ms > 0
    )
    return sorted(carried, key=lambda rung: (rung.size, rung.clients, rung.round))


def columns(rungs: Sequence[RungResult], what: str = "throughput") -> tuple[list[float], list[float], list[float]]:
    """Clients, sizes, and throughput or a percentile."""
    return (
        [float(rung.clients) for rung in rungs],
        [rung.size for rung in rungs],
        [value_of(rung, what) for rung in rungs],
    )


def value_of(rung: RungResult, what: str) -> float:
    """The throughput of a rung, or one of its percentiles."""
    return rung.throughput_per_s if what == "throughput" else float(getattr(rung.latency, f"{what}_ms"))


def fit_performance(state: str, rungs: Sequence[RungResult]) -> Performance | None:
    """The fit of one state's rungs; None when there are fewer than three different numbers of clients."""
    rungs = usable(rungs)
    clients = tuple(sorted({rung.clients for rung in rungs}))
    if len(clients) < 3:
        return None
    usl = fit_usl(*columns(rungs), kinds=kinds_of(rungs))
    latencies: dict[Percentile, Curve] = {name: _ratio_of(name, rungs, usl) for name in PERCENTILES}
    return Performance(state, tuple(sorted({rung.size for rung in rungs})), clients, usl, latencies, usl, usl.spread)


def _ratio_of(percentile: Percentile, rungs: Sequence[RungResult], usl: Usl) -> Ratio:
    n, s, x = (np.array(each) for each in columns(rungs))
    latency = np.array([value_of(rung, percentile) for rung in rungs])
    y = np.log(latency * x / (1000 * n))
    design = np.column_stack([np.ones_like(n), crowd(n), np.log(s)])
    # A client alone meets no queue: what the ratio is in a crowd, the rungs with many clients tell.
    weights = huber_weights(y - design @ soft_l1(design, y, 2 * _RATIO_SPREAD), 3) * n / n.max()
    random = seeded("ratio", percentile, y.tolist(), n.tolist(), s.tolist())
    shrink = np.array([np.inf, _CROWD, _SLOPE])
    _, draws, _ = linear_draws(design, y, weights, shrink, _RATIO_SPREAD, 1.0, random)
    return Ratio(usl, draws)


def _on(curve: Curve, clients: Value, size: Value) -> Draws:
    first, second = align(as_draws(clients).draws, as_draws(size).draws)
    return Draws.of(curve.at(np.asarray(first), np.asarray(second)))


def _over_grid(curve: Curve, size: Array) -> tuple[Array, tuple[int, ...]]:
    """Values over sizes, flattened, and the grid of clients: ``(400, sizes, clients)``; and the shape to put them back into."""
    flat = size.reshape(COUNT, -1, 1)
    values = np.broadcast_to(curve.at(_GRID[None, None, :], flat), (COUNT, flat.shape[1], len(_GRID)))
    return values, (COUNT, *size.shape[1:])


def _vertex(values: Array, top: NDArray[np.intp]) -> Array:
    """Clients at the top of the parabola, in logs, through the highest point of the grid and its neighbours."""
    middle = np.clip(top, 1, len(_GRID) - 2)
    before, at, after = (
        np.log(np.take_along_axis(values, (middle + step)[..., None], axis=-1)[..., 0]) for step in (-1, 0, 1)
    )
    bend = np.minimum(before - 2 * at + after, -1e-15)
    shift = np.clip(0.5 * (before - after) / bend, -1, 1)
    return np.asarray(np.where(middle == top, np.exp(np.log(_GRID[middle]) + shift * np.log(_GRID[1])), _GRID[top]))
