"""Tuning chooses on the past, is judged on what follows, and counts what it tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comporta.detector.bars import Bars
from comporta.detector.settings import DetectorSettings, RangeSettings, TruthSettings
from comporta.detector.synthetic import make_synthetic
from comporta.detector.tuning import (
    FROZEN,
    Candidate,
    Day,
    Split,
    Tally,
    TooFewSessions,
    Trial,
    Tuned,
    Tuning,
    Workbench,
    candidates,
    choose,
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
    shards,
    sharpe,
    splits,
    tuned,
    walk_forward,
)
from comporta.errors import ConfigurationError

CONFIG = Path(__file__).resolve().parents[2] / "config" / "detector-tuning.yaml"
# A market whose past is short, so that a test needs few sessions.
SETTINGS = DetectorSettings(
    range=RangeSettings(baseline_sessions=5, level_long=5, level_short=3),
    truth=TruthSettings(baseline_sessions_each_side=5, warmup_sessions=6),
)
TUNING = Tuning(axes={"range.threshold": (1.9, 50.0)}, train_sessions=6, test_sessions=4)


@pytest.fixture(scope="module")
def bars() -> Bars:
    return make_synthetic(24, seed=3)[0]


@pytest.fixture(scope="module")
def bench(bars: Bars) -> Workbench:
    return Workbench.of(bars, SETTINGS, TUNING)


def trial(number: int, train: Sequence[float], test: Sequence[float], split: int = 0) -> Trial:
    """A trial that earned so much a session, one trade each."""

    def tally(nets: Sequence[float]) -> Tally:
        return Tally(tuple(Day(trades=1, wins=net > 0, net=net) for net in nets))

    return Trial(
        split, Candidate(number, {"range.threshold": float(number)} if number else {}), tally(train), tally(test)
    )


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5))
def test_no_session_is_tested_twice_or_before_all_of_its_training(
    count: int, train: int, test: int, purge: int, embargo: int
) -> None:
    tuning = replace(TUNING, train_sessions=train, test_sessions=test, purge_sessions=purge, embargo_sessions=embargo)
    try:
        found = splits(range(count), tuning)
    except TooFewSessions:
        assert count < train + purge + embargo + (test + 1) // 2
        return
    tested = [session for split in found for session in split.test]
    assert tested == sorted(set(tested))
    for split in found:
        assert len(split.train) == train
        assert max(split.train) + purge + embargo + 1 == min(split.test)
        assert len(split.dropped) == purge + embargo


def test_too_few_sessions_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(TooFewSessions, match="52 scored sessions are needed, found 30"):
        splits(range(30), Tuning(axes={"seed": (1,)}))


def test_the_settings_in_use_are_a_candidate_and_the_grid_follows() -> None:
    tuning = Tuning(axes={"range.threshold": (1.8, 2.0), "trade.reward_risk": (0.5, 1.0, 2.5)})

    found = candidates(tuning, SETTINGS)

    assert [each.number for each in found] == list(range(7))
    assert found[FROZEN].applied(SETTINGS) == SETTINGS
    assert found[6].applied(SETTINGS).range.threshold == 2.0
    assert found[6].applied(SETTINGS).trade.reward_risk == 2.5


def test_an_axis_that_no_setting_has_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="unknown treshold"):
        candidates(Tuning(axes={"range.treshold": (1.8,)}), SETTINGS)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({}, "tuning.axes: expected names"),
        ({"axes": {"range.threshold": []}}, "tuning.axes.range.threshold"),
        ({"axes": {"range.threshold": [1.9, 1.9]}}, "different values"),
        ({"axes": {"seed": [1]}, "axis": 3}, "unknown axis"),
        ({"axes": {"seed": [1]}, "objective": "profit"}, "expected detection or wins, found 'profit'"),
        ({"axes": {"seed": [1]}, "kinds": ["hunch"]}, "hunch"),
        ({"axes": {"seed": [1]}, "train_sessions": 0}, "train_sessions: expected a whole number of 1 or more"),
        ({"axes": {"seed": [1]}, "purge_sessions": -1}, "purge_sessions: expected a whole number of 0 or more"),
        ({"axes": {"seed": [1, 2, 3]}, "max_trials": 2}, "3 settings are more than max_trials = 2"),
    ],
    ids=[
        "no axis",
        "empty",
        "twice",
        "unknown",
        "objective",
        "kind",
        "no training",
        "negative purge",
        "too many trials",
    ],
)
def test_a_tuning_that_cannot_be_run_is_refused(mapping: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Tuning.from_mapping(mapping)


def test_the_tuning_that_is_shipped_fits_the_settings_that_are_shipped() -> None:
    tuning = Tuning.from_file(CONFIG)

    assert len(candidates(tuning, DetectorSettings())) == tuning.trials + 1


def test_shards_hold_every_candidate_once_and_none_is_empty() -> None:
    found = shards(candidates(Tuning(axes={"seed": tuple(range(10))}), SETTINGS), 4)

    assert sorted(each.number for shard in found for each in shard) == list(range(11))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert len(shards(candidates(TUNING, SETTINGS), 9)) == 3


def test_the_choice_looks_at_training_only() -> None:
    good_later = trial(1, train=[-1, 0, 1], test=[9, 10, 11])
    good_before = trial(2, train=[1, 2, 3], test=[-9, -10, -11])

    assert choose([good_later, good_before], replace(TUNING, objective="wins"), SETTINGS) is good_before


def test_of_equal_trials_the_settings_in_use_are_kept() -> None:
    same = [trial(number, train=[1, 2], test=[1, 2]) for number in (2, 0, 1)]

    assert choose(same, replace(TUNING, objective="wins"), SETTINGS).candidate.number == FROZEN


def test_a_training_window_hears_nothing_of_the_bars_after_it(bars: Bars, bench: Workbench) -> None:
    first = bench.splits[0]
    after = bars.session > first.train[-1]
    changed = replace(
        bars, **{name: np.where(after, 3 * getattr(bars, name), getattr(bars, name)) for name in ("high", "close")}
    )

    other = Workbench.of(changed, SETTINGS, TUNING)

    assert other.truths[0][0] == bench.truths[0][0]
    assert other.truths[0][1] != bench.truths[0][1]
    for each in candidates(TUNING, SETTINGS):
        assert other.evaluate(each)[0].train == bench.evaluate(each)[0].train


def test_a_setting_that_finds_the_bursts_is_chosen_over_one_that_is_silent(bars: Bars) -> None:
    silent = replace(SETTINGS, range=replace(SETTINGS.range, threshold=40.0))

    found = walk_forward(bars, silent, TUNING)

    assert {each.trial.candidate.changes["range.threshold"] for each in found.chosen} == {1.9}
    assert found.tuned_settings.range.threshold == 1.9
    assert found.adopt
    assert found.out_of_sample.capture == 1.0
    assert found.frozen.capture == 0.0
    assert found.advice.startswith("Re-tuning helps: out of sample capture 100.0%")


def test_tasks_may_hand_on_json_and_finish_in_any_order(bench: Workbench) -> None:
    trials = [each for candidate in candidates(TUNING, SETTINGS) for each in bench.evaluate(candidate)]
    handed = [Trial.from_dict(each.to_dict()) for each in reversed(trials)]

    assert (
        tuned(handed, bench.splits, TUNING, SETTINGS).to_dict()
        == tuned(trials, bench.splits, TUNING, SETTINGS).to_dict()
    )
    assert [Split.from_dict(split.to_dict()) for split in bench.splits] == list(bench.splits)


def test_trials_without_the_settings_in_use_are_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigurationError, match="the settings in use are not among its 1 trials"):
        tuned([trial(1, [1, 2], [1, 2])], bench.splits[:1], TUNING, SETTINGS)


def outcome() -> Tuned:
    """Two axes, one split; the first axis earns in training what it loses in the test."""
    tuning = Tuning(axes={"range.threshold": (1.0, 2.0), "range.hysteresis": (0.8, 0.9)}, objective="wins")
    trials = []
    for each in candidates(tuning, SETTINGS):
        edge = 0.0 if each.number == FROZEN else float(each.changes["range.threshold"])
        made = trial(0, train=[edge - 1, edge + 1], test=[-edge - 1, -edge + 1])
        trials.append(replace(made, candidate=each))
    return tuned(trials, [Split(0, (0, 1), (2,), (3, 4))], tuning, SETTINGS)


def test_decay_shows_what_was_chosen_beside_what_it_brought_and_what_was_left_alone() -> None:
    found = outcome().to_dict()

    assert found["trials"] == 5
    assert found["decay"]["net_points"] == {"in_sample": 2.0, "out_of_sample": -2.0, "frozen_out_of_sample": 0.0}
    assert found["adopt"] is False
    assert found["advice"].startswith("Keep the settings in use: out of sample wins 0.0% and -2.0 points a trade net")


def test_the_heatmap_has_a_row_for_each_value_of_its_second_axis() -> None:
    found = outcome().heatmap()

    assert (found["x"], found["xs"]) == ("range.threshold", [1.0, 2.0])
    assert (found["y"], found["ys"]) == ("range.hysteresis", [0.8, 0.9])
    one, two = 1 / np.sqrt(2), 2 / np.sqrt(2)
    np.testing.assert_allclose(found["in_sample"], [[one, two], [one, two]])
    np.testing.assert_allclose(found["out_of_sample"], [[-one, -two], [-one, -two]])


def test_a_tally_of_nothing_knows_nothing() -> None:
    nothing = Tally((Day(), Day()))

    assert (nothing.capture, nothing.false_positives, nothing.win, nothing.net_points, nothing.sharpe) == (None,) * 5
    assert nothing.score("detection", SETTINGS) is None


def test_the_objective_of_detection_is_the_smaller_of_both_margins() -> None:
    tally = Tally((Day(captured=9, opportunities=10, false=2, alerts=25),))

    assert tally.score("detection", SETTINGS) == pytest.approx(min(0.9 - 0.85, 0.10 - 0.08))


def test_the_best_of_many_trials_must_beat_the_best_that_luck_gives() -> None:
    rng = np.random.default_rng(1)
    tries = rng.normal(size=(200, 250))
    ratios = [found for row in tries if (found := sharpe(row.tolist())) is not None]
    best = tries[int(np.argmax(ratios))].tolist()

    assert expected_best_sharpe(ratios) == pytest.approx(max(ratios), rel=0.25)
    alone, counted = probabilistic_sharpe(best, 0.0), deflated_sharpe(best, ratios)
    assert alone is not None
    assert counted is not None
    assert alone > 0.99
    assert counted < 0.90


def test_one_trial_has_no_luck_to_take_off() -> None:
    assert expected_best_sharpe([0.3]) == 0.0
    assert sharpe([1.0]) is None
    assert probabilistic_sharpe([1.0, 1.0], 0.0) is None
