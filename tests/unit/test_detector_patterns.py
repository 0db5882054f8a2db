"""The technical patterns: each from a hand-drawn example, both ways, with the setup on the right side, and never over night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.detector_walks import bar, mirrored, only, session_of, walk

from comporta.detector.alert import Alert
from comporta.detector.bars import Bar
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings

QUIET = [100_000.0, 100_010.0] * 12  # long enough for the average true range


def upside_down(bars: Sequence[Bar]) -> list[Bar]:
    """The same bars mirrored at 100,000."""
    top = 200_000.0
    return [
        each._replace(open=top - each.open, high=top - each.low, low=top - each.high, close=top - each.close)
        for each in bars
    ]


def alerts(bars: Sequence[Bar], rule: DetectorSettings) -> list[Alert]:
    return list(processador_bdi(bars, rule))


def engulfed(opened: float, close: float) -> list[Bar]:
    """A quiet session, a bar from 100,000 down to 99,960, and this one after it."""
    quiet = [bar(slot, 100_000.0, 100_010.0, 99_990.0, 100_000.0) for slot in range(20)]
    return [
        *quiet,
        bar(20, 100_000.0, 100_000.0, 99_960.0, 99_960.0),
        bar(21, opened, max(opened, close), min(opened, close), close),
    ]


@pytest.mark.parametrize(
    ("opened", "close", "fires"),
    [
        pytest.param(99_955.0, 100_005.0, True, id="beyond both ends"),
        pytest.param(99_960.0, 100_005.0, True, id="beyond one, on the other"),
        pytest.param(99_960.0, 100_000.0, False, id="the same body again"),
        pytest.param(99_965.0, 100_050.0, False, id="opened inside"),
        pytest.param(99_955.0, 99_995.0, False, id="closed inside"),
        pytest.param(100_005.0, 99_955.0, False, id="the same direction"),
    ],
)
def test_an_engulfing_body_is_beyond_the_one_before_it(opened: float, close: float, fires: bool) -> None:
    rule = only("engulfing")

    up, down = alerts(engulfed(opened, close), rule), alerts(upside_down(engulfed(opened, close)), rule)

    assert [alert.direction for alert in up] == ([1] if fires else [])
    assert [alert.direction for alert in down] == ([-1] if fires else [])


def test_a_body_must_be_larger_by_the_ratio() -> None:
    bars = engulfed(99_955.0, 100_005.0)  # 50 points after 40

    assert alerts(bars, only("engulfing", patterns__engulfing_body_ratio=1.2))
    assert not alerts(bars, only("engulfing", patterns__engulfing_body_ratio=1.3))


def test_the_first_bar_of_a_session_engulfs_nothing_of_the_day_before() -> None:
    rule = only("engulfing", range__baseline_sessions=1, range__level_short=1, range__level_long=1)
    days = [session_of([100_000.0, 100_010.0] * 53, session=day, wick=5.0) for day in range(2)]
    fell, rose = (100_000.0, 100_000.0, 99_960.0, 99_960.0), (99_955.0, 100_005.0, 99_955.0, 100_005.0)
    known = [*days[0], *days[1]]

    assert not alerts([*known, bar(106, *fell, session=1), bar(0, *rose, session=2)], rule)
    assert alerts([*known, bar(0, *fell, session=2), bar(1, *rose, session=2)], rule), "so early, it could fire"


def test_a_close_above_the_highs_before_it_breaks_out_once() -> None:
    bars = session_of([*QUIET, 100_050.0, 100_060.0, 100_000.0, 100_100.0])

    up, down = alerts(bars, only("breakout")), alerts(upside_down(bars), only("breakout"))

    assert [(each.index, each.direction) for each in up] == [(24, 1), (27, 1)], "not again while it stays beyond"
    assert [(each.index, each.direction) for each in down] == [(24, -1), (27, -1)]
    assert "above 100010, the high of the 20 bars before it" in up[0].reason
    assert "below 99990, the low of the 20 bars before it" in down[0].reason


def test_a_close_at_the_level_breaks_nothing() -> None:
    assert alerts(session_of([*QUIET, 100_010.0]), only("breakout")) == []


def test_the_level_of_a_break_is_the_extreme_of_the_bars_before_it() -> None:
    bars, window = walk(4, seed=5), 20
    said = {(alert.index, alert.direction) for alert in processador_bdi(bars, only("breakout"))}

    expected = set()
    for session in range(4):
        at = np.flatnonzero(bars.session == session)
        beyond = 0
        for place in range(window, len(at)):
            before, now = at[place - window : place], bars.close[at[place]]
            side = int(now > bars.high[before].max()) - int(now < bars.low[before].min())
            if side and side != beyond:
                expected.add((int(at[place]), side))
            beyond = side
    assert said == expected
    assert {side for _, side in said} == {1, -1}


def divergence() -> list[Bar]:
    """A steep rise to a high, a fall, and a slow rise to a little higher high."""
    rise = [100_000.0 + 30 * step for step in range(20)]
    fall = [rise[-1] - 60 * step for step in range(1, 6)]
    again = [fall[-1] + 25 * step for step in range(1, 15)]
    return session_of([*rise, *fall, *again, again[-1] - 40, again[-1] - 80], wick=5.0)


def test_a_higher_high_on_less_strength_says_down_once_the_high_is_confirmed() -> None:
    (down,) = alerts(divergence(), only("rsi_divergence"))
    (up,) = alerts(upside_down(divergence()), only("rsi_divergence"))

    top = max(divergence(), key=lambda each: each.high)  # the first of equal ones
    assert (down.direction, up.direction) == (-1, 1)
    assert down.minute == up.minute == top.minute + 10, "two bars later, when it is known to be a high"
    assert "lower RSI" in down.reason
    assert "higher RSI" in up.reason


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"patterns__rsi_overbought": 100.1, "patterns__rsi_oversold": -0.1}, id="never overbought"),
        pytest.param({"patterns__pivot_max_apart": 10}, id="too far apart"),
    ],
)
def test_a_divergence_needs_an_extreme_and_two_highs_near_each_other(changes: dict[str, float]) -> None:
    assert alerts(divergence(), only("rsi_divergence", **changes)) == []


@pytest.mark.parametrize("pattern", ["engulfing", "rsi_divergence", "breakout"])
def test_a_pattern_upside_down_fires_at_the_same_bars_the_other_way(pattern: str) -> None:
    market, rule = walk(60, seed=2), only(pattern)

    said = [(alert.index, alert.direction) for alert in processador_bdi(market, rule)]

    assert {side for _, side in said} == {1, -1}
    assert [(each.index, -each.direction) for each in processador_bdi(mirrored(market), rule)] == said


@pytest.mark.parametrize("pattern", ["engulfing", "rsi_divergence", "breakout"])
def test_a_pattern_sees_a_session_as_if_no_other_had_been_before_it(pattern: str) -> None:
    bars, rule = walk(15, seed=9), only(pattern)  # too few for a baseline, which sessions do share

    both, second = alerts(bars, rule), alerts(bars[107:], rule)

    assert second
    assert [replace(each, index=each.index - 107) for each in both if each.session > 0] == second
