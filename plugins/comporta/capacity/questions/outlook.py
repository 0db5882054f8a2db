"""The days ahead, and how many rows and how much load each of them has: what every question is asked against.

Everything is ``Draws``: draw ``i`` of the growth meets draw ``i`` of every other model, so that an interval of an answer holds all
that is uncertain in it. A day that is looked for is a number of days from now, ``inf`` where it does not come within the outlook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from comporta.capacity.model import Band, Measured, Scenario, Series
from comporta.capacity.models import Array, Draws, Fitted, Growth
from comporta.capacity.models.draws import align
from comporta.errors import ComportaError
from comporta.release.capacity import CapacityPlan

STEP_DAYS: Final = 7
POINTS: Final = 60  # of a line in a plot
NEGLIGIBLE: Final = 0.05  # a table with a smaller share of the rows may stand still for want of data
FAR: Final = 4.0  # times what was measured, beyond which an extrapolation is called one


class NothingAhead(ComportaError):
    """The forecast was asked to end before it begins."""


@dataclass(frozen=True)
class Outlook:
    """The days from ``now`` to ``end``, a week apart, with rows, size and load on each.

    ``end`` is the scenario's ``until``, or the last day that the history can carry: as far ahead as it reaches back. Without
    enough history ``end`` is ``now``: what holds today can be said, and nothing else. ``short`` says why, and is empty otherwise.
    """

    measured: Measured
    fitted: Fitted
    plan: CapacityPlan
    scenario: Scenario
    now: date
    days: tuple[date, ...]
    rows: Draws
    """Rows of all history tables, shape (days,)."""
    size: Draws
    """Times the rows of the target, shape (days,)."""
    short: str
    still: tuple[str, ...]
    """Tables that are taken to stand still, because their history says nothing."""

    @classmethod
    def of(cls, measured: Measured, fitted: Fitted, plan: CapacityPlan, scenario: Scenario, now: date) -> Self:
        """See as far as the scenario asks and the history carries; NothingAhead when it ends before it begins."""
        if scenario.until <= now:
            raise NothingAhead(
                f"The forecast begins on {now} and is asked until {scenario.until}. Nothing was computed.",
                remedy="Give a later capacity.until in config/release.yaml.",
            )
        histories = measured.target.histories
        total = sum(history.rows for history in histories)
        growths = {h.table: growth for h in histories if (growth := known(fitted.growth.get(h.table))) is not None}
        unknown = [history for history in histories if history.table not in growths]
        heavy = [history.table for history in unknown if history.rows > NEGLIGIBLE * total]
        if heavy or not growths:
            end, short = now, _too_short(fitted, heavy or [history.table for history in histories])
        else:
            end, short = _carried(list(growths.values()), total, scenario.until, now)
        days = weeks(now, end)
        still = sum(history.rows for history in unknown)
        rows = Draws.exactly(np.full(len(days), float(still if not short or end > now else total)))
        if end > now:
            for growth in growths.values():
                rows = rows + growth.rows(days, scenario.growth)
        size = rows / float(max(total, 1)) if end > now else Draws.exactly(np.ones(len(days)))
        return cls(measured, fitted, plan, scenario, now, days, rows, size, short, tuple(h.table for h in unknown))

    @property
    def end(self) -> date:
        """The last day that is seen."""
        return self.days[-1]

    @property
    def reaches(self) -> bool:
        """True when the outlook goes as far as the scenario asks."""
        return self.end >= self.scenario.until

    @property
    def release(self) -> str:
        """The state with the whole release applied."""
        return self.measured.release

    @property
    def facts_rows(self) -> Draws:
        """Rows as ``StateFacts.rows`` counts them, which the models of sizes and durations go by."""
        per_size = [facts.rows / facts.size for facts in self.measured.facts if facts.size > 0]
        return self.size * float(np.median(per_size)) if per_size else self.rows

    @property
    def load(self) -> Draws:
        """How many times the present load each day has."""
        return self.size if self.plan.load_grows == "with_rows" else Draws.exactly(np.ones(len(self.days)))

    @property
    def mean_rate(self) -> Draws | None:
        """Transactions a second, on the mean; None when production recorded none."""
        recorded = self.measured.mix.calls_per_s
        return None if recorded is None or not self.measured.mix.recorded else self.load * recorded

    @property
    def rate(self) -> Draws | None:
        """Transactions a second that the busiest time asks for; None when production recorded none."""
        mean = self.mean_rate
        return None if mean is None else mean * self.plan.peak

    def crosses(self, value: Draws, limit: float | Draws) -> Draws:
        """Days from now until ``value`` first exceeds the limit: 0 when it does already, ``inf`` when it does not by ``end``.

        nan exceeds every limit: it stands for what cannot be served at all. The central day is kept within its own interval.
        """
        over = value - limit
        offsets = np.array([(day - self.now).days for day in self.days], dtype=float)
        return tidy(Draws(first_over(over.value[None], offsets)[0], first_over(over.draws, offsets)))

    def day(self, offset: float) -> date | None:
        """The day so many days from now; None for never."""
        return self.now + timedelta(days=int(offset)) if np.isfinite(offset) else None

    def some(self, points: int) -> NDArray[np.int_]:
        """Indexes of at most so many days, evenly spread, with the first and the last."""
        return np.unique(np.linspace(0, len(self.days) - 1, min(points, len(self.days))).astype(int))

    def line(self, name: str, value: Draws, unit: str) -> Series:
        """A line over the days, thinned for a plot."""
        picked = self.some(POINTS)
        return line(name, [self.days[n].isoformat() for n in picked], value[picked], unit)

    def level(self, name: str, value: float, unit: str) -> Series:
        """A line that stays where it is: an objective."""
        ends = (self.days[0].isoformat(), self.days[-1].isoformat())
        return Series(name=name, x=ends, value=(value, value), low=(None, None), high=(None, None), unit=unit)


def known(growth: Growth | None) -> Growth | None:
    """The growth, when its history says something."""
    return None if growth is None or growth.verdict == "not_enough_data" else growth


def weeks(now: date, end: date) -> tuple[date, ...]:
    """Days a week apart from ``now``, and ``end`` itself."""
    count = (end - now).days
    return tuple(now + timedelta(days=n) for n in sorted({*range(0, count, STEP_DAYS), count}))


def first_over(over: Array, offsets: Array) -> Array:
    """For each row the offset at which it first exceeds 0, between two points as on a straight line; ``inf`` if nowhere."""
    over = np.where(np.isnan(over), np.inf, over)
    broken = over > 0
    first = broken.argmax(axis=1)
    before = np.maximum(first - 1, 0)
    each = np.arange(len(over))
    low, high = over[each, before], over[each, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(high) & (high > low), -low / (high - low), 0.0)
    found = np.where(first == 0, 0.0, offsets[before] + share * (offsets[first] - offsets[before]))
    return np.where(broken.any(axis=1), found, np.inf)


def tidy(draws: Draws) -> Draws:
    """The same with its value brought inside its 80 % interval."""
    low, high = draws.band()
    return Draws(np.clip(draws.value, low, high), draws.draws)


def within(draws: Draws, highest: float) -> Draws:
    """The same, nothing above so much: for differences of days of which one never comes."""
    return Draws(np.minimum(draws.value, highest), np.minimum(draws.draws, highest))


def band(draws: Draws) -> Band:
    """A number with its 80 % interval, to six figures: more are noise, and would differ between machines."""
    value, low, high = (float(f"{float(each):.6g}") for each in (draws.value, *draws.band()))
    return Band(value=min(max(value, low), high), low=low, high=high)


def total(parts: Sequence[Draws]) -> Draws:
    """The sum of several numbers, draw by draw."""
    values = align(*(part.draws for part in parts))
    return Draws(np.sum([part.value for part in parts], axis=0), np.sum(np.broadcast_arrays(*values), axis=0))


def line(name: str, x: Sequence[str | float], value: Draws, unit: str) -> Series:
    """A line with its 80 % band; what there is not is None."""
    low, high = value.band()
    return Series(name=name, x=tuple(x), value=_some(value.value), low=_some(low), high=_some(high), unit=unit)


def _some(values: Any) -> tuple[float | None, ...]:
    return tuple(float(f"{value:.6g}") if np.isfinite(value) else None for value in np.atleast_1d(values))


def _carried(growths: Sequence[Growth], total: int, until: date, now: date) -> tuple[date, str]:
    """The last day that the histories carry, and why no later one; the shortest history that matters decides."""
    heavy = [growth for growth in growths if growth.rows_now > NEGLIGIBLE * total] or list(growths)
    shortest = min(heavy, key=lambda growth: growth.until - growth.months[0])
    carried = now + (shortest.until - shortest.months[0])
    if carried >= until:
        return until, ""
    return carried, f"{len(shortest.months)} months of history of {shortest.table} carry no further than {carried}"


def _too_short(fitted: Fitted, tables: Sequence[str]) -> str:
    found = [f"{table}: {fitted.growth[table].why}" for table in tables if table in fitted.growth]
    return "; ".join(found) or "no history of any table is known (capacity.history in config/release.yaml)"
