"""Alerters that know nothing, or little: a gate that one of them passes measures nothing. Each fails at least one.

They see closed bars only, of the detector's period, in whole sessions with an expected range, and set stops as the detector does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from comporta.detector.alert import Alert, Direction
from comporta.detector.bars import Bars, Floats
from comporta.detector.grid import Grid
from comporta.detector.settings import DetectorSettings

COOLDOWN_MIN = 30
RANDOM_SHARE = 0.05
TRUE_RANGE_FACTOR = 2.5
EARLIER_WINDOW, EARLIER_THRESHOLD = 20, 2.0

Signs = NDArray[np.int64]
Alerter = Callable[[Bars, DetectorSettings], tuple[Alert, ...]]


@dataclass(frozen=True, eq=False)
class _Seen:
    """The bars of the detector's period, where each lies in the grid, and E at each (NaN where there is none)."""

    bars: Bars
    grid: Grid
    expected: Floats

    @classmethod
    def of(cls, bars: Bars, settings: DetectorSettings) -> _Seen:
        made = bars.resampled(settings.market.period_min)
        grid, rule = Grid.of(made, settings.market), settings.range
        table = grid.expected(
            window_min=rule.window_min,
            first_min=rule.first_min,
            sessions=rule.baseline_sessions,
            half_width_min=rule.slot_half_width_min,
        )
        expected = np.full(len(made), np.nan)
        there = grid.index >= 0
        expected[grid.index[there]] = table[there]
        return cls(made, grid, expected)

    def alerts(self, signs: Signs, name: str, settings: DetectorSettings) -> tuple[Alert, ...]:
        """An alert at every bar whose sign is not 0."""
        trade, tick = settings.trade, settings.market.tick
        found = []
        for index in np.flatnonzero((signs != 0) & np.isfinite(self.expected)).tolist():
            bar = self.bars[index]
            direction: Direction = 1 if signs[index] > 0 else -1
            entry = bar.close + direction * trade.entry_slip_ticks * tick
            risk = max(trade.stop_min_ticks * tick, trade.stop_factor * float(self.expected[index]))
            found.append(
                Alert(
                    kind="volatility_zscore" if name == "the earlier rule" else "volatility_range",
                    direction=direction,
                    time=bar.close_time,
                    index=index,
                    session=bar.session,
                    minute=bar.minute,
                    price=bar.close,
                    entry=entry,
                    stop=entry - direction * risk,
                    target=entry + direction * trade.reward_risk * risk,
                    reward_risk=trade.reward_risk,
                    confidence=0.0,
                    reason=f"Baseline: {name}.",
                )
            )
        return tuple(found)


def always_on(bars: Bars, settings: DetectorSettings) -> tuple[Alert, ...]:
    """An alert every 30 minutes from the first minute that has a range, in the direction of the bar."""
    seen = _Seen.of(bars, settings)
    since = seen.bars.minute + seen.bars.period_min - settings.range.first_min
    return seen.alerts(np.where(since % COOLDOWN_MIN == 0, _side(seen.bars), 0), "always on", settings)


def random_bars(bars: Bars, settings: DetectorSettings) -> tuple[Alert, ...]:
    """An alert at 5 % of the bars, either way, drawn by the seed of the settings."""
    seen = _Seen.of(bars, settings)
    rng = np.random.default_rng(settings.seed)
    drawn = rng.random(len(seen.bars)) < RANDOM_SHARE
    ways = rng.choice(np.array([-1, 1]), size=len(seen.bars))
    return seen.alerts(np.where(drawn, ways, 0), "random", settings)


def previous_bar(bars: Bars, settings: DetectorSettings) -> tuple[Alert, ...]:
    """An alert when a bar's true range exceeds 2.5 times the mean true range of the 14 before it, in the bar's direction."""
    seen = _Seen.of(bars, settings)
    width = settings.patterns.atr_period
    signs = np.zeros(len(seen.bars), dtype=np.int64)
    if len(seen.bars) > width:
        before = np.r_[seen.bars.open[:1], seen.bars.close[:-1]]
        true_range = np.maximum(seen.bars.high, before) - np.minimum(seen.bars.low, before)
        mean = sliding_window_view(true_range[:-1], width).mean(1)
        signs[width:] = np.where(true_range[width:] > TRUE_RANGE_FACTOR * mean, _side(seen.bars)[width:], 0)
    return seen.alerts(signs, "a true range above 2.5 ATR", settings)


def earlier_rule(bars: Bars, settings: DetectorSettings) -> tuple[Alert, ...]:
    """The rule that this detector replaced, made two-sided: |z| of 20 closes above 2 on two bars in a row, nights in the window."""
    seen = _Seen.of(bars, settings)
    width = EARLIER_WINDOW
    signs = np.zeros(len(seen.bars), dtype=np.int64)
    if len(seen.bars) > width:
        window = sliding_window_view(seen.bars.close, width)
        spread = window.std(1)
        z = np.divide(window[:, -1] - window.mean(1), spread, out=np.zeros(len(window)), where=spread > 0)
        side = np.where(np.abs(z) > EARLIER_THRESHOLD, np.sign(z), 0).astype(np.int64)
        signs[width:] = np.where(side[1:] == side[:-1], side[1:], 0)
    return seen.alerts(signs, "the earlier rule", settings)


BASELINES: Mapping[str, Alerter] = {
    "always on": always_on,
    "random": random_bars,
    "a true range above 2.5 ATR": previous_bar,
    "the earlier rule": earlier_rule,
}


def _side(bars: Bars) -> Signs:
    """+1 where the bar closed at or above its open, else -1."""
    return np.where(bars.close >= bars.open, 1, -1).astype(np.int64)
