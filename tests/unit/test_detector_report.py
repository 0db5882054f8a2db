"""A backtest is bound to what it was made of, ends when the detector knows the future, and praises nothing without a null."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.guards import GuardFailed
from comporta.detector.report import sentence
from comporta.detector.run import STEPS, Backtest, Source, detect
from comporta.detector.settings import DetectorSettings
from comporta.reports.folder import RunFolder

STARTED = datetime(2026, 11, 30, 12, tzinfo=UTC)
BASE = DetectorSettings()
SETTINGS = replace(BASE, gates=replace(BASE.gates, null_draws=20, bootstrap_draws=20))
HOSTILE = "</script><script>alert('são')</script>{{ 7*7 }}"


def backtest(folder: Path, name: str = "one", **changes: Any) -> Backtest:
    run = Backtest(
        settings=SETTINGS,
        source=Source(synthetic=27, seed=3),
        folder=RunFolder.make(folder, "backtest", name, STARTED),
        run_id=name,
        started=STARTED,
        actor="test",
        say=lambda _: None,
    )
    return replace(run, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Backtest:
    made = backtest(tmp_path_factory.mktemp("backtest"))
    made.run_all()
    return made


@pytest.fixture(scope="module")
def page(run: Backtest) -> str:
    return (run.folder.path / "backtest.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def test_every_step_leaves_what_the_next_one_reads(run: Backtest) -> None:
    for name in ("load", "manifest", "quality", "guards", "alerts", "truth", "score", "trades", "result", "benchmark"):
        assert run.folder.has(name)


def test_two_runs_give_identical_bytes_whenever_and_wherever(run: Backtest, tmp_path: Path) -> None:
    again = backtest(tmp_path, "another", started=datetime(2027, 1, 1, tzinfo=UTC), actor="somebody else")
    for step in STEPS[:5]:
        getattr(again, step)()

    first, second = (each.folder.path / "result.json" for each in (run, again))
    assert first.read_bytes() == second.read_bytes()
    assert again.result_digest() == hashlib.sha256(first.read_bytes()).hexdigest()


def test_the_result_is_bound_to_data_settings_and_code(run: Backtest, tmp_path: Path) -> None:
    other = backtest(tmp_path, source=Source(synthetic=27, seed=4))
    other.load()

    bound = run.result()["bound_to"]
    assert set(bound) == {"data", "settings", "code"}
    assert bound["settings"] == SETTINGS.digest
    assert bound["data"] == run.bars.sha256 != other.bars.sha256


def test_every_planted_burst_that_is_scored_is_captured_without_a_false_alert(run: Backtest) -> None:
    gates = run.result()["gates"]
    assert gates["capture"]["hits"] == gates["capture"]["n"] > 0
    assert gates["false_positives"]["hits"] == 0


def test_a_detector_that_sees_one_bar_ahead_fails_the_run_and_no_result_is_kept(tmp_path: Path) -> None:
    def clairvoyant(bars: Bars, settings: DetectorSettings) -> Sequence[Alert]:
        period_s = 60 * settings.market.period_min
        return [replace(alert, time=alert.time - period_s, index=alert.index - 1) for alert in detect(bars, settings)]

    leaky = backtest(tmp_path, detector=clairvoyant)
    with pytest.raises(GuardFailed, match="prefix invariance"):
        leaky.run_all()

    assert not leaky.folder.has("alerts")
    assert not leaky.folder.has("result")


def test_a_live_loop_that_says_otherwise_than_the_backtest_fails_the_run(tmp_path: Path) -> None:
    def silent(bars: Bars, settings: DetectorSettings) -> Sequence[Alert]:
        return ()

    with pytest.raises(GuardFailed, match="live loop"):
        backtest(tmp_path, detector=silent).run_all()


def test_bad_data_is_never_a_pass(run: Backtest, tmp_path: Path) -> None:
    shifted = backtest(tmp_path)
    shifted.load()
    shifted.quality()
    shifted.folder.write("quality", {**run.folder.read("quality"), "verdict": "stop"})
    shifted.run()
    shifted.score()

    result = shifted.gates()

    assert result["verdict"] == "FAIL"
    assert "data quality says stop" in result["reasons"][0]


def test_the_live_process_is_measured_in_an_interpreter_of_its_own(run: Backtest) -> None:
    measured = run.folder.read("benchmark")["measured"]
    assert measured["bars"] == len(run.bars)
    assert measured["alerts"] == len(run.alerts())
    assert measured["peak_rss_mb"] is None or measured["peak_rss_mb"] < 50


def test_the_page_fetches_nothing(page: str) -> None:
    for sign in ("src=", "<link", "@import", "fetch(", "http://"):
        assert sign not in page


def test_every_win_rate_on_the_page_stands_beside_its_reward_risk_and_its_null(page: str, run: Backtest) -> None:
    wins = run.result()["gates"]["wins"]
    card = page[page.index("Wins at reward:risk 2.5") :]
    assert f"<b>{wins['null_win']:.1%}".replace("%", " %") in card[: card.index("</section>")]
    for row in [*run.result()["kinds"], *run.result()["baselines"]]:
        assert row["wins"]["n"] == 0 or row["wins"]["null_win"] is not None


def test_the_page_holds_every_scored_session_with_its_alerts_and_trades(page: str, run: Backtest) -> None:
    begun = page.index('id="price-data">') + len('id="price-data">')
    told = json.loads(page[begun : page.index("</script>", begun)])
    sessions = run.truth().sessions
    assert [each["day"] for each in told["sessions"]] == [run.bars.sessions[session] for session in sessions]
    assert sum(len(each["alerts"]) for each in told["sessions"]) == sum(
        alert.session in sessions for alert in run.alerts()
    )
    assert sum(len(each["trades"]) for each in told["sessions"]) == len(run.folder.read("trades"))
    lengths = {len(each[name]) for each in told["sessions"] for name in ("x", "open", "high", "low", "close")}
    assert lengths == {107}


def test_an_alert_is_drawn_on_the_candle_that_caused_it(page: str) -> None:
    begun = page.index('id="price-data">') + len('id="price-data">')
    for session in json.loads(page[begun : page.index("</script>", begun)])["sessions"]:
        for place, _, price, _, _ in session["alerts"]:
            assert session["close"][place] == price


def test_names_from_outside_are_text_on_the_page(run: Backtest, tmp_path: Path) -> None:
    hostile = backtest(tmp_path)
    for file in run.folder.path.iterdir():
        (hostile.folder.path / file.name).write_bytes(file.read_bytes())
    result = run.result()
    result["bars"] |= {"symbol": HOSTILE, "source": HOSTILE}
    hostile.folder.write("result", result)
    alerts = run.folder.read("alerts")
    hostile.folder.write("alerts", [{**each, "reason": HOSTILE} for each in alerts])

    written, _ = hostile.report()

    text = written.html.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "{{ 7*7 }}" in text


def test_tuning_stands_on_the_page_with_its_trials_and_what_is_left_out_of_sample(
    run: Backtest, tmp_path: Path
) -> None:
    plan = tmp_path / "tuning.yaml"
    plan.write_text(
        "axes: {range.threshold: [1.9, 2.0], range.hysteresis: [0.9]}\ntrain_sessions: 2\ntest_sessions: 1\n"
        "purge_sessions: 1\nembargo_sessions: 0\n",
        encoding="utf-8",
    )
    tuned = backtest(tmp_path, tuning_file=plan)
    for file in run.folder.path.iterdir():
        (tuned.folder.path / file.name).write_bytes(file.read_bytes())

    tried = [tuned.tune(shard, 2) for shard in range(2)]
    told = tuned.choose()
    written, _ = tuned.report()

    assert sum(tried) == told["trials"] == 3
    text = written.html.read_text(encoding="utf-8")
    assert told["advice"] in text
    assert "settings in use, out of sample" in text


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("PASS", "PASS", "PASS"), "Capture and false positives and wins pass."),
        (("PASS", "PASS", "FAIL"), "Capture and false positives pass; wins fails."),
        (("INSUFFICIENT",) * 3, "Capture and false positives and wins have too few events to tell."),
    ],
)
def test_the_page_begins_with_what_was_found(verdicts: tuple[str, ...], said: str) -> None:
    names = ("capture", "false_positives", "wins")
    gates = {name: {"verdict": verdict} for name, verdict in zip(names, verdicts, strict=True)}
    assert sentence({"gates": gates}) == said


def test_sessions_that_stand_still_give_a_page_without_a_number_that_nobody_measured(tmp_path: Path) -> None:
    few = backtest(tmp_path, source=Source(synthetic=2, seed=3))

    report, verdict = few.run_all()

    assert verdict == "INSUFFICIENT"
    text = report.html.read_text(encoding="utf-8")
    assert "No trade was made." in text
    assert "nan" not in json.dumps(few.result()).lower()
    assert np.isfinite([few.folder.read("benchmark")["measured"]["alerts_per_min"]]).all()
