"""Indicators that take one bar at a time in constant time. What they remember ends with the session: the night is no bar.

A coroutine here keeps its state in its local variables: ``send = started(atr(14))``, and ``send(bar)`` is the value after that bar.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from comporta.detector.bars import Bar

Out = TypeVar("Out")
UNKNOWN = -1.0


def started(coroutine: Generator[Out, Bar, None]) -> Callable[[Bar], Out]:
    """Bring a coroutine to its first ``yield``; the function that takes its bars."""
    next(coroutine)
    return coroutine.send


def atr(period: int) -> Generator[float, Bar, None]:
    """Wilder's average true range in points; ``UNKNOWN`` for the first ``period`` bars of a session (as TA-Lib counts)."""
    keep, add = (period - 1) / period, 1 / period
    session, last, total, value, count = -1, 0.0, 0.0, UNKNOWN, 0
    while True:
        _, _, high, low, close, _, now, _, _ = yield value
        if now != session:
            session, total, value, count = now, 0.0, UNKNOWN, 0
        else:
            true_range = (high if high > last else last) - (low if low < last else last)
            if count >= period:
                value = value * keep + true_range * add
            else:
                count += 1
                total += true_range
                if count == period:
                    value = total * add
        last = close


def rsi(period: int) -> Generator[float, Bar, None]:
    """Wilder's relative strength index, 0..100, 50 where nothing moved; ``UNKNOWN`` for the first ``period`` bars of a session."""
    keep, add = (period - 1) / period, 1 / period
    session, last, gain, loss, value, count = -1, 0.0, 0.0, 0.0, UNKNOWN, 0
    while True:
        _, _, _, _, close, _, now, _, _ = yield value
        if now != session:
            session, gain, loss, value, count = now, 0.0, 0.0, UNKNOWN, 0
        else:
            change = close - last
            if change > 0.0:
                up, down = change, 0.0
            else:
                up, down = 0.0, -change
            if count >= period:
                gain = gain * keep + up * add
                loss = loss * keep + down * add
                moved = gain + loss
                value = 100.0 * gain / moved if moved > 0.0 else 50.0
            else:
                count += 1
                gain += up
                loss += down
                if count == period:
                    gain *= add
                    loss *= add
                    value = 100.0 * gain / (gain + loss) if gain + loss > 0.0 else 50.0
        last = close


def median(values: Iterable[float]) -> float:
    """The middle of the values, or the mean of the two in the middle; ``UNKNOWN`` of none."""
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
    if not ordered:
        return UNKNOWN
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2
