"""The compiled pass says what the streaming code says, to the bit, and its trades end as the definition has it."""

from __future__ import annotations

from dataclasses import fields
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.detector_walks import only, walk

from comporta.detector.bars import Bars
from comporta.detector.indicators import rsi, started
from comporta.detector.kernel import (
    ENGULFING,
    NO_TRADE,
    STOPPED,
    TARGET,
    TIME,
    Passed,
    SweepSetting,
    fused_pass,
    sweep,
)
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import Market

CALM = settings(derandomize=True, deadline=None, max_examples=20)
RULE = only("zscore", "engulfing")


def ended(bars: Bars, rule: DetectorSettings, at: int, direction: int, stop: float) -> tuple[int, int, float]:
    """Outcome, bar and net points of one trade, slowly, in the words of the definition."""
    trade, market = rule.trade, rule.market
    tick, fees = market.tick, market.fees_round_trip / market.point_value
    target = np.floor(trade.reward_risk * stop / tick + 0.5) * tick
    begin = at + 1
    if begin >= len(bars) or bars.session[begin] != bars.session[at]:
        return NO_TRADE, -1, 0.0
    if bars.minute[begin] >= market.session_min - trade.no_entry_last_min:
        return NO_TRADE, -1, 0.0
    entry = bars.open[begin] + direction * trade.entry_slip_ticks * tick
    last = begin
    for k in range(begin, len(bars)):
        if bars.session[k] != bars.session[at] or bars.minute[k] >= bars.minute[begin] + trade.time_exit_min:
            break
        last = k
        worst, best = (bars.low[k], bars.high[k]) if direction > 0 else (bars.high[k], bars.low[k])
        if direction * (worst - entry) <= -stop:
            slipped = entry - direction * (stop + trade.stop_slip_ticks * tick)
            filled = min(slipped, bars.open[k]) if direction > 0 else max(slipped, bars.open[k])
            return STOPPED, k, direction * (filled - entry) - fees
        if direction * (best - entry) >= target + trade.target_through_ticks * tick:
            return TARGET, k, target - fees
    return TIME, last, direction * (bars.close[last] - entry) - fees


@CALM
@given(
    seed=st.integers(0, 100_000),
    window=st.integers(3, 40),
    run=st.integers(1, 3),
    threshold=st.sampled_from([1.0, 1.5, 2.0]),
    gaps=st.sampled_from([0.0, 0.05]),
)
def test_the_compiled_pass_says_what_the_stream_says(
    seed: int, window: int, run: int, threshold: float, gaps: float
) -> None:
    rule = only(
        "zscore", "engulfing", zscore__window=window, zscore__bars=run, zscore__threshold=threshold,
        patterns__rsi_period=run + 5, patterns__atr_period=window // 2 + 1,
    )  # fmt: skip
    bars = walk(4, seed, gaps=gaps)
    strengths = []
    for _, session in groupby(bars, key=lambda each: each.session):
        strength = started(rsi(rule.patterns.rsi_period))
        strengths += [strength(each[1:5]) for each in session]

    passed, said = fused_pass(bars, rule), list(processador_bdi(bars, rule))

    assert passed.index.tolist() == [each.index for each in said]
    assert passed.direction.tolist() == [each.direction for each in said]
    assert [kind == ENGULFING for kind in passed.kind] == [each.kind == "engulfing" for each in said]
    assert passed.stop.tolist() == [abs(each.entry - each.stop) for each in said]
    assert passed.rsi.tolist() == [strengths[each.index] for each in said]


@CALM
@given(seed=st.integers(0, 100_000), reward_risk=st.sampled_from([0.5, 1.0, 2.5]), gaps=st.sampled_from([0.0, 0.05]))
def test_a_trade_ends_as_its_definition_has_it(seed: int, reward_risk: float, gaps: float) -> None:
    rule = only("zscore", "engulfing", trade__reward_risk=reward_risk)
    bars = walk(4, seed, gaps=gaps)

    passed = fused_pass(bars, rule)

    for n in range(len(passed)):
        expected = ended(bars, rule, int(passed.index[n]), int(passed.direction[n]), float(passed.stop[n]))
        assert (passed.outcome[n], passed.exit_index[n], pytest.approx(passed.net[n])) == expected


def test_every_outcome_is_seen() -> None:
    passed = fused_pass(walk(20, seed=1), RULE)

    assert set(passed.outcome.tolist()) == {NO_TRADE, STOPPED, TARGET, TIME}
    assert passed.trades == len(passed) - passed.outcome.tolist().count(NO_TRADE)
    assert 0 < passed.wins < passed.trades
    assert not passed.net[passed.outcome == NO_TRADE].any()


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_change_nothing(threads: int) -> None:
    bars = walk(20, seed=1)
    one, many = fused_pass(bars, RULE), fused_pass(bars, RULE, threads=threads)

    for field in fields(Passed):
        assert np.array_equal(getattr(one, field.name), getattr(many, field.name)), field.name


def test_no_bars_have_no_alerts() -> None:
    assert len(fused_pass(walk(1, seed=1)[:0], RULE)) == 0


def test_each_setting_of_a_sweep_is_the_pass_under_it() -> None:
    bars = walk(15, seed=3)
    points = [
        SweepSetting(window=window, threshold=threshold, bars=run, stop_factor=stop, reward_risk=reward_risk)
        for window in (10, 20)
        for threshold in (1.5, 2.0)
        for run in (1, 2)
        for stop, reward_risk in ((0.5, 2.5), (0.25, 1.0), (1.0, 0.5))
    ]

    swept = sweep(bars, points, DetectorSettings(), threads=2)

    for n, point in enumerate(points):
        passed = fused_pass(
            bars,
            only(
                "zscore", zscore__window=point.window, zscore__threshold=point.threshold, zscore__bars=point.bars,
                trade__stop_factor=point.stop_factor, trade__reward_risk=point.reward_risk,
            ),
        )  # fmt: skip
        assert (swept.alerts[n], swept.trades[n], swept.wins[n]) == (len(passed), passed.trades, passed.wins)
        assert swept.net[n] == pytest.approx(passed.net.sum())
        assert swept.net_squares[n] == pytest.approx((passed.net**2).sum())


def test_against_the_move_the_same_alerts_are_traded_the_other_way() -> None:
    bars = walk(15, seed=3)

    swept = sweep(bars, [SweepSetting(direction=1), SweepSetting(direction=-1)], DetectorSettings())

    assert swept.alerts[0] == swept.alerts[1] > 20
    assert swept.trades[0] == swept.trades[1]
    assert swept.wins[0] != swept.wins[1]


@CALM
@given(seed=st.integers(0, 100_000), reward_risk=st.sampled_from([0.5, 1.0, 2.5]), gaps=st.sampled_from([0.0, 0.05]))
def test_the_evaluator_fills_the_same_orders_alike(seed: int, reward_risk: float, gaps: float) -> None:
    rule = only("zscore", "engulfing", trade__reward_risk=reward_risk)
    bars = walk(4, seed, gaps=gaps)
    passed, market = fused_pass(bars, rule), Market(bars, rule)
    traded = passed.outcome != NO_TRADE

    entries = market.entry_index(bars.close_time[passed.index], bars.session[passed.index])
    fills = market.fill(
        entries[traded],
        passed.direction[traded].astype(np.int64),
        passed.stop[traded],
        np.full(passed.trades, reward_risk),
    )

    assert np.array_equal(entries >= 0, traded)
    assert np.array_equal(fills.exit_index, passed.exit_index[traded])
    assert fills.gross - market.fees_points == pytest.approx(passed.net[traded])
