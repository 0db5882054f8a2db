"""What was there to be detected: episodes of volatility, told with hindsight. The evaluator reads this, a detector never.

R(t) is the range of the last 30 minutes within the session. q = R / B, where B is the median of R at this time of day +- 5 min
over the 20 sessions before *and after*. An **opportunity** begins where q reaches 2.2, a **zone** where it reaches 1.7; each ends
when q has stayed below 0.7 of that for 15 minutes, or with the session. Opportunities must be detected. An alert in a zone is never
false, yet a zone that is no opportunity need not be detected: no line through a continuum can be drawn more sharply than that.

Why two truths: were an alert false because its trade lost, false positives <= 10 % would demand wins >= 90 %. So capture and false
positives ask whether something was there, wins ask what a trade on it brought.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

from comporta.detector.bars import Bars, Floats
from comporta.detector.grid import Grid
from comporta.detector.settings import DetectorSettings


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode. ``start`` is the close of its first bar, ``end`` the close of the bar that ended it, epoch seconds UTC.

    ``minute`` is the start in minutes from the session's start; ``peak`` the highest q reached.
    """

    session: int
    start: int
    end: int
    minute: int
    peak: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Truth:
    """Episodes of the scored sessions only, in order of time; ``sessions`` are the numbers of those sessions in the bars."""

    opportunities: tuple[Episode, ...]
    zones: tuple[Episode, ...]
    sessions: tuple[int, ...]


def truth_of(bars: Bars, settings: DetectorSettings) -> Truth:
    """The truth of ``bars``: give M1 where there are M1. The first ``warmup_sessions`` whole sessions are not scored."""
    rule = settings.truth
    grid = Grid.of(bars, settings.market)
    q = hindsight_q(grid, settings)
    scored = range(min(rule.warmup_sessions, len(grid.session)), len(grid.session))
    opportunities: list[Episode] = []
    zones: list[Episode] = []
    for row in scored:
        opportunities += _episodes(grid, q, row, rule.opportunity_q, rule.exit_share, rule.exit_min)
        zones += _episodes(grid, q, row, rule.zone_q, rule.exit_share, rule.exit_min)
    return Truth(tuple(opportunities), tuple(zones), tuple(int(grid.session[row]) for row in scored))


def hindsight_q(grid: Grid, settings: DetectorSettings) -> Floats:
    """q of every cell of ``grid``, NaN where it is undefined: the first 10 minutes, and where there is no bar."""
    rule = settings.truth
    ranges = grid.ranges(window_min=rule.window_min, first_min=rule.first_min)
    around = rule.baseline_sessions_each_side
    baseline = grid.medians(ranges, before=around, after=around + 1, half_width_min=rule.slot_half_width_min)
    baseline[~(baseline > 0)] = float("nan")  # a market that stood still has no scale
    return ranges / baseline


def _episodes(grid: Grid, q: Floats, row: int, enter: float, exit_share: float, exit_min: int) -> list[Episode]:
    """The episodes of one session."""
    found: list[Episode] = []
    begun: tuple[int, int] | None = None
    peak, below_min, last = 0.0, 0, 0
    session, times = int(grid.session[row]), grid.close_time[row].tolist()
    for slot, value in enumerate(q[row].tolist()):
        if times[slot]:
            last = times[slot]
        if isnan(value):
            continue
        if begun is None:
            if value >= enter:
                begun, peak, below_min = (times[slot], (slot + 1) * grid.period_min), value, 0
            continue
        peak = max(peak, value)
        below_min = below_min + grid.period_min if value < exit_share * enter else 0
        if below_min >= exit_min:
            found.append(Episode(session, begun[0], times[slot], begun[1], peak))
            begun = None
    if begun is not None:
        found.append(Episode(session, begun[0], last, begun[1], peak))
    return found
