"""The frozen settings on real bars of development, which are kept beside the project and not in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.baselines import BASELINES
from comporta.detector.gates import Verdict, capture_gate, false_positives_gate
from comporta.detector.judge import Case, judge
from comporta.detector.processor import processador_bdi
from comporta.detector.score import pooled, score
from comporta.detector.settings import DetectorSettings
from comporta.detector.truth import Truth, truth_of

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "win"
SETTINGS = DetectorSettings()
SETS = (("WINN_M1_2015", 1), ("WIN_M1_2025", 1), ("WIN_M5_2021_22", 5))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"real bars are not in {FOLDER}")


class Judged(NamedTuple):
    bars: Bars
    truth: Truth
    alerts: list[Alert]


@pytest.fixture(scope="module")
def sets() -> list[Judged]:
    made = []
    for name, period_min in SETS:
        table = pd.read_parquet(FOLDER / f"{name}.parquet")
        opened = table.ts.dt.tz_localize("America/Sao_Paulo").dt.tz_convert("UTC").dt.tz_localize(None)
        bars = Bars.from_columns(
            opened.astype("datetime64[s]").astype("int64"),
            table.open, table.high, table.low, table.close, table.volume,
            period_min=period_min, tz="America/Sao_Paulo", symbol="WIN", adjustment="none",
        )  # fmt: skip
        made.append(Judged(bars, truth_of(bars, SETTINGS), list(processador_bdi(bars.resampled(5), SETTINGS))))
    return made


def of_kind(judged: Judged, kind: str) -> list[Alert]:
    return [alert for alert in judged.alerts if alert.kind == kind]


def test_the_truth_counts_the_opportunities_that_a_second_hand_counted(sets: list[Judged]) -> None:
    counted = [(len(each.truth.opportunities), len(each.truth.sessions)) for each in sets]

    assert counted == [(55, 74), (83, 86), (125, 160)]


def test_the_frozen_range_detector_captures_93_percent_at_5_percent_false(sets: list[Judged]) -> None:
    parts = [score(each.truth, of_kind(each, "volatility_range"), SETTINGS) for each in sets]
    found = pooled(parts, SETTINGS)

    assert found.capture.value is not None
    assert found.capture.value >= 0.93
    assert found.false_positives.value is not None
    assert found.false_positives.value <= 0.05
    for part in [*parts, found]:
        assert capture_gate(part, SETTINGS).verdict is Verdict.PASS
        assert false_positives_gate(part, SETTINGS).verdict is Verdict.PASS


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_fails_a_gate_on_every_set(sets: list[Judged], name: str) -> None:
    for each in sets:
        found = score(each.truth, BASELINES[name](each.bars, SETTINGS), SETTINGS)
        assert Verdict.FAIL in (
            capture_gate(found, SETTINGS).verdict,
            false_positives_gate(found, SETTINGS).verdict,
        )


def test_60_percent_of_wins_at_reward_risk_a_half_are_no_skill_and_the_gate_says_so(sets: list[Judged]) -> None:
    cases = [Case(each.bars, each.truth) for each in sets]
    alerts = [of_kind(each, "volatility_range") for each in sets]

    board = judge(cases, alerts, SETTINGS, reward_risk=0.5).board(SETTINGS)

    wins = board.to_dict()["wins"]
    assert wins["value"] >= 0.60
    assert wins["null_win"] >= 0.60
    assert (wins["verdict"], board.verdict) == ("FAIL", Verdict.FAIL)
