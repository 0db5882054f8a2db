"""What the same trades would have brought on other days: the matched null, without which a win rate says nothing.

A stop far away and a target near by win often whatever the entry. So each draw carries the trades of a session, with their times
of day, directions and reward:risk, to a session drawn at random, all of one session together: trades of one day share its fate, and
a null that scattered them would look surer than it is. Stops keep their distance in units of the range that was expected at that
time of that day (E, causal), which is how they were set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comporta.detector.bars import Bars
from comporta.detector.grid import Grid
from comporta.detector.intervals import Interval
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import Market, Trade

TRADES_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True)
class Null:
    """The win rate and the mean net points of ``draws`` draws; ``p_value``: how often a draw won as often as the trades did.

    ``p_value`` is one-sided and counts the trades themselves as one draw, so it is never 0. ``net_p_value`` asks the same of the
    mean net points.
    """

    draws: int
    win: float
    win_interval: Interval
    p_value: float
    net_points: float
    net_points_interval: Interval
    net_p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "draws": self.draws,
            "win": self.win,
            "win_interval": list(self.win_interval),
            "p_value": self.p_value,
            "net_points": self.net_points,
            "net_points_interval": list(self.net_points_interval),
            "net_p_value": self.net_p_value,
        }


@dataclass(frozen=True, eq=False)
class NullDraws:
    """The raw draws: of each, how many trades found a bar, how many won, and their net points in sum."""

    n: np.ndarray[Any, np.dtype[np.int64]]
    wins: np.ndarray[Any, np.dtype[np.int64]]
    net: np.ndarray[Any, np.dtype[np.float64]]

    @classmethod
    def added(cls, parts: Sequence[NullDraws]) -> NullDraws:
        """The draws of several sets of bars, added draw by draw."""
        return cls(sum(p.n for p in parts), sum(p.wins for p in parts), sum(p.net for p in parts))  # type: ignore[arg-type]


def null_draws(bars: Bars, trades: Sequence[Trade], sessions: Sequence[int], settings: DetectorSettings) -> NullDraws:
    """``gates.null_draws`` draws of ``trades`` over ``sessions``, the scored ones of ``bars``."""
    draws = settings.gates.null_draws
    empty = np.zeros(draws, dtype=np.int64)
    market = Market(bars, settings)
    grid = Grid.of(market.bars, settings.market)
    pool = np.flatnonzero(np.isin(grid.session, np.array(sorted(sessions), dtype=np.int32)))
    if not trades or not len(pool):
        return NullDraws(empty, empty, empty.astype(np.float64))
    rule = settings.range
    expected = grid.expected(
        window_min=rule.window_min,
        first_min=rule.first_min,
        sessions=rule.baseline_sessions,
        half_width_min=rule.slot_half_width_min,
    )
    slot = np.array([trade.minute // grid.period_min for trade in trades])
    known = np.maximum(slot - 1, 0)  # the bar that had closed when the order was sent
    direction = np.array([trade.direction for trade in trades], dtype=np.int64)
    risk = np.array([trade.risk for trade in trades])
    ratio = np.array([trade.reward_risk for trade in trades])
    row_of = {int(session): row for row, session in enumerate(grid.session)}
    own = np.array([row_of.get(trade.session, -1) for trade in trades])
    own_expected = np.where(own >= 0, expected[own, known], np.nan)
    numbers, which = np.unique([trade.session for trade in trades], return_inverse=True)
    rng = np.random.default_rng(settings.seed)
    parts = []
    at_once = max(1, TRADES_AT_ONCE // len(trades))
    for begin in range(0, draws, at_once):
        count = min(at_once, draws - begin)
        rows = pool[rng.integers(len(pool), size=(count, len(numbers)))][:, which]
        index = grid.index[rows, slot[None, :]]
        scale = expected[rows, known[None, :]] / own_expected
        distance = risk * np.where(np.isfinite(scale), scale, 1.0)
        found = index >= 0
        each, column = np.nonzero(found)
        fills = market.fill(index[found], direction[column], distance[found], ratio[column])
        net = fills.gross - market.fees_points
        parts.append(
            (
                np.bincount(each, minlength=count),
                np.bincount(each, weights=net > 0, minlength=count).astype(np.int64),
                np.bincount(each, weights=net, minlength=count),
            )
        )
    n, wins, points = (np.concatenate(column) for column in zip(*parts, strict=True))
    return NullDraws(n, wins, points)


def null_of(draws: NullDraws, trades: Sequence[Trade], settings: DetectorSettings) -> Null | None:
    """The null that ``trades`` are held against; None when there is nothing to compare."""
    known = draws.n > 0
    if not trades or not known.any():
        return None
    win, net = draws.wins[known] / draws.n[known], draws.net[known] / draws.n[known]
    won = sum(trade.win for trade in trades) / len(trades)
    earned = sum(trade.net_points for trade in trades) / len(trades)
    tail = (1 - settings.gates.confidence) / 2

    def spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> Interval:
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)

    close = 1e-9  # a draw that equals the trades is as good as they are, whatever the last bit says
    return Null(
        draws=int(known.sum()),
        win=float(win.mean()),
        win_interval=spread(win),
        p_value=float((1 + (win >= won - close).sum()) / (1 + len(win))),
        net_points=float(net.mean()),
        net_points_interval=spread(net),
        net_p_value=float((1 + (net >= earned - close).sum()) / (1 + len(net))),
    )
