"""The volatility family: what it says is what a slow computation over whole columns says, both ways, from the past alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.detector_walks import mirrored, only, session_of, walk

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings, MarketSettings, RangeSettings
from comporta.detector.volatility import SeasonalRange

CALM = settings(derandomize=True, deadline=None, max_examples=15)
RANGE, ZSCORE = only("range"), only("zscore")


def said(bars: Bars, rule: DetectorSettings) -> list[tuple[int, int]]:
    """Index and direction of every alert."""
    return [(alert.index, alert.direction) for alert in processador_bdi(bars, rule)]


def slow_zscore(bars: Bars, rule: DetectorSettings) -> list[tuple[int, int]]:
    """The two-sided rule, from the definition: mean and deviation of each window."""
    z, made = rule.zscore, []
    for session in range(len(bars.sessions)):
        at = np.flatnonzero(bars.session == session)
        run = 0
        for place in range(z.window - 1, len(at)):
            window = bars.close[at[place - z.window + 1 : place + 1]]
            score = (window[-1] - window.mean()) / window.std() if window.std() > 0 else 0.0
            side = int(np.sign(score)) if abs(score) > z.threshold else 0
            run = run + side if run * side > 0 else side
            if abs(run) == z.bars and side:
                made.append((int(at[place]), side))
    return made


def slow_range(bars: Bars, rule: DetectorSettings) -> list[int]:
    """The seasonal rule, from the definition, on whole sessions without gaps: the median of a table of earlier sessions."""
    r, period = rule.range, rule.market.period_min
    slots = rule.market.session_min // period
    high, low = bars.high.reshape(-1, slots), bars.low.reshape(-1, slots)
    window, around, first = r.window_min // period, r.slot_half_width_min // period, r.first_min // period
    ranges = np.full_like(high, np.nan)
    for slot in range(first, slots):
        of = slice(max(0, slot - window + 1), slot + 1)
        ranges[:, slot] = high[:, of].max(1) - low[:, of].min(1)
    days = high.max(1) - low.min(1)
    made = []
    for session in range(r.baseline_sessions, len(days)):
        level = np.median(days[session - r.level_short : session]) / np.median(days[session - r.level_long : session])
        alerted = False
        for slot in range(first, slots):
            seen = ranges[session - r.baseline_sessions : session, max(0, slot - around) : slot + around + 1]
            ratio = ranges[session, slot] / (np.nanmedian(seen) * level**r.level_exponent)
            if not alerted and ratio > r.threshold:
                made.append(session * slots + slot)
            alerted = ratio >= r.hysteresis * r.threshold if alerted else ratio > r.threshold
    return made


@CALM
@given(seed=st.integers(0, 10_000), window=st.integers(5, 40), bars=st.integers(1, 3))
def test_the_zscore_is_that_of_its_definition(seed: int, window: int, bars: int) -> None:
    rule = only("zscore", zscore__window=window, zscore__bars=bars, zscore__threshold=1.9)
    market = walk(3, seed)
    # The setup needs the average true range, known from the fifteenth bar of a session on.
    known = [(index, side) for index, side in slow_zscore(market, rule) if market.minute[index] >= 14 * 5]

    assert said(market, rule) == known


@CALM
@given(seed=st.integers(0, 10_000))
def test_the_range_detector_is_that_of_its_definition(seed: int) -> None:
    market = walk(26, seed)

    assert [index for index, _ in said(market, RANGE)] == slow_range(market, RANGE)


@pytest.mark.parametrize("rule", [RANGE, ZSCORE], ids=["range", "zscore"])
def test_a_market_upside_down_alerts_at_the_same_bars_the_other_way(rule: DetectorSettings) -> None:
    market = walk(30, seed=11)

    alerts = said(market, rule)

    assert {side for _, side in alerts} == {1, -1}
    assert said(mirrored(market), rule) == [(index, -side) for index, side in alerts]


def test_a_market_that_stands_still_is_never_extreme() -> None:
    assert said_of([120_000.1] * 100) == []


def test_one_excursion_is_one_alert_however_long_it_lasts() -> None:
    calm = [120_000.0 + 5 * (slot % 2) for slot in range(40)]

    (alert,) = said_of([*calm, *(120_100.0 + 80 * step for step in range(6))])

    assert alert.direction == 1
    assert alert.index == 41, "the second bar in a row"


def said_of(closes: list[float]) -> list[Alert]:
    return list(processador_bdi(session_of(closes, wick=5.0), ZSCORE))


def test_the_range_detector_says_nothing_until_its_baseline_is_whole() -> None:
    assert said(walk(20, seed=11), RANGE) == []


def test_a_session_with_too_few_bars_teaches_nothing() -> None:
    market = walk(30, seed=11)
    cut = market[(market.session != 5) | (market.minute < 200)]
    seen, rule = SeasonalRange(RangeSettings(), MarketSettings()), RangeSettings()

    for bar in cut[cut.session <= 20]:
        seen.step(bar)
    assert seen.expected_at(50) < 0, f"only {rule.baseline_sessions - 1} whole sessions have ended"
    for bar in cut[cut.session == 21]:
        seen.step(bar)
    assert seen.expected_at(50) > 0


def test_missing_bars_leave_the_window_by_the_clock_not_by_their_number() -> None:
    seen = SeasonalRange(RangeSettings(), MarketSettings())
    spike, *_ = walk(1, seed=1)

    seen.step(spike._replace(high=spike.low + 1000.0))
    later = spike._replace(open_time=spike.open_time + 3600, minute=60)
    seen.step(later)

    assert seen.range == later.high - later.low


@CALM
@given(seed=st.integers(0, 10_000), gaps=st.sampled_from([0.0, 0.1]))
def test_the_window_of_the_stream_is_the_window_of_the_column(seed: int, gaps: float) -> None:
    market = walk(2, seed, gaps=gaps)
    seen = SeasonalRange(RangeSettings(), MarketSettings())

    for place, bar in enumerate(market):
        seen.step(bar)
        window = (market.session == bar.session) & (market.minute > bar.minute - 30) & (np.arange(len(market)) <= place)
        assert seen.high - seen.low == market.high[window].max() - market.low[window].min()
        assert seen.range == (seen.high - seen.low if bar.minute >= 10 else -1.0)
