"""The volatility family: the range against what this time of day is used to, and the two-sided z-score of closes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from comporta.detector.alert import Signal
from comporta.detector.bars import Bar
from comporta.detector.indicators import UNKNOWN, Prices, median
from comporta.detector.settings import MarketSettings, RangeSettings, ZScoreSettings

NOISE = 1e-12  # a variance below this share of the sum of squares is rounding, not movement


class SeasonalRange:
    """The range of the last minutes, and what sessions before this one let expect at this time of day. Constant time a bar.

    A **slot** is a bar's place in the session, counted from 0. ``range`` and ``expected`` are points, ``UNKNOWN`` where not known:
    before ``first_min`` minutes of the session, and ``expected`` until ``baseline_sessions`` whole sessions have ended.
    The baseline moves once a session, at its first bar; a session with too few bars teaches nothing.
    """

    __slots__ = (
        "_highs",
        "_level",
        "_lows",
        "_market",
        "_medians",
        "_ranges",
        "_session",
        "_session_high",
        "_session_low",
        "_session_ranges",
        "_settings",
        "_today",
        "_window",
        "bars_today",
        "expected",
        "first_slot",
        "full_slot",
        "high",
        "high_slot",
        "low",
        "low_slot",
        "period",
        "range",
        "slots",
    )

    def __init__(self, settings: RangeSettings, market: MarketSettings) -> None:
        self._settings, self._market = settings, market
        self.period = market.period_min
        self.slots = -(-market.session_min // self.period)
        self._window = settings.window_min // self.period
        self.first_slot = settings.first_min // self.period
        self.full_slot = min(self._window, self.slots) - 1
        sessions = settings.baseline_sessions
        self._ranges: deque[list[float]] = deque(maxlen=sessions)
        self._session_ranges: deque[float] = deque(maxlen=max(settings.level_short, settings.level_long))
        self._medians: list[float] = []  # of each slot, times this session's level; empty while unknown
        self._session = -1
        self.high = self.low = self.range = self.expected = UNKNOWN
        self.high_slot = self.low_slot = self.bars_today = 0
        self._begin(-1)

    def step(self, bar: Bar) -> None:
        """Take one bar of the session; the attributes then speak as of its close."""
        _, _, high, low, _, _, session, minute, _ = bar
        if session != self._session:
            self._end()
            self._begin(session)
        slot = minute // self.period
        self.bars_today += 1
        highs, lows, oldest = self._highs, self._lows, slot - self._window
        highs[slot], lows[slot] = high, low
        # The extreme is kept with its slot: the window is searched again only when that bar leaves it.
        if high >= self.high:
            self.high, self.high_slot = high, slot
        elif self.high_slot <= oldest:
            self.high = max(highs[oldest + 1 : slot + 1])
            self.high_slot = slot - highs[slot:oldest:-1].index(self.high)
        if low <= self.low:
            self.low, self.low_slot = low, slot
        elif self.low_slot <= oldest:
            self.low = min(lows[oldest + 1 : slot + 1])
            self.low_slot = slot - lows[slot:oldest:-1].index(self.low)
        if slot >= self.first_slot:
            self.range = self._today[slot] = self.high - self.low
            if self._medians:
                self.expected = self._medians[slot]

    def expected_at(self, slot: int) -> float:
        """The range of a whole window to be expected about now, points; the first whole window early in the session."""
        return self._medians[max(slot, self.full_slot)] if self._medians else UNKNOWN

    def _begin(self, session: int) -> None:
        self._session = session
        self._highs, self._lows = [-1e300] * self.slots, [1e300] * self.slots
        self._today = [UNKNOWN] * self.slots
        self.range = self.expected = UNKNOWN
        self.high, self.high_slot, self.low, self.low_slot, self.bars_today = -1e300, 0, 1e300, 0, 0

    def _end(self) -> None:
        """The session is over: it joins the baseline, and what the next one may expect is told."""
        if not self.bars_today or self.bars_today < self._market.min_session_share * self.slots:
            return
        settings = self._settings
        self._ranges.append(self._today)
        self._session_ranges.append(max(self._highs) - min(self._lows))
        if len(self._ranges) < settings.baseline_sessions or len(self._session_ranges) < settings.level_long:
            return
        every = list(self._session_ranges)
        short, long = median(every[-settings.level_short :]), median(every[-settings.level_long :])
        level = (short / long) ** settings.level_exponent if short > 0 and long > 0 else 1.0
        self._medians = (level * _slot_medians(self._ranges, settings.slot_half_width_min // self.period)).tolist()


def _slot_medians(sessions: Iterable[list[float]], around: int) -> NDArray[np.float64]:
    """Of each slot, the median of what is known of it and of ``around`` slots on each side, in all sessions; UNKNOWN of nothing."""
    table = np.array(list(sessions))
    table[table < 0] = np.inf  # sorts behind all that is known
    edge = np.full((len(table), around), np.inf)
    wide = np.concatenate([edge, table, edge], axis=1)
    pooled = np.sort(np.concatenate([wide[:, n : n + table.shape[1]] for n in range(2 * around + 1)]), axis=0)
    known = np.isfinite(pooled).sum(axis=0)
    slots = np.arange(table.shape[1])
    middle = (pooled[np.maximum(known - 1, 0) // 2, slots] + pooled[np.minimum(known // 2, len(pooled) - 1), slots]) / 2
    return np.where(known > 0, middle, UNKNOWN)


def range_detector(seasonal: SeasonalRange, settings: RangeSettings) -> Generator[Signal | None, Prices, None]:
    """One alert when the range leaves the expected by the threshold; the next only after it came back, or in another session.

    ``seasonal`` has taken the bar already. The direction is the side of the move: up when the close is in the range's upper half.
    """
    threshold, again = settings.threshold, settings.threshold * settings.hysteresis
    alerted = False
    signal: Signal | None = None
    while True:
        _, _, _, close = yield signal
        signal = None
        expected = seasonal.expected
        if expected <= 0.0:
            continue
        found = seasonal.range
        if alerted:
            alerted = found >= again * expected
        elif found > threshold * expected:
            alerted = True
            ratio = found / expected
            signal = Signal(
                "volatility_range",
                1 if 2 * close >= seasonal.high + seasonal.low else -1,
                ratio / threshold,
                f"The last {settings.window_min} minutes moved {found:g} points, {ratio:.2f} times the {expected:.0f} "
                f"expected at this time of day (threshold {threshold:g}).",
            )


def zscore_detector(settings: ZScoreSettings) -> Generator[Signal | None, Prices, None]:
    """One alert when the close is so many deviations off the window's mean, on one side, for ``bars`` bars in a row.

    The window includes the current bar and begins anew each session; the deviation is the population's.
    Sums are of differences from the session's first close: exact for prices on a grid of ticks.
    """
    window, limit, bars = settings.window, settings.threshold * settings.threshold, settings.bars
    width, rounding = float(window), NOISE * window
    _, _, _, first = yield None
    total = squares = 0.0
    closes = [0.0, 0.0]  # the place of the bar that will fill the window, and the first bar
    for _ in range(window - 2):
        _, _, _, close = yield None
        x = close - first
        closes.append(x)
        total += x
        squares += x * x
    run = 0
    signal: Signal | None = None
    while True:
        for at in range(window):
            _, _, _, close = yield signal
            signal = None
            x, old = close - first, closes[at]
            closes[at] = x
            total = total + x - old
            squares = squares + x * x - old * old
            off = width * x - total
            spread = width * squares - total * total
            if off * off > limit * spread and spread > rounding * squares:
                # The run counts up from 1 above the mean, down from -1 below it.
                run = (run + 1 if run > 0 else 1) if off > 0.0 else (run - 1 if run < 0 else -1)
                if run in (bars, -bars):
                    signal = _off_the_mean(off / sqrt(spread), settings)
            else:
                run = 0


def _off_the_mean(z: float, settings: ZScoreSettings) -> Signal:
    return Signal(
        "volatility_zscore",
        1 if z > 0.0 else -1,
        abs(z) / settings.threshold,
        f"The close is {abs(z):.2f} standard deviations {'above' if z > 0 else 'below'} the mean of {settings.window} bars, "
        f"for {settings.bars} bars in a row (threshold {settings.threshold:g}).",
    )
