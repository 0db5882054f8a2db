"""The technical patterns. Each fires both ways, and lives for the bars of one session."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from math import inf

from comporta.detector.alert import Signal
from comporta.detector.indicators import Prices, rsi, started
from comporta.detector.settings import PatternSettings


def engulfing(settings: PatternSettings) -> Generator[Signal | None, Prices, None]:
    """A body that engulfs the opposite body before it: beyond both of its ends on at least one, and larger by the ratio."""
    ratio = settings.engulfing_body_ratio
    last_open, _, _, last_close = yield None
    signal: Signal | None = None
    while True:
        opened, _, _, close = yield signal
        signal = None
        if last_close < last_open:
            body, before = close - opened, last_open - last_close
            if opened <= last_close and close >= last_open and body > before and body > ratio * before:
                signal = _engulfed(1, body, before)
        elif last_close > last_open:
            body, before = opened - close, last_close - last_open
            if opened >= last_close and close <= last_open and body > before and body > ratio * before:
                signal = _engulfed(-1, body, before)
        last_open, last_close = opened, close


def rsi_divergence(settings: PatternSettings) -> Generator[Signal | None, Prices, None]:
    """A higher high on a lower RSI says down, a lower low on a higher RSI says up.

    Highs and lows are pivots: beyond the ``pivot_bars`` bars before, not exceeded by as many after, so known only that many bars
    later. The first of the two must be overbought (oversold), the second at most ``pivot_max_apart`` bars after it.
    """
    each, apart = settings.pivot_bars, settings.pivot_max_apart
    size = 2 * each + 1
    strength = started(rsi(settings.rsi_period))
    highs: deque[float] = deque(maxlen=size)
    lows: deque[float] = deque(maxlen=size)
    strengths: deque[float] = deque(maxlen=each + 1)
    number = 0
    top: tuple[int, float, float] | None = None
    bottom: tuple[int, float, float] | None = None
    signal: Signal | None = None
    while True:
        prices = yield signal
        signal = None
        _, high, low, _ = prices
        strengths.append(strength(prices))
        highs.append(high)
        lows.append(low)
        number += 1
        if number < size or strengths[0] < 0.0:
            continue
        pivot = highs[each]
        # The newest bar is asked first: it rules out most.
        if pivot >= high and pivot > highs[0] and pivot == max(highs) and highs.index(pivot) == each:
            index = strengths[0]
            if (
                top is not None
                and pivot > top[1]
                and index < top[2]
                and top[2] >= settings.rsi_overbought
                and number - each - top[0] <= apart
            ):
                signal = _diverged(-1, top, pivot, index)
            top = (number - each, pivot, index)
        pivot = lows[each]
        if pivot <= low and pivot < lows[0] and pivot == min(lows) and lows.index(pivot) == each:
            index = strengths[0]
            if (
                bottom is not None
                and pivot < bottom[1]
                and index > bottom[2]
                and bottom[2] <= settings.rsi_oversold
                and number - each - bottom[0] <= apart
            ):
                signal = _diverged(1, bottom, pivot, index)
            bottom = (number - each, pivot, index)


def breakout(settings: PatternSettings) -> Generator[Signal | None, Prices, None]:
    """A close beyond the extreme of the ``breakout_bars`` bars **before** it; again only after a close that was not."""
    window = settings.breakout_bars
    highs, lows = [0.0] * window, [0.0] * window
    number = beyond = 0
    top, bottom = -inf, inf
    top_at = bottom_at = 0
    signal: Signal | None = None
    while True:
        _, high, low, close = yield signal
        signal = None
        if number >= window and (close > top or close < bottom):
            side = 1 if close > top else -1
            if side != beyond:
                signal = _broken(side, close, top if side > 0 else bottom, top - bottom, window)
            beyond = side
        else:
            beyond = 0
        # The level of the next bar: the extremes with their places, searched again only when such a bar leaves the window.
        place = number % window
        highs[place], lows[place] = high, low
        if high >= top:
            top, top_at = high, number
        elif number - top_at >= window:
            top = max(highs)
            top_at = number - (place - highs.index(top)) % window
        if low <= bottom:
            bottom, bottom_at = low, number
        elif number - bottom_at >= window:
            bottom = min(lows)
            bottom_at = number - (place - lows.index(bottom)) % window
        number += 1


def _engulfed(direction: int, body: float, before: float) -> Signal:
    rose, fell = ("rose", "fell") if direction > 0 else ("fell", "rose")
    return Signal(
        "engulfing",
        direction,
        body / before,
        f"A bar that {rose} {body:g} points engulfs the one before it, which {fell} {before:g}.",
    )


def _diverged(direction: int, first: tuple[int, float, float], price: float, index: float) -> Signal:
    word, other = ("low", "higher") if direction > 0 else ("high", "lower")
    return Signal(
        "rsi_divergence",
        direction,
        1.0 + abs(index - first[2]) / 50.0,
        f"The {word} of {price:g} is beyond the {word} of {first[1]:g} before it, with a {other} RSI: {index:.0f} after "
        f"{first[2]:.0f}.",
    )


def _broken(direction: int, close: float, level: float, width: float, window: int) -> Signal:
    word, extreme = ("above", "high") if direction > 0 else ("below", "low")
    return Signal(
        "breakout",
        direction,
        1.0 + abs(close - level) / width if width > 0 else 1.0,
        f"The close of {close:g} is {word} {level:g}, the {extreme} of the {window} bars before it.",
    )
