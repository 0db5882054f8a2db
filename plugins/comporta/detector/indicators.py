"""Indicators that take one bar at a time in constant time. What they remember ends with the session: the night is no bar.

A coroutine here lives for one session and keeps its state in its local variables: ``send = started(atr(14))`` before the first bar,
and ``send(prices)`` is the value after each. Its warm-up is its first loop, so nothing is asked again of every bar.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Prices = tuple[float, float, float, float]
"""Open, high, low and close of a bar, points."""
Out = TypeVar("Out")
UNKNOWN = -1.0


def started(coroutine: Generator[Out, Prices, None]) -> Callable[[Prices], Out]:
    """Bring a coroutine to its first ``yield``; the function that takes the bars of its session."""
    next(coroutine)
    return coroutine.send


def atr(period: int) -> Generator[float, Prices, None]:
    """Wilder's average true range in points; ``UNKNOWN`` for the first ``period`` bars of a session (as TA-Lib counts)."""
    keep, add = (period - 1) / period, 1 / period
    total = 0.0
    _, _, _, last = yield UNKNOWN
    for _ in range(period):
        _, high, low, close = yield UNKNOWN
        total += (high if high > last else last) - (low if low < last else last)
        last = close
    value = total * add
    while True:
        _, high, low, close = yield value
        value = value * keep + ((high if high > last else last) - (low if low < last else last)) * add
        last = close


def rsi(period: int) -> Generator[float, Prices, None]:
    """Wilder's relative strength index, 0..100, 50 where nothing moved; ``UNKNOWN`` for the first ``period`` bars of a session."""
    keep, add = (period - 1) / period, 1 / period
    gain = loss = 0.0
    _, _, _, last = yield UNKNOWN
    for _ in range(period):
        _, _, _, close = yield UNKNOWN
        change = close - last
        if change > 0.0:
            gain += change
        else:
            loss -= change
        last = close
    gain *= add
    loss *= add
    while True:
        moved = gain + loss
        _, _, _, close = yield 100.0 * gain / moved if moved > 0.0 else 50.0
        change = close - last
        last = close
        gain *= keep
        loss *= keep
        if change > 0.0:
            gain += change * add
        else:
            loss -= change * add


def median(values: Iterable[float]) -> float:
    """The middle of the values, or the mean of the two in the middle; ``UNKNOWN`` of none."""
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
    if not ordered:
        return UNKNOWN
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2
