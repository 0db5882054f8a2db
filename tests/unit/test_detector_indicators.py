"""Indicators bar by bar say what the textbook says of the whole column, and forget the night."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.detector_walks import session_of, walk

from comporta.detector.bars import Bars
from comporta.detector.indicators import UNKNOWN, atr, median, rsi, started

CALM = settings(derandomize=True, deadline=None, max_examples=20)


def textbook_atr(bars: Bars, period: int) -> list[float]:
    ranges = np.maximum(bars.high[1:], bars.close[:-1]) - np.minimum(bars.low[1:], bars.close[:-1])
    made = [UNKNOWN] * period + [float(ranges[:period].mean())]
    for each in ranges[period:]:
        made.append((made[-1] * (period - 1) + float(each)) / period)
    return made


def textbook_rsi(bars: Bars, period: int) -> list[float]:
    changes = np.diff(bars.close)
    ups, downs = np.maximum(changes, 0), np.maximum(-changes, 0)
    up, down = ups[:period].mean(), downs[:period].mean()
    made = [UNKNOWN] * period + [float(100 * up / (up + down))]
    for gained, lost in zip(ups[period:], downs[period:], strict=True):
        up, down = (up * (period - 1) + gained) / period, (down * (period - 1) + lost) / period
        made.append(float(100 * up / (up + down)))
    return made


@CALM
@given(seed=st.integers(0, 10_000), period=st.integers(2, 30))
def test_the_streams_say_what_the_textbook_says_of_the_column(seed: int, period: int) -> None:
    bars = walk(1, seed)

    ranges, strength = started(atr(period)), started(rsi(period))
    assert [ranges(bar[1:5]) for bar in bars] == pytest.approx(textbook_atr(bars, period))
    assert [strength(bar[1:5]) for bar in bars] == pytest.approx(textbook_rsi(bars, period))


def test_a_market_that_does_not_move_has_a_neutral_strength_and_no_range() -> None:
    still = session_of([100.0] * 20)
    strength, ranges = started(rsi(14)), started(atr(14))

    assert [strength(bar[1:5]) for bar in still][-1] == 50.0
    assert [ranges(bar[1:5]) for bar in still][-1] == 0.0


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1))
@CALM
def test_the_median_is_that_of_numpy(values: list[float]) -> None:
    assert median(values) == pytest.approx(float(np.median(values)))


def test_the_median_of_nothing_is_unknown() -> None:
    assert median([]) == UNKNOWN
