"""The detector's arithmetic compiled: one pass over many million bars, and many settings over one file, on every core.

``fused_pass`` says what the streaming code says, bar for bar: two-sided z-score, engulfing, Wilder's ATR for the stop, Wilder's RSI
beside each alert, and how the trade of each alert ended. ``sweep`` does the z-score and its trades for many settings at once.
Neither knows the session-seasonal range: setups here stand on the ATR, as the streaming code's do before its baseline is known.
numba compiles on the first call (some seconds) and keeps the result on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import floor, sqrt
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

from comporta.detector.bars import Bars, Floats
from comporta.detector.indicators import UNKNOWN
from comporta.detector.settings import DetectorSettings
from comporta.detector.volatility import NOISE

# Not fastmath: a sum in another order is another number, and the streaming code would not say the same.
compiled: Any = njit(cache=True, nogil=True, error_model="numpy")
compiled_in: Any = njit(cache=True, nogil=True, error_model="numpy", inline="always")
compiled_parallel: Any = njit(cache=True, nogil=True, error_model="numpy", parallel=True)
ZSCORE, ENGULFING = 0, 1
NO_TRADE, STOPPED, TARGET, TIME = 0, 1, 2, 3
Ints = NDArray[np.int32]
Bytes = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Passed:
    """The alerts of a pass, one array a column: ``kind`` ZSCORE or ENGULFING, ``direction`` +1 or -1, ``stop`` points off entry.

    ``outcome`` is NO_TRADE (no room left in the session), STOPPED, TARGET or TIME; ``net`` points after slips and fees, 0 without
    a trade; ``exit_index`` the bar at which it ended, -1 without a trade.
    """

    index: Ints
    kind: Bytes
    direction: Bytes
    rsi: Floats
    stop: Floats
    outcome: Bytes
    exit_index: Ints
    net: Floats

    def __len__(self) -> int:
        return len(self.index)

    @property
    def trades(self) -> int:
        """How many alerts had a trade."""
        return int(np.count_nonzero(self.outcome))

    @property
    def wins(self) -> int:
        """How many trades ended above zero, net."""
        return int(np.count_nonzero(self.net > 0))


@dataclass(frozen=True)
class SweepSetting:
    """One point of a sweep. ``direction`` +1 goes with the move, -1 against it."""

    window: int = 20
    threshold: float = 2.0
    bars: int = 2
    stop_factor: float = 0.5
    reward_risk: float = 2.5
    direction: int = 1


@dataclass(frozen=True, eq=False)
class Swept:
    """What each setting did, in the order of the settings; ``net`` is the sum of points, ``net_squares`` that of their squares."""

    alerts: NDArray[np.int64]
    trades: NDArray[np.int64]
    wins: NDArray[np.int64]
    net: Floats
    net_squares: Floats


def fused_pass(bars: Bars, settings: DetectorSettings, *, threads: int = 1) -> Passed:
    """Every z-score and engulfing alert of bars of the session, in order, with its trade; ``threads`` share out the sessions."""
    return pass_columns(
        bars.open, bars.high, bars.low, bars.close, bars.minute, session_starts(bars), settings, threads=threads
    )


def session_starts(bars: Bars) -> NDArray[np.int64]:
    """The number of each session's first bar, and at the end the number of bars."""
    return np.flatnonzero(np.r_[True, np.diff(bars.session) != 0, True]) if len(bars) else np.zeros(1, np.int64)


def pass_columns(
    opened: Floats,
    high: Floats,
    low: Floats,
    close: Floats,
    minute: Ints,
    starts: NDArray[np.int64],
    settings: DetectorSettings,
    *,
    threads: int = 1,
) -> Passed:
    """``fused_pass`` for bare columns; ``starts`` as ``session_starts`` tells them."""
    z, pattern = settings.zscore, settings.patterns
    columns = (opened, high, low, close, minute)
    numbers: tuple[Any, ...] = (
        z.window,
        z.threshold * z.threshold if z.enabled else np.inf,
        z.bars,
        pattern.engulfing_body_ratio if pattern.engulfing else np.inf,
        pattern.rsi_period,
        pattern.atr_period,
        *_trade_numbers(settings),
    )
    # Whole sessions, about the same number of bars for every thread.
    shares = np.searchsorted(starts, np.linspace(0, len(close), threads + 1)[1:-1]) if threads > 1 else ()
    cuts = np.unique(np.array([0, *shares, len(starts) - 1], dtype=np.int64))
    if len(cuts) < 3:
        return Passed(*_pass(*columns, starts, *numbers))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:  # the compiled pass holds no lock of Python
        parts = list(
            pool.map(
                lambda cut: _pass(*columns, starts[cut[0] : cut[1] + 1], *numbers),
                pairwise(cuts.tolist()),
            )
        )
    return Passed(*(np.concatenate([part[n] for part in parts]) for n in range(len(fields(Passed)))))


def sweep(
    bars: Bars, sweep_settings: Sequence[SweepSetting], settings: DetectorSettings, *, threads: int | None = None
) -> Swept:
    """Alerts, trades and net points of the z-score detector under each setting; costs and barriers are those of ``settings``.

    What settings share is done once: the z-score of a window, the alerts of a threshold, the trade of an alert at an exit.
    """
    starts = session_starts(bars)
    signals, signal_of = _distinct([(each.window, each.threshold**2, each.bars) for each in sweep_settings])
    exits, exit_of = _distinct([(each.stop_factor, each.reward_risk, each.direction) for each in sweep_settings])
    windows, window_of = np.unique(signals[:, 0].astype(np.int64), return_inverse=True)
    floors = np.array([signals[window_of == w, 1].min() for w in range(len(windows))])
    order = np.argsort(exit_of, kind="stable")
    before = get_num_threads()
    used = min(threads or before, before)
    set_num_threads(used)
    try:
        true_range = _atr(bars.high, bars.low, bars.close, starts, settings.patterns.atr_period)
        counts, where, signed = _candidates(bars.close, starts, windows, floors)
        alerts, index, side = _alerts(counts, where, signed, true_range, window_of, signals)
        columns = (bars.open, bars.high, bars.low, bars.close, bars.minute)
        ends = np.repeat(starts[1:], np.diff(starts))
        made = _sweep(
            used,
            *columns,
            true_range,
            ends,
            alerts,
            index,
            side,
            signal_of,
            exit_of,
            order,
            exits,
            *_trade_numbers(settings),
        )
    finally:
        set_num_threads(before)
    return Swept(alerts[signal_of], *made)


def _distinct(rows: list[tuple[float, ...]]) -> tuple[Floats, NDArray[np.int64]]:
    """The distinct rows, and for each row the number of its distinct one."""
    made, which = np.unique(np.array(rows, dtype=np.float64).reshape(-1, 3), axis=0, return_inverse=True)
    return made, which.reshape(-1)


def _trade_numbers(settings: DetectorSettings) -> tuple[Any, ...]:
    """The trade's numbers as the compiled code takes them: points and bars."""
    market, trade = settings.market, settings.trade
    return (
        market.tick,
        sqrt(settings.range.window_min / market.period_min),
        trade.stop_factor,
        trade.stop_min_ticks * market.tick,
        trade.reward_risk,
        trade.entry_slip_ticks * market.tick,
        trade.stop_slip_ticks * market.tick,
        trade.target_through_ticks * market.tick,
        max(1, trade.time_exit_min // market.period_min),
        market.period_min,
        market.session_min - trade.no_entry_last_min,
        market.fees_round_trip / market.point_value,
    )


@compiled_in
def _trade(  # noqa: PLR0911 - a trade ends in these ways
    opened, high, low, close, minute, end, at, direction, stop, target,
    slip, stop_slip, through, most_bars, period_min, too_late, fees,
):  # fmt: skip
    """How the trade of an alert at bar ``at`` ends: outcome, the bar, net points."""
    entry_at = at + 1
    if entry_at >= end or minute[entry_at] >= too_late:
        return NO_TRADE, -1, 0.0
    entry = opened[entry_at] + direction * slip
    last = min(end, entry_at + most_bars) - 1
    while minute[last] >= minute[entry_at] + most_bars * period_min:  # bars are missing
        last -= 1
    if direction > 0:
        stop_at, beyond = entry - stop, entry + target + through
        k = entry_at
        while k <= last and (low[k] > stop_at) & (high[k] < beyond):
            k += 1
        if k > last:
            return TIME, last, close[last] - entry - fees
        if low[k] <= stop_at:
            return STOPPED, k, min(stop_at - stop_slip, opened[k]) - entry - fees
        return TARGET, k, target - fees
    stop_at, beyond = entry + stop, entry - target - through
    k = entry_at
    while k <= last and (high[k] < stop_at) & (low[k] > beyond):
        k += 1
    if k > last:
        return TIME, last, entry - close[last] - fees
    if high[k] >= stop_at:
        return STOPPED, k, entry - max(stop_at + stop_slip, opened[k]) - fees
    return TARGET, k, target - fees


@compiled
def _pass(  # noqa: PLR0912, PLR0915 - one pass is the point: calls would not be inlined into it
    opened, high, low, close, minute, starts,
    window, limit, run_bars, body_ratio, rsi_period, atr_period,
    tick, windows_a_bar, stop_factor, stop_min, reward_risk, slip, stop_slip, through, most_bars, period_min, too_late, fees,
):  # fmt: skip
    """The columns of ``Passed``. Every operation is that of the streaming code, in its order: results are equal to the bit."""
    most = 2 * (starts[-1] - starts[0])  # pages that nothing is written to are never touched
    index, exit_index = np.empty(most, np.int32), np.empty(most, np.int32)
    kinds, directions, outcomes = np.empty(most, np.int8), np.empty(most, np.int8), np.empty(most, np.int8)
    strengths, stops, nets = np.empty(most), np.empty(most), np.empty(most)
    rsi_keep, rsi_add = (rsi_period - 1) / rsi_period, 1 / rsi_period
    atr_keep, atr_add = (atr_period - 1) / atr_period, 1 / atr_period
    made = 0
    for number in range(len(starts) - 1):
        begin, end = starts[number], starts[number + 1]
        first = last = last_open = close[begin]
        total = squares = gain = loss = true_range = 0.0
        run = 0
        # Which bars alert is as good as random: nothing branches on prices before an alert is certain, because a wrong guess of
        # the processor costs more than the arithmetic of a bar.
        for i in range(begin, end):
            count = i - begin
            now, now_open = close[i], opened[i]
            spread = max(high[i], last) - min(low[i], last)
            change = now - last
            up, down = max(change, 0.0), max(-change, 0.0)
            if count > atr_period:
                true_range = true_range * atr_keep + spread * atr_add
            elif count > 0:
                true_range += spread
                if count == atr_period:
                    true_range *= atr_add
            if count > rsi_period:
                gain = gain * rsi_keep + up * rsi_add
                loss = loss * rsi_keep + down * rsi_add
            else:
                gain += up
                loss += down
                if count == rsi_period:
                    gain *= rsi_add
                    loss *= rsi_add
            body, before = now - now_open, last_open - last
            rises = (
                (before > 0.0)
                & (body > before)
                & (body > body_ratio * before)
                & (now_open <= last)
                & (now >= last_open)
            )
            falls = (
                (before < 0.0)
                & (body < before)
                & (body < body_ratio * before)
                & (now_open >= last)
                & (now <= last_open)
            )
            last, last_open = now, now_open
            x = now - first
            total += x
            squares += x * x
            if count >= window:
                old = close[i - window] - first
                total -= old
                squares -= old * old
            off = window * x - total
            spread = window * squares - total * total
            beyond = (off * off > limit * spread) & (spread > NOISE * window * squares) & (count >= window - 1)
            side = int(beyond & (off > 0.0)) - int(beyond & (off < 0.0))
            run = side + run * int(run * side > 0)
            z_fires = beyond & (abs(run) == run_bars)
            if not (z_fires | rises | falls) or count < atr_period:
                continue
            z_side = side if z_fires else 0
            body_side = int(rises) - int(falls)
            expected = true_range * windows_a_bar
            if expected <= 0.0:
                continue
            stop = max(floor(stop_factor * expected / tick + 0.5) * tick, stop_min)
            target = floor(reward_risk * stop / tick + 0.5) * tick
            strength = UNKNOWN
            if count >= rsi_period:
                strength = 100.0 * gain / (gain + loss) if gain + loss > 0.0 else 50.0
            for kind in (ZSCORE, ENGULFING):
                side = z_side if kind == ZSCORE else body_side
                if side == 0:
                    continue
                index[made], kinds[made], directions[made] = i, kind, side
                strengths[made], stops[made] = strength, stop
                outcomes[made], exit_index[made], nets[made] = _trade(
                    opened, high, low, close, minute, end, i, side, stop, target,
                    slip, stop_slip, through, most_bars, period_min, too_late, fees,
                )  # fmt: skip
                made += 1
    return (
        index[:made].copy(),
        kinds[:made].copy(),
        directions[:made].copy(),
        strengths[:made].copy(),
        stops[:made].copy(),
        outcomes[:made].copy(),
        exit_index[:made].copy(),
        nets[:made].copy(),
    )


@compiled
def _atr(high, low, close, starts, period):
    """Wilder's average true range after every bar, UNKNOWN where the session is too young."""
    made = np.full(len(close), UNKNOWN)
    keep, add = (period - 1) / period, 1 / period
    for number in range(len(starts) - 1):
        value = 0.0
        for i in range(starts[number] + 1, starts[number + 1]):
            count = i - starts[number]
            spread = max(high[i], close[i - 1]) - min(low[i], close[i - 1])
            if count > period:
                value = value * keep + spread * add
            else:
                value += spread
                if count == period:
                    value *= add
            if count >= period:
                made[i] = value
    return made


@compiled
def _candidates(close, starts, windows, floors):
    """For each window, the bars that any setting could count: how many, where, and z squared with the sign of z."""
    counts = np.zeros(len(windows), np.int64)
    where = np.empty((len(windows), len(close)), np.int32)
    signed = np.empty((len(windows), len(close)))
    for w in range(len(windows)):
        window, limit, made = windows[w], floors[w], 0
        for number in range(len(starts) - 1):
            begin, end = starts[number], starts[number + 1]
            first = close[begin]
            total = squares = 0.0
            for i in range(begin, end):
                x = close[i] - first
                total += x
                squares += x * x
                if i - begin >= window:
                    old = close[i - window] - first
                    total -= old
                    squares -= old * old
                if i - begin >= window - 1:
                    off = window * x - total
                    spread = window * squares - total * total
                    if off * off > limit * spread and spread > NOISE * window * squares:
                        where[w, made] = i
                        signed[w, made] = off * off / spread if off > 0.0 else -off * off / spread
                        made += 1
        counts[w] = made
    return counts, where, signed


@compiled_parallel
def _alerts(counts, where, signed, true_range, window_of, signals):
    """For each row of ``signals`` (window, threshold squared, bars): how many alerts, at which bars, on which side."""
    made = np.zeros(len(signals), np.int64)
    index = np.empty((len(signals), where.shape[1]), np.int32)
    sides = np.empty((len(signals), where.shape[1]), np.int8)
    for n in prange(len(signals)):
        w, limit, run_bars = window_of[n], signals[n, 1], int(signals[n, 2])
        run, last, found = 0, -2, 0
        for k in range(counts[w]):
            square, i = signed[w, k], where[w, k]
            if abs(square) > limit:
                side = 1 if square > 0.0 else -1
                run = side + (run if last == i - 1 and run * side > 0 else 0)
                last = i
                if abs(run) == run_bars and true_range[i] > 0.0:
                    index[n, found], sides[n, found] = i, side
                    found += 1
        made[n] = found
    return made, index, sides


@compiled_parallel
def _sweep(
    threads, opened, high, low, close, minute, true_range, ends, alerts, index, sides, signal_of, exit_of, order, exits,
    tick, windows_a_bar, _stop_factor, stop_min, _reward_risk, slip, stop_slip, through, most_bars, period_min, too_late, fees,
):  # fmt: skip
    """Trades, wins, net points and their squares of every setting; a row of ``exits`` is stop factor, reward:risk, direction."""
    size = len(order)
    trades, wins, nets, net_squares = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
    for thread in prange(threads):
        # The trades of one exit that are known by now: those of a bar and a side are true where its mark is this exit's number.
        marks = np.full((2, len(close)), -1, np.int32)
        known = np.empty((2, len(close)))
        for at in range(size):
            n = order[at]
            e, s = exit_of[n], signal_of[n]
            if e % threads != thread:
                continue
            traded, won, net_sum, square_sum = 0, 0, 0.0, 0.0
            for k in range(alerts[s]):
                i, side = index[s, k], sides[s, k]
                row = 1 if side > 0 else 0
                if marks[row, i] != e:
                    marks[row, i] = e
                    stop = max(floor(exits[e, 0] * (true_range[i] * windows_a_bar) / tick + 0.5) * tick, stop_min)
                    target = floor(exits[e, 1] * stop / tick + 0.5) * tick
                    outcome, _, net = _trade(
                        opened, high, low, close, minute, ends[i], i, side * int(exits[e, 2]), stop, target,
                        slip, stop_slip, through, most_bars, period_min, too_late, fees,
                    )  # fmt: skip
                    known[row, i] = np.nan if outcome == NO_TRADE else net
                net = known[row, i]
                if net == net:  # noqa: PLR0124 - not NaN
                    traded += 1
                    won += net > 0.0
                    net_sum += net
                    square_sum += net * net
            trades[n], wins[n], nets[n], net_squares[n] = traded, won, net_sum, square_sum
    return trades, wins, nets, net_squares
