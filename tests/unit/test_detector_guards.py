"""A detector or a broker that knows the future is caught every time, an honest one is accused never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.scripted_market import SETTINGS, alert_at, bursting_walk, random_walk

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.baselines import earlier_rule, previous_bar
from comporta.detector.grid import Grid
from comporta.detector.guards import (
    GuardFailed,
    check_fill_leak,
    check_prefix_invariance,
    check_session_boundary,
    check_warm_up,
    require,
    run_guards,
)
from comporta.detector.processor import processador_bdi, warmup_sessions
from comporta.detector.trades import Trade, trades_of

SEEDS = range(20)


def ratio_alerts(bars: Bars, *, sessions_after: int) -> list[Alert]:
    """Range over its usual at this time, above 1.9: of the sessions before only when ``sessions_after`` is 0."""
    # That a session will have too few bars is known at its end only: to drop it before would be foresight, too.
    grid = Grid.of(bars, replace(SETTINGS.market, min_session_share=0.0))
    ranges = grid.ranges(window_min=30, first_min=10)
    usual = grid.medians(ranges, before=20, after=sessions_after, half_width_min=5)
    rows, slots = np.nonzero(ranges > 1.9 * usual)
    return [
        alert_at(int(grid.session[row]), 5 * (int(slot) + 1), price=float(usual[row, slot]))
        for row, slot in zip(rows, slots, strict=True)
    ]


def causal(bars: Bars) -> list[Alert]:
    return ratio_alerts(bars, sessions_after=0)


def two_sided(bars: Bars) -> list[Alert]:
    return ratio_alerts(bars, sessions_after=21)


def one_bar_ahead(bars: Bars) -> list[Alert]:
    """Says at each bar what only the next one shows."""
    return [replace(alert, time=alert.time - 300, minute=alert.minute - 5) for alert in causal(bars)]


def detect(bars: Bars) -> list[Alert]:
    return list(processador_bdi(bars, SETTINGS))


@pytest.fixture(scope="module")
def bars() -> Bars:
    return bursting_walk(45, seed=2)


def test_a_baseline_of_sessions_to_come_is_caught_20_of_20_and_the_causal_one_accused_0_of_20(bars: Bars) -> None:
    caught = accused = 0
    for seed in SEEDS:
        drawn = replace(SETTINGS, seed=seed)
        caught += not check_prefix_invariance(two_sided, bars, drawn, cuts=3).passed
        accused += not check_prefix_invariance(causal, bars, drawn, cuts=3).passed

    assert (caught, accused) == (20, 0)


def test_one_bar_of_foresight_is_caught_20_of_20(bars: Bars) -> None:
    caught = [
        check_prefix_invariance(one_bar_ahead, bars, replace(SETTINGS, seed=seed), cuts=6).passed for seed in SEEDS
    ]

    assert not any(caught)


def test_every_detector_of_ours_passes_every_guard(bars: Bars) -> None:
    results = run_guards(detect, bars, SETTINGS, cuts=8)

    assert [result.name for result in results if not result.passed] == []
    assert all(result.checked > 0 for result in results)
    require(results)


def test_cuts_within_the_minutes_of_a_longer_bar_change_nothing() -> None:
    minutes = random_walk(24, 3)

    assert check_prefix_invariance(detect, minutes, SETTINGS, cuts=9).passed


def test_a_fill_at_the_open_of_the_bar_that_caused_the_alert_is_caught(bars: Bars) -> None:
    def leaking(bars: Bars, alerts: Sequence[Alert], settings: Any, **asked: Any) -> tuple[Trade, ...]:
        return trades_of(bars, [replace(alert, time=alert.time - 300) for alert in alerts], settings, **asked)

    alerts = detect(bars)
    honest = check_fill_leak(bars, alerts, SETTINGS)
    leak = check_fill_leak(bars, alerts, SETTINGS, trader=leaking)

    assert honest.passed
    assert not leak.passed
    assert "ran away" in leak.examples[0]


def test_a_broker_that_trades_nothing_is_no_proof(bars: Bars) -> None:
    assert not check_fill_leak(bars, [], SETTINGS, trader=lambda *_, **__: ()).passed


def test_a_window_that_straddles_the_night_is_caught(bars: Bars) -> None:
    for straddling in (earlier_rule, previous_bar):
        assert not check_session_boundary(lambda given, of=straddling: of(given, SETTINGS), bars, SETTINGS).passed
    assert check_session_boundary(detect, bars, SETTINGS).passed


def test_a_detector_that_remembers_more_than_it_declares_is_caught(bars: Bars) -> None:
    declared = warmup_sessions(SETTINGS)

    assert check_warm_up(detect, bars, SETTINGS, warm_up_sessions=declared).passed
    assert not check_warm_up(detect, bars, SETTINGS, warm_up_sessions=declared - 8).passed


def test_too_few_sessions_for_a_warm_up_say_so(bars: Bars) -> None:
    result = check_warm_up(detect, bars[:1000], SETTINGS, warm_up_sessions=20)

    assert (result.passed, result.checked) == (True, 0)
    assert result.detail.startswith("Not checked")


def test_a_guard_that_fails_fails_the_run_and_names_the_first_difference(bars: Bars) -> None:
    result = check_prefix_invariance(two_sided, bars, SETTINGS, cuts=3)

    with pytest.raises(GuardFailed, match="prefix invariance") as failed:
        require([result])
    assert "the whole run says" in str(failed.value)
    assert failed.value.remedy


def test_guards_take_no_bars_and_one_bar(bars: Bars) -> None:
    for few in (bars[:0], bars[:1]):
        assert all(result.passed for result in run_guards(detect, few, SETTINGS))
