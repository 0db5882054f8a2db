"""Orders are filled as a careful broker would, costs are paid, and a walk without an edge wins what arithmetic says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scripted_market import BASE, SETTINGS, alert_at, bars_of, random_walk, settings_with

from comporta.detector.alert import Alert, Direction
from comporta.detector.bars import Bars
from comporta.detector.intervals import by_session
from comporta.detector.kernel import NO_TRADE, fused_pass
from comporta.detector.nulls import NullDraws, null_draws, null_of
from comporta.detector.trades import Trade, trades_of

FEES = 0.55 / 0.20
FREE = settings_with(
    market={"fees_round_trip": 0.0},
    trade={"entry_slip_ticks": 0, "stop_slip_ticks": 0, "target_through_ticks": 0, "time_exit_min": 600},
    gates={"null_draws": 100},
)
Prices = tuple[float, float, float, float]


def path(*bars: Prices, period_min: int = 5) -> Bars:
    """A session of 20 still bars, then ``bars`` (open, high, low, close, in points off 100,000), then still ones to its end."""
    still = (0.0, 0.0, 0.0, 0.0)
    rest = (bars[-1][3],) * 4
    every = [still] * 20 + list(bars) + [rest] * (107 - 20 - len(bars))
    columns = [BASE + np.array(column) for column in zip(*every, strict=True)]
    return bars_of(*columns, period_min=period_min)


def traded(bars: Bars, direction: Direction = 1, *, reward_risk: float = 2.0, minute: int = 100) -> Trade:
    (trade,) = trades_of(bars, [alert_at(0, minute, direction, risk=50, reward_risk=reward_risk)], SETTINGS)
    return trade


def test_the_entry_is_the_next_bars_open_one_tick_worse() -> None:
    trade = traded(path((10, 10, 10, 10)))

    assert (trade.entry, trade.stop, trade.target) == (BASE + 15, BASE - 35, BASE + 115)
    assert trade.entry_time == trade.alert_time


@pytest.mark.parametrize(
    ("bars", "outcome", "gross"),
    [
        ([(0, 0, 0, 0), (0, 110, 0, 100)], "target", 100),
        ([(0, 0, 0, 0), (0, 105, 0, 105)], "time", 100),
        ([(0, 0, 0, 0), (0, 0, -45, -20)], "stop", -55),
        ([(0, 0, 0, 0), (0, 0, -40, 0)], "time", -5),
        ([(0, 0, 0, 0), (0, 120, -45, 100)], "stop", -55),
        ([(0, 0, 0, 0), (-90, -80, -95, -90)], "stop", -95),
        ([(0, 0, -45, 0)], "stop", -55),
        ([(0, 0, 0, 0), (150, 160, 140, 150)], "target", 100),
    ],
    ids=[
        "traded through by a tick: the target",
        "touched, not traded through: no target",
        "touched: the stop, and a tick more",
        "a tick above the stop: no stop",
        "both in one bar: the stop",
        "a gap beyond the stop: the open",
        "stopped in the bar of the entry",
        "a gap beyond the target: no more than the target",
    ],
)
def test_a_long_bracket_is_filled_carefully(bars: list[Prices], outcome: str, gross: float) -> None:
    # The entry is 5, the stop -45, the target 105.
    trade = traded(path(*bars))

    assert (trade.outcome, trade.gross_points) == (outcome, gross)
    assert trade.net_points == pytest.approx(gross - FEES)
    assert trade.net_brl == pytest.approx(gross * 0.20 - 0.55)


def test_a_trade_ends_after_60_minutes_at_the_close_of_its_last_bar() -> None:
    trade = traded(path(*[(0, 0, 0, k) for k in range(1, 20)]))

    assert (trade.exit_time - trade.entry_time, trade.exit) == (3600, BASE + 12)


def test_a_trade_ends_with_its_session() -> None:
    bars = replace(SETTINGS, trade=replace(SETTINGS.trade, no_entry_last_min=10))
    (trade,) = trades_of(path((0, 0, 0, 0)), [alert_at(0, 500)], bars)

    assert (trade.outcome, trade.exit_time - trade.entry_time) == ("session_end", 35 * 60)


def test_no_trade_begins_in_the_last_35_minutes_nor_on_the_next_day() -> None:
    bars = random_walk(2, 1, period_min=5)

    assert len(trades_of(bars, [alert_at(0, 495)], SETTINGS)) == 1
    assert trades_of(bars, [alert_at(0, 500), alert_at(0, 535)], SETTINGS) == ()


def test_a_win_is_what_is_left_after_fees() -> None:
    trade = traded(path((0, 0, 0, 5 + 2)))

    assert trade.gross_points == 2
    assert not trade.win


def test_a_stop_is_never_nearer_than_its_least_ticks_and_lies_on_the_ticks() -> None:
    bars = path((0, 0, 0, 0))
    near, odd = trades_of(bars, [alert_at(0, 100, risk=1), alert_at(0, 100, risk=33)], SETTINGS, reward_risk=2.5)

    assert (near.risk, odd.risk) == (20, 35)
    assert odd.target - odd.entry == 90  # 87.5, in ticks


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.5]))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_a_short_trade_in_a_mirrored_market_is_the_long_one(seed: int, reward_risk: float) -> None:
    bars = random_walk(2, seed, period_min=5, tick=10)
    mirrored = replace(
        bars, open=2 * BASE - bars.open, high=2 * BASE - bars.low, low=2 * BASE - bars.high, close=2 * BASE - bars.close
    )
    places = [(session, minute) for session in (0, 1) for minute in range(50, 490, 40)]
    long = trades_of(bars, [alert_at(*place, risk=30) for place in places], SETTINGS, reward_risk=reward_risk)
    short = trades_of(mirrored, [alert_at(*place, -1, risk=30) for place in places], SETTINGS, reward_risk=reward_risk)

    assert [trade.net_points for trade in long] == [trade.net_points for trade in short]
    assert [trade.outcome for trade in long] == [trade.outcome for trade in short]


@given(st.integers(0, 1000))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_no_trade_sees_what_comes_after_its_exit(seed: int) -> None:
    bars = random_walk(1, seed, tick=10)
    for trade in trades_of(bars, [alert_at(0, 100), alert_at(0, 200, -1)], SETTINGS):
        known = bars[: trade.exit_index + 1]
        again = trades_of(known, [alert_at(0, trade.minute, 1 if trade.direction > 0 else -1)], SETTINGS)
        assert [each.net_points for each in again] == [trade.net_points]


@pytest.fixture(scope="module")
def walk() -> Bars:
    return random_walk(120, seed=11)


def scattered(sessions: range) -> list[Alert]:
    """Alerts too far apart for their trades to overlap, long and short in turn."""
    return [
        alert_at(session, minute, 1 if minute % 200 else -1) for session in sessions for minute in (20, 120, 220, 320)
    ]


@pytest.mark.parametrize("reward_risk", [0.5, 1.0, 2.5])
def test_a_walk_without_an_edge_wins_stop_over_stop_and_target(walk: Bars, reward_risk: float) -> None:
    trades = trades_of(walk, scattered(range(120)), FREE, reward_risk=reward_risk)
    wins = {session: [0, 0] for session in range(120)}
    for trade in trades:
        wins[trade.session][0] += trade.win
        wins[trade.session][1] += 1

    interval = by_session(list(wins.values()), confidence=0.99, draws=2000, seed=1)

    assert interval is not None
    assert interval[0] <= 1 / (1 + reward_risk) <= interval[1]
    assert interval[1] - interval[0] < 0.15
    assert {trade.outcome for trade in trades} <= {"stop", "target", "session_end"}


def test_the_null_of_a_walk_without_an_edge_is_the_same_and_the_p_value_no_alarm(walk: Bars) -> None:
    trades = trades_of(walk, scattered(range(21, 120)), FREE, reward_risk=1.0)
    null = null_of(null_draws(walk, trades, range(21, 120), FREE), trades, FREE)

    assert null is not None
    assert null.draws == 100
    assert null.win == pytest.approx(0.5, abs=0.05)  # two standard errors of what 396 trades of these days win
    assert null.win_interval[0] < 0.5 < null.win_interval[1]
    assert null.p_value > 0.02


def test_trades_on_the_only_days_that_rise_beat_their_null() -> None:
    a_day, rising = 107, set(range(22, 40, 3))
    slope = np.concatenate([np.arange(a_day) * (10.0 if session in rising else 0.0) for session in range(45)])
    bars = bars_of(BASE + slope, BASE + slope + 20, BASE + slope - 10, BASE + slope, period_min=5)
    trades = trades_of(bars, [alert_at(session, 100) for session in rising], SETTINGS, reward_risk=1.0)
    null = null_of(null_draws(bars, trades, range(21, 45), SETTINGS), trades, SETTINGS)

    assert all(trade.win for trade in trades)
    assert null is not None
    assert null.win < 0.6
    assert null.p_value == pytest.approx(1 / 201)


def test_the_null_of_days_that_are_all_alike_is_what_was_traded() -> None:
    one = random_walk(1, 5, period_min=5)
    bars = bars_of(*(np.tile(getattr(one, name), 45) for name in ("open", "high", "low", "close")), period_min=5)
    trades = trades_of(bars, [alert_at(session, 35 + 10 * (session % 3)) for session in range(21, 45)], SETTINGS)
    null = null_of(null_draws(bars, trades, range(21, 45), SETTINGS), trades, SETTINGS)

    assert null is not None
    assert null.win == pytest.approx(sum(trade.win for trade in trades) / len(trades))
    assert null.net_points == pytest.approx(sum(trade.net_points for trade in trades) / len(trades))
    assert null.p_value == 1


def test_without_trades_or_sessions_there_is_no_null() -> None:
    bars = random_walk(2, 5, period_min=5)
    trades = trades_of(bars, [alert_at(0, 100)], SETTINGS)

    assert null_of(null_draws(bars, [], [0, 1], SETTINGS), [], SETTINGS) is None
    assert null_of(null_draws(bars, trades, [], SETTINGS), trades, SETTINGS) is None
    assert trades_of(bars[:0], [alert_at(0, 100)], SETTINGS) == ()


def test_draws_of_several_sets_are_added_draw_by_draw_and_are_the_same_each_time(walk: Bars) -> None:
    trades = trades_of(walk, scattered(range(21, 40)), FREE)
    one, again = (null_draws(walk, trades, range(21, 120), FREE) for _ in range(2))
    both = NullDraws.added([one, again])

    assert (one.wins == again.wins).all()
    assert (both.n == 2 * len(trades)).all()
    assert (both.net == 2 * one.net).all()


def test_the_compiled_trades_are_these(walk: Bars) -> None:
    bars = walk.resampled(5)
    passed = fused_pass(bars, SETTINGS)
    alerts = [
        replace(
            alert_at(int(bars.session[at]), int(bars.minute[at]) + 5, 1 if way > 0 else -1, risk=float(stop)), index=row
        )
        for row, (at, way, stop) in enumerate(zip(passed.index, passed.direction, passed.stop, strict=True))
    ]
    traded = passed.outcome != NO_TRADE

    trades = trades_of(bars, alerts, SETTINGS)

    assert len(trades) == traded.sum() > 100
    assert [trade.net_points for trade in trades] == pytest.approx(passed.net[traded].tolist())
    assert [trade.exit_index for trade in trades] == passed.exit_index[traded].tolist()
