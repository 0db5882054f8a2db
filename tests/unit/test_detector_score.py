"""Scripted alerters on planted bursts score what can be told on paper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scripted_market import SETTINGS, alert_at, every_session, still_market

from comporta.detector.alert import Alert
from comporta.detector.score import Detection, pooled, score
from comporta.detector.truth import truth_of

BURSTING = range(21, 41)
# Two bursts a session, not at one time of day: there they would become what is usual at that time.
BURSTS = [(session, minute + 40 * (session % 5)) for session in BURSTING for minute in (30, 300)]
TRUTH = truth_of(still_market(45, dict.fromkeys(BURSTS, 3.0)), SETTINGS)
OPPORTUNITIES = len(BURSTS)


def moved(minutes: int) -> list[Alert]:
    """An alert so many minutes after the onset of each burst: the close of its first bar."""
    return [alert_at(session, minute + 1 + minutes) for session, minute in BURSTS]


def hits(detection: Detection) -> tuple[int, int, int, int]:
    return (detection.capture.hits, detection.capture.n, detection.false_positives.hits, detection.false_positives.n)


@pytest.mark.parametrize(
    ("alerts", "captured", "false"),
    [
        (moved(0), OPPORTUNITIES, 0),
        (moved(5), OPPORTUNITIES, 0),
        (moved(10), OPPORTUNITIES, 0),
        (moved(11), 0, 0),
        (moved(-10), OPPORTUNITIES, 0),
        (moved(-11), OPPORTUNITIES, OPPORTUNITIES),
        (moved(-30), OPPORTUNITIES, OPPORTUNITIES),
        (moved(-31), 0, OPPORTUNITIES),
        (moved(44), 0, 0),
        (moved(45), 0, OPPORTUNITIES),
    ],
    ids=[
        "perfect",
        "shifted one bar",
        "10 minutes late: the last that captures",
        "11 minutes late captures nothing, yet is not false",
        "10 minutes early: the first that is not false",
        "11 minutes early captures, and is false",
        "30 minutes early: the first that captures",
        "31 minutes early captures nothing",
        "the zone's last minute",
        "after the zone",
    ],
)
def test_an_alerter_that_is_always_off_by_so_much_scores_exactly(
    alerts: list[Alert], captured: int, false: int
) -> None:
    assert hits(score(TRUTH, alerts, SETTINGS)) == (captured, OPPORTUNITIES, false, len(alerts))


def test_a_silent_alerter_captures_nothing_and_has_no_false_positive_rate() -> None:
    found = score(TRUTH, [], SETTINGS)

    assert hits(found) == (0, OPPORTUNITIES, 0, 0)
    assert found.capture.value == 0
    assert found.false_positives.value is None
    assert found.false_positives.interval is None


def test_an_alerter_that_is_always_on_captures_all_and_is_false_wherever_no_zone_lies() -> None:
    grid = range(5, 536, 5)
    found = score(TRUTH, every_session(TRUTH.sessions, grid), SETTINGS)
    # A zone reaches from 9 minutes before its burst to 45 after: with bursts at whole 10 minutes, 11 alerts of every 5 minutes.
    alerts = len(TRUTH.sessions) * len(grid)

    assert hits(found) == (OPPORTUNITIES, OPPORTUNITIES, alerts - 11 * OPPORTUNITIES, alerts)
    assert found.duplicates == 10 * OPPORTUNITIES


def test_delays_late_ones_and_hours_are_told() -> None:
    alerts = moved(3)[:-1] + moved(20)[-1:]
    found = score(TRUTH, alerts, SETTINGS)

    assert set(found.delays_min) == {3.0}
    assert found.late == 1
    # Onsets at 9:31, 10:11, 10:51, 11:31 and 12:11 on 4 sessions each, and 4.5 hours later; the last of them was late.
    assert found.by_hour(SETTINGS) == {
        9: (4, 4),
        10: (8, 8),
        11: (4, 4),
        12: (4, 4),
        14: (7, 8),
        15: (4, 4),
        16: (8, 8),
    }
    assert [finding.outcome for finding in found.findings].count("captured") == OPPORTUNITIES - 1


def test_alerts_of_sessions_that_are_not_scored_do_not_count() -> None:
    assert hits(score(TRUTH, [alert_at(3, 61)], SETTINGS)) == (0, OPPORTUNITIES, 0, 0)


def test_an_alert_in_a_zone_that_is_no_opportunity_is_not_false() -> None:
    truth = truth_of(still_market(45, {(30, 60): 1.8}), SETTINGS)

    assert hits(score(truth, [alert_at(30, 61)], SETTINGS)) == (0, 0, 0, 1)


def test_several_sets_add_up_event_by_event() -> None:
    perfect, silent = score(TRUTH, moved(0), SETTINGS), score(TRUTH, [], SETTINGS)
    both = pooled([perfect, silent], SETTINGS)

    assert hits(both) == (OPPORTUNITIES, 2 * OPPORTUNITIES, 0, OPPORTUNITIES)
    assert len(both.sessions) == 2 * len(TRUTH.sessions)
    assert both.to_dict(SETTINGS)["capture"]["value"] == 0.5


@given(
    st.lists(st.tuples(st.sampled_from(range(19, 45)), st.integers(1, 535)), max_size=40),
    st.tuples(st.sampled_from(range(19, 45)), st.integers(1, 535)),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_one_more_alert_never_loses_an_opportunity_and_is_counted_once(
    places: list[tuple[int, int]], more: tuple[int, int]
) -> None:
    before = score(TRUTH, [alert_at(*place) for place in places], SETTINGS)
    after = score(TRUTH, [alert_at(*place) for place in [*places, more]], SETTINGS)

    assert after.capture.hits in (before.capture.hits, before.capture.hits + 1)
    assert after.false_positives.n - before.false_positives.n == (more[0] in TRUTH.sessions)
    assert len(after.false) == len(after.alerts) == after.false_positives.n
    assert sum(after.false) == after.false_positives.hits
