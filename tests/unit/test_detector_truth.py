"""What counts as an opportunity and as a zone, on markets whose ranges are known to the point."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.scripted_market import FIRST_OPEN, SETTINGS, bars_of, bursting_walk, still_market

from comporta.detector.grid import Grid
from comporta.detector.truth import Episode, hindsight_q, truth_of


def at(session: int, minute: int) -> int:
    return FIRST_OPEN + 86_400 * session + 60 * minute


def test_a_burst_is_an_opportunity_from_the_close_of_its_first_bar_until_15_minutes_below() -> None:
    truth = truth_of(still_market(45, {(30, 60): 3.0}), SETTINGS)

    # The bar 60 stays in the range for 30 bars; then 15 bars below end the episode.
    assert truth.opportunities == (Episode(30, at(30, 61), at(30, 105), 61, 3.0),)
    assert truth.zones == truth.opportunities


@pytest.mark.parametrize(
    ("q", "opportunities", "zones"),
    [(1.65, 0, 0), (1.7, 0, 1), (2.15, 0, 1), (2.2, 1, 1)],
    ids=["below both", "on the zone's line", "weak: only a zone", "on the opportunity's line"],
)
def test_the_lines_are_2_2_and_1_7_and_reached_when_touched(q: float, opportunities: int, zones: int) -> None:
    truth = truth_of(still_market(45, {(30, 200): q}), SETTINGS)

    assert (len(truth.opportunities), len(truth.zones)) == (opportunities, zones)


def test_a_range_back_within_15_minutes_is_the_same_episode_and_later_another() -> None:
    same = truth_of(still_market(45, {(30, 60): 3.0, (30, 104): 3.0}), SETTINGS)
    another = truth_of(still_market(45, {(30, 60): 3.0, (30, 105): 3.0}), SETTINGS)

    assert [each.minute for each in same.opportunities] == [61]
    assert [each.minute for each in another.opportunities] == [61, 106]


def test_an_episode_ends_with_its_session() -> None:
    truth = truth_of(still_market(45, {(30, 520): 3.0}), SETTINGS)

    assert [(each.start, each.end) for each in truth.opportunities] == [(at(30, 521), at(30, 535))]


def test_bars_of_5_minutes_tell_the_same_episode_to_the_bar() -> None:
    truth = truth_of(still_market(45, {(30, 60): 3.0}, period_min=5), SETTINGS)

    assert truth.opportunities == (Episode(30, at(30, 65), at(30, 105), 65, 3.0),)


def test_the_first_21_whole_sessions_are_not_scored() -> None:
    truth = truth_of(still_market(45, {(20, 60): 3.0, (21, 60): 3.0}), SETTINGS)

    assert truth.sessions == tuple(range(21, 45))
    assert [each.session for each in truth.opportunities] == [21]


def test_a_session_with_too_few_bars_is_neither_scored_nor_compared_with() -> None:
    whole = still_market(45, {(30, 60): 3.0})
    share_of_85 = int(np.ceil(0.85 * 535))
    cut = whole[(whole.session != 30) | (whole.minute < share_of_85 - 1)]
    kept = whole[(whole.session != 30) | (whole.minute < share_of_85)]

    assert truth_of(cut, SETTINGS).opportunities == ()
    assert 30 not in truth_of(cut, SETTINGS).sessions
    assert len(truth_of(kept, SETTINGS).opportunities) == 1


def test_nothing_is_told_of_the_first_10_minutes_nor_outside_the_hours() -> None:
    bars = still_market(45, {})
    grid = Grid.of(bars, SETTINGS.market)
    q = hindsight_q(grid, SETTINGS)

    assert np.isnan(q[:, :9]).all()
    assert (q[:, 9:] == 1).all()
    late = bars_of(bars.open, bars.high, bars.low, bars.close, first_minute=60)
    assert Grid.of(late, SETTINGS.market).session.size == 45
    assert (Grid.of(late, SETTINGS.market).index[:, :60] == -1).all()


def test_a_gap_of_minutes_keeps_the_window_by_the_clock_not_by_the_bars() -> None:
    whole = still_market(45, {(30, 60): 3.0})
    gap = whole[(whole.session != 30) | (whole.minute < 70) | (whole.minute >= 85)]

    assert truth_of(gap, SETTINGS).opportunities == truth_of(whole, SETTINGS).opportunities


def test_no_bars_and_one_bar_have_no_truth() -> None:
    bars = still_market(1, {})

    for few in (bars[:0], bars[:1]):
        truth = truth_of(few, SETTINGS)
        assert (truth.opportunities, truth.zones, truth.sessions) == ((), (), ())


def test_hindsight_reads_the_20_sessions_on_both_sides_and_the_expectation_only_those_before() -> None:
    bars = bursting_walk(50, seed=1)
    grid = Grid.of(bars, SETTINGS.market)
    ranges = grid.ranges(window_min=30, first_min=10)

    both = grid.medians(ranges, before=20, after=21, half_width_min=5)
    past = grid.medians(ranges, before=20, after=0, half_width_min=5)

    slot = 50
    assert both[25, slot] == np.median(ranges[5:46, slot - 1 : slot + 2])
    assert past[25, slot] == np.median(ranges[5:25, slot - 1 : slot + 2])
    assert np.isnan(past[:20]).all()
    assert ranges[25, slot] == grid.high[25, slot - 5 : slot + 1].max() - grid.low[25, slot - 5 : slot + 1].min()
