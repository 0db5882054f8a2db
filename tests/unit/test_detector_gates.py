"""The three gates say PASS, FAIL or INSUFFICIENT, and a win rate never comes without its reward:risk and its null."""

from __future__ import annotations

import json

import pytest
from tests.unit.scripted_market import SETTINGS, bursting_walk

from comporta.detector.baselines import BASELINES
from comporta.detector.gates import (
    GateBoard,
    Verdict,
    Wins,
    capture_gate,
    false_positives_gate,
    wins_gate,
)
from comporta.detector.intervals import by_session, wilson
from comporta.detector.judge import Case, judge, judge_baselines
from comporta.detector.nulls import Null
from comporta.detector.score import Detection, SessionCount, rate_of, score
from comporta.detector.truth import truth_of


def detected(captured: int, opportunities: int, false: int = 0, alerts: int = 0) -> Detection:
    """A score in which each event was on a day of its own."""
    sessions = tuple(
        SessionCount(k < captured, k < opportunities, k < false, k < alerts, 0)
        for k in range(max(opportunities, alerts, 1))
    )
    return Detection(
        capture=rate_of([(each.captured, each.opportunities) for each in sessions], SETTINGS),
        false_positives=rate_of([(each.false, each.alerts) for each in sessions], SETTINGS),
        findings=(),
        alerts=(),
        false=(),
        sessions=sessions,
    )


def won(hits: int, n: int, *, null_win: float, p_value: float, reward_risk: float | None = 1.0) -> Wins:
    null = Null(200, null_win, (null_win - 0.05, null_win + 0.05), p_value, -10.0, (-20.0, 0.0), 0.5)
    rate = rate_of([(1, 1)] * hits + [(0, 1)] * (n - hits), SETTINGS)
    return Wins(rate, reward_risk, null, -3.0, (-8.0, 2.0), -3.0 * n, {"stop": n - hits, "target": hits}, 0.20)


@pytest.mark.parametrize(
    ("captured", "n", "verdict", "confident"),
    [
        (34, 40, Verdict.PASS, False),
        (33, 40, Verdict.FAIL, False),
        (39, 39, Verdict.INSUFFICIENT, True),
        (0, 0, Verdict.INSUFFICIENT, False),
        (245, 250, Verdict.PASS, True),
        (46, 50, Verdict.PASS, False),
    ],
)
def test_capture_must_reach_85_percent_of_at_least_40(captured: int, n: int, verdict: Verdict, confident: bool) -> None:
    gate = capture_gate(detected(captured, n), SETTINGS)

    assert (gate.verdict, gate.confident) == (verdict, confident)


@pytest.mark.parametrize(
    ("false", "n", "verdict"),
    [(6, 60, Verdict.PASS), (7, 60, Verdict.FAIL), (0, 59, Verdict.INSUFFICIENT), (0, 0, Verdict.INSUFFICIENT)],
)
def test_false_positives_may_reach_10_percent_of_at_least_60(false: int, n: int, verdict: Verdict) -> None:
    assert false_positives_gate(detected(0, 0, false, n), SETTINGS).verdict is verdict


@pytest.mark.parametrize(
    ("wins", "verdict"),
    [
        (won(36, 60, null_win=0.45, p_value=0.01), Verdict.PASS),
        (won(35, 60, null_win=0.45, p_value=0.01), Verdict.FAIL),
        (won(39, 60, null_win=0.61, p_value=0.30), Verdict.FAIL),
        (won(39, 60, null_win=0.66, p_value=0.01), Verdict.FAIL),
        (won(39, 60, null_win=0.45, p_value=0.01, reward_risk=None), Verdict.FAIL),
        (won(59, 59, null_win=0.45, p_value=0.01), Verdict.INSUFFICIENT),
    ],
    ids=[
        "60 % that beat the null",
        "less than 60 %",
        "as good as random days",
        "worse than random days",
        "several reward:risks mixed",
        "too few trades",
    ],
)
def test_wins_must_reach_60_percent_and_beat_the_null(wins: Wins, verdict: Verdict) -> None:
    assert wins_gate(wins, SETTINGS).verdict is verdict


def test_wins_without_a_null_fail_even_when_they_are_many() -> None:
    wins = Wins(rate_of([(1, 1)] * 100, SETTINGS), 1.0, None, 10.0, (5.0, 15.0), 1000.0, {"target": 100}, 0.20)

    gate = wins_gate(wins, SETTINGS)

    assert gate.verdict is Verdict.FAIL
    assert "no null could be drawn" in gate.reason


def test_the_sentence_of_a_gate_names_what_was_counted_and_what_was_asked() -> None:
    assert capture_gate(detected(46, 50), SETTINGS).reason == "46 of 50 opportunities are 92.0%, at least 85% is asked."
    assert capture_gate(detected(3, 4), SETTINGS).reason == "4 opportunities were seen, at least 40 are needed."
    said = wins_gate(won(39, 60, null_win=0.61, p_value=0.3), SETTINGS).reason
    assert "at reward:risk 1" in said
    assert "random days win 61.0%" in said


def test_a_board_fails_with_any_gate_and_passes_with_all() -> None:
    good = capture_gate(detected(40, 40), SETTINGS)
    few = capture_gate(detected(1, 1), SETTINGS)
    bad = capture_gate(detected(0, 40), SETTINGS)

    assert GateBoard(good, good, good).verdict is Verdict.PASS
    assert GateBoard(good, few, good).verdict is Verdict.INSUFFICIENT
    assert GateBoard(good, few, bad).verdict is Verdict.FAIL


def test_wilsons_interval_is_the_books() -> None:
    assert wilson(8, 10, confidence=0.95) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0, confidence=0.95) is None


def test_drawing_sessions_is_wider_when_events_of_a_session_share_their_fate() -> None:
    apart = by_session([(1, 1), (0, 1)] * 50, confidence=0.95, draws=2000, seed=1)
    together = by_session([(10, 10), (0, 10)] * 5, confidence=0.95, draws=2000, seed=1)

    assert apart is not None
    assert together is not None
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    assert by_session([], confidence=0.95, draws=10, seed=1) is None
    assert by_session([(0, 0)], confidence=0.95, draws=10, seed=1) is None


def test_the_board_of_a_whole_run_is_plain_json_with_every_number_beside_its_context() -> None:
    cases = [Case.of(bursting_walk(60, seed=seed), SETTINGS) for seed in (3, 4)]
    baselines = judge_baselines(cases, SETTINGS)

    board = baselines["always on"].board(SETTINGS, baselines)
    told = json.loads(json.dumps(board.to_dict(), allow_nan=False))

    assert set(told) == {"capture", "false_positives", "wins"}
    for gate in told.values():
        assert {"hits", "n", "value", "interval", "interval_by_session", "verdict", "threshold", "reason"} <= set(gate)
        assert [baseline["name"] for baseline in gate["baselines"]] == list(BASELINES)
    assert {"reward_risk", "null_win", "p_value", "net_points", "net_points_interval", "net_brl"} <= set(told["wins"])
    for told_of in (told["wins"], *told["wins"]["baselines"]):
        assert told_of["reward_risk"] == 2.5
        assert 0 < told_of["null_win"] < 1
    assert told["wins"]["net_brl"] == pytest.approx(told["wins"]["net_points"] * 0.20)


def test_two_runs_give_the_same_board_to_the_byte() -> None:
    def run() -> str:
        cases = [Case.of(bursting_walk(45, seed=5), SETTINGS)]
        baselines = judge_baselines(cases, SETTINGS, reward_risk=1.0)
        return json.dumps(baselines["random"].board(SETTINGS, baselines).to_dict(), sort_keys=True)

    assert run() == run()


def test_a_silent_alerter_has_a_board_of_what_cannot_be_told() -> None:
    board = judge([Case.of(bursting_walk(80, seed=3), SETTINGS)], [[]], SETTINGS).board(SETTINGS)

    assert board.false_positives.verdict is Verdict.INSUFFICIENT
    assert board.wins.verdict is Verdict.INSUFFICIENT
    assert board.to_dict()["wins"]["null_win"] is None
    assert judge([], [], SETTINGS).board(SETTINGS).verdict is Verdict.INSUFFICIENT


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_passes_capture_and_false_positives(name: str) -> None:
    bars = bursting_walk(80, seed=3)
    found = score(truth_of(bars, SETTINGS), BASELINES[name](bars, SETTINGS), SETTINGS)

    verdicts = {capture_gate(found, SETTINGS).verdict, false_positives_gate(found, SETTINGS).verdict}
    assert Verdict.FAIL in verdicts
    assert BASELINES[name](bars[:0], SETTINGS) == BASELINES[name](bars[:1], SETTINGS) == ()


def test_always_on_captures_all() -> None:
    bars = bursting_walk(80, seed=3)
    found = score(truth_of(bars, SETTINGS), BASELINES["always on"](bars, SETTINGS), SETTINGS)

    assert found.capture.value == 1
