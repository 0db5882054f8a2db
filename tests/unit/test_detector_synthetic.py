"""The synthetic market: its bars are bars, its bursts are where it says, and its fair walk gains nobody anything."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from comporta.detector.bars import Bars
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings
from comporta.detector.synthetic import APART_MIN, Burst, make_synthetic
from comporta.errors import ConfigurationError

SESSION_MIN = 535
WINDOW_MIN = 30
FIRST_MIN = 10


def ratio(bars: Bars) -> NDArray[np.float64]:
    """The trailing 30-minute range over its median at this time of day in 20 sessions each side, by session and minute."""
    high, low = (getattr(bars, name).reshape(-1, SESSION_MIN) for name in ("high", "low"))
    wide: NDArray[np.float64] = np.full(high.shape, np.nan)
    for minute in range(FIRST_MIN - 1, SESSION_MIN):
        window = slice(max(0, minute + 1 - WINDOW_MIN), minute + 1)
        wide[:, minute] = high[:, window].max(axis=1) - low[:, window].min(axis=1)
    usual = np.full_like(wide, np.nan)
    for session in range(len(wide)):
        around = wide[max(0, session - 20) : session + 21]
        for minute in range(FIRST_MIN - 1, SESSION_MIN):
            usual[session, minute] = np.nanmedian(around[:, max(0, minute - 5) : minute + 6])
    return wide / usual


@pytest.mark.parametrize("seed", [1, 2])
def test_the_range_passes_the_threshold_from_the_close_of_a_bursts_minute_until_it_leaves_the_window_and_never_else(
    seed: int,
) -> None:
    bars, truth = make_synthetic(45, seed=seed)
    q = ratio(bars)
    inside = np.zeros(q.shape, dtype=bool)
    for episode in truth.episodes:
        inside[episode.session, episode.minute : episode.minute + WINDOW_MIN] = True
    assert q[inside].min() > 2.2
    assert np.nanmax(q[~inside]) < 0.7 * 2.2


def test_the_detector_as_it_is_set_finds_every_burst_when_it_can_first_be_known_and_nothing_else() -> None:
    bars, truth = make_synthetic(40, seed=6)
    settings_ = DetectorSettings()
    warm = settings_.range.baseline_sessions
    alerts = [
        each for each in processador_bdi(bars, settings_) if each.kind == "volatility_range" and each.session > warm
    ]
    planted = [each for each in truth.episodes if each.session > warm]
    assert len(planted) > 10
    assert [(each.time, each.direction) for each in alerts] == [(each.onset_of(5), each.direction) for each in planted]


def test_an_episode_says_when_it_can_first_be_known_and_when_it_is_over() -> None:
    bars, truth = make_synthetic(3, seed=1, bursts=[Burst(2, 101, -1, 5.0), Burst(0, 50)])
    early, late = truth.episodes
    assert (early.session, early.direction, late.session, late.day) == (0, 1, 2, bars.sessions[2])
    row = 2 * SESSION_MIN + 101
    assert (late.open_time, late.onset) == (bars.open_time[row], bars.close_time[row])
    assert late.high_until == bars.close_time[row + 29]
    assert late.onset_of(1) == late.onset
    assert late.onset_of(5) == late.open_time + 4 * 60
    five = bars.resampled(5)
    assert late.onset_of(5) in five.close_time
    fall = bars.close[row] - bars.open[row]
    assert fall < -4 * np.median(bars.high - bars.low)


@pytest.mark.parametrize("zero_edge", [False, True])
def test_bars_are_whole_sessions_of_possible_prices_on_the_tick(zero_edge: bool) -> None:
    bars, truth = make_synthetic(25, seed=4, zero_edge=zero_edge)
    assert len(bars) == 25 * SESSION_MIN
    assert (np.diff(bars.open_time) > 0).all()
    assert bars.minute.tolist() == list(range(SESSION_MIN)) * 25
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.low > 0).all()
    assert (bars.volume > 0).all()
    assert not any((getattr(bars, name) % 5).any() for name in ("open", "high", "low", "close"))
    assert truth.zero_edge is zero_edge
    assert len(truth.episodes) == (0 if zero_edge else 20)


def test_the_open_is_wilder_than_noon() -> None:
    for zero_edge in (False, True):
        bars, _ = make_synthetic(25, seed=4, bursts=0, zero_edge=zero_edge)
        size = (bars.high - bars.low).reshape(-1, SESSION_MIN).mean(axis=0)
        assert size[:30].mean() > 1.3 * size[250:300].mean() > 0
        assert size[-20:].mean() > 1.05 * size[250:300].mean()


def test_equal_arguments_give_equal_bytes_and_another_seed_other_ones() -> None:
    one, other, third = (make_synthetic(5, seed=seed) for seed in (8, 8, 9))
    assert one[0].sha256 == other[0].sha256 != third[0].sha256
    assert asdict(one[1]) == asdict(other[1])
    assert np.array_equal(one[0].close, other[0].close)


def test_bars_of_five_minutes_are_those_of_one_joined() -> None:
    five, truth = make_synthetic(5, seed=8, period_min=5)
    one, same = make_synthetic(5, seed=8)
    assert (len(five), five.period_min, truth) == (5 * 107, 5, same)
    assert five.close.tolist() == one.resampled(5).close.tolist()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(min_value=1, max_value=12), st.integers(min_value=0, max_value=2**32), st.data())
def test_as_many_bursts_are_drawn_as_asked_for_and_they_keep_apart(
    sessions: int, seed: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(min_value=0, max_value=3 * sessions))
    _, truth = make_synthetic(sessions, seed, bursts=wanted)
    assert len(truth.episodes) == wanted
    for one, other in zip(truth.episodes, truth.episodes[1:], strict=False):
        assert (one.session, one.minute) < (other.session, other.minute)
        assert one.session != other.session or other.minute - one.minute >= APART_MIN


@pytest.mark.parametrize(
    ("sessions", "options", "says"),
    [
        (0, {}, "one session or more, found 0"),
        (2, {"bursts": 7}, "0 to 6 bursts, found 7"),
        (2, {"bursts": [Burst(2, 100)]}, "sessions 0 to 1"),
        (2, {"bursts": [Burst(0, 10)]}, "minutes 40 to 475"),
        (2, {"bursts": [Burst(0, 100, size=2.0)]}, "4 to 12 usual ranges"),
        (2, {"bursts": [Burst(0, 100), Burst(0, 150)]}, "90 minutes between"),
        (2, {"bursts": 1, "zero_edge": True}, "without bursts"),
    ],
)
def test_a_market_whose_truth_would_not_be_known_is_refused(sessions: int, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make_synthetic(sessions, seed=1, **options)


@pytest.mark.parametrize(("stop", "target"), [(40, 40), (60, 30), (30, 60)])
@pytest.mark.parametrize("direction", [1, -1])
def test_on_the_fair_walk_stop_and_target_are_hit_with_the_odds_of_their_distances(
    stop: int, target: int, direction: int
) -> None:
    bars, _ = make_synthetic(150, seed=21, zero_edge=True)
    won = lost = 0
    for session in range(150):
        rows = slice(session * SESSION_MIN, (session + 1) * SESSION_MIN)
        high, low, opens = bars.high[rows], bars.low[rows], bars.open[rows]
        for start in range(0, 300, 60):  # an hour apart, and long enough before the close for nearly all to end
            entry = opens[start]
            up, down = (target, stop) if direction > 0 else (stop, target)
            hit_up = np.flatnonzero(high[start:] >= entry + 5 * up)
            hit_down = np.flatnonzero(low[start:] <= entry - 5 * down)
            first_up = hit_up[0] if len(hit_up) else SESSION_MIN
            first_down = hit_down[0] if len(hit_down) else SESSION_MIN
            if first_up == first_down:  # neither, or both in one bar: no word on which came first
                continue
            won += (first_up < first_down) == (direction > 0)
            lost += (first_up < first_down) != (direction > 0)
    trades = won + lost
    expected = stop / (stop + target)
    assert trades > 500
    assert won / trades == pytest.approx(expected, abs=3 * (expected * (1 - expected) / trades) ** 0.5)
