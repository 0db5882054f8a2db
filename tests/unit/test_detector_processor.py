"""The candle loop: one code for live and past, nothing seen before its close, setups on the right side, little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.detector_walks import bar, session_of, walk

from comporta.detector.alert import KINDS, Alert
from comporta.detector.bars import BadBars, Bar, Bars, resample
from comporta.detector.processor import Detector, processador_bdi, warmup_bars, warmup_sessions
from comporta.detector.settings import DetectorSettings
from comporta.errors import ConfigurationError

CALM = settings(derandomize=True, deadline=None, max_examples=10)
PROJECT = Path(__file__).parents[2]
RULE = DetectorSettings()


def alerts(bars: Bars, rule: DetectorSettings = RULE) -> list[Alert]:
    return list(processador_bdi(bars, rule))


@pytest.fixture(scope="module")
def market() -> Bars:
    """Thirty sessions of one-minute bars, some missing."""
    return walk(30, seed=4, period_min=1, gaps=0.02)


def test_every_kind_of_alert_fires_both_ways() -> None:
    said = {(alert.kind, alert.direction) for alert in alerts(walk(60, seed=2))}

    assert said == {(kind, side) for kind in KINDS for side in (1, -1)}


def test_a_long_setup_has_its_stop_below_and_a_short_one_above(market: Bars) -> None:
    for alert in alerts(market):
        assert alert.direction * (alert.entry - alert.price) == RULE.market.tick, "one adverse tick"
        assert alert.direction * (alert.entry - alert.stop) >= RULE.trade.stop_min_ticks * RULE.market.tick
        risk, reward = abs(alert.entry - alert.stop), alert.direction * (alert.target - alert.entry)
        assert alert.reward_risk == reward / risk == pytest.approx(RULE.trade.reward_risk, rel=0.1)
        assert 0.5 <= alert.confidence < 1
        assert alert.reason.endswith(".")


def test_an_alert_carries_the_close_of_its_bar(market: Bars) -> None:
    bars = market.resampled(5)

    for alert in alerts(market):
        assert alert.time == bars.close_time[alert.index]
        assert (alert.price, alert.session, alert.minute) == (
            bars.close[alert.index],
            bars.session[alert.index],
            bars.minute[alert.index],
        )


@CALM
@given(cut=st.integers(1, 30 * 524))
def test_what_comes_later_changes_no_alert(market: Bars, cut: int) -> None:
    whole = alerts(market)
    seen = alerts(market[:cut])

    assert seen == whole[: len(seen)]
    assert len(seen) == sum(alert.time <= market.close_time[cut - 1] for alert in whole)


def test_a_live_stream_and_a_file_say_the_same(market: Bars) -> None:
    heard: list[Alert] = []

    assert list(processador_bdi(iter(market), RULE, on_alert=heard.append)) == alerts(market.resampled(5)) == heard


@CALM
@given(seed=st.integers(0, 1000), period=st.sampled_from([2, 5, 15, 30]), gaps=st.sampled_from([0.0, 0.3]))
def test_bars_made_one_by_one_are_those_made_of_columns(seed: int, period: int, gaps: float) -> None:
    bars = walk(2, seed, period_min=1, gaps=gaps)

    assert list(resample(bars, period)) == list(bars.resampled(period))


def test_a_last_bar_that_has_not_closed_is_not_looked_at() -> None:
    bars = walk(1, seed=1, period_min=1)

    assert len(bars[:14].resampled(5)) == 2
    assert len(bars[:15].resampled(5)) == 3


def test_bars_of_which_the_wanted_cannot_be_made_are_refused() -> None:
    bars = walk(1, seed=1, period_min=5)

    with pytest.raises(BadBars, match="bars of 5 min cannot be made into bars of 7 min"):
        list(resample(bars, 7))
    with pytest.raises(BadBars, match="bars of 5 min cannot be made into bars of 1 min"):
        bars.resampled(1)


@pytest.mark.parametrize("second", [0, 1], ids=["before", "twice"])
def test_a_bar_that_is_not_later_than_the_last_is_refused(second: int) -> None:
    first, *later = session_of([100.0, 105.0, 110.0])

    with pytest.raises(BadBars, match="bars in order of time were expected"):
        list(processador_bdi([first, later[0], [first, later[0]][second]]))


def test_bars_outside_the_session_are_counted_but_not_looked_at() -> None:
    inside = walk(25, seed=8)
    extra = [each._replace(open_time=each.open_time - 600, minute=-10, high=1e9) for each in inside if not each.minute]
    both = sorted([*inside, *extra])

    early, plain = list(processador_bdi(both)), alerts(inside)

    assert [replace(alert, index=0) for alert in early] == [replace(alert, index=0) for alert in plain]
    assert all(both[alert.index].close_time == alert.time for alert in early)


def test_before_its_baseline_is_known_a_setup_stands_on_the_average_true_range() -> None:
    first = alerts(walk(1, seed=2))

    assert first
    assert min(alert.minute for alert in first) >= RULE.patterns.atr_period * 5
    assert "volatility_range" not in {alert.kind for alert in first}


def test_after_the_declared_warm_up_a_longer_past_changes_nothing() -> None:
    bars = walk(50, seed=6)
    later = bars[bars.session >= 10]
    from_session = 10 + warmup_sessions(RULE)

    def at_last(seen: Bars) -> list[Alert]:
        return [replace(each, index=0) for each in processador_bdi(seen) if each.session >= from_session]

    assert at_last(later) == at_last(bars)
    assert len(at_last(later)) > 50


def test_no_detector_speaks_before_its_declared_bars_of_a_session() -> None:
    slots = dict.fromkeys(KINDS, 999)
    for alert in alerts(walk(120, seed=3)):
        slots[alert.kind] = min(slots[alert.kind], alert.minute // 5)

    for kind, bars in warmup_bars(RULE).items():
        assert bars - 1 <= slots[kind] < 999, kind


def test_a_market_without_movement_and_a_single_bar_say_nothing() -> None:
    assert list(processador_bdi(session_of([100.0] * 100))) == []
    assert list(processador_bdi([bar(0, 100.0, 105.0, 95.0, 100.0)])) == []
    assert list(processador_bdi([])) == []


def test_the_loop_reads_a_source_that_has_no_end() -> None:
    def forever() -> object:
        for session in count():
            yield from session_of([100_000.0 + 40 * ((7 * slot * slot) % 11) for slot in range(107)], session=session)

    source = processador_bdi(forever())  # type: ignore[arg-type]

    assert len([next(source) for _ in range(500)]) == 500


def test_a_live_process_imports_nothing_heavy_and_stays_under_50_mb() -> None:
    # A fresh interpreter, 60 sessions of one-minute bars, every detector.
    script = """
import json, sys
from pathlib import Path
from comporta.detector.bars import Bar
from comporta.detector.processor import processador_bdi
def source():
    price, state = 120_000, 7
    for session in range(60):
        for minute in range(535):
            state = (1103515245 * state + 12345) % 2**31
            close = price + 5 * ((state >> 16) % 21 - 10)
            high, low, time = max(price, close) + 5, min(price, close) - 5, session * 86400 + minute * 60
            yield Bar(time, price, high, low, close, 1.0, session, minute, 1)
            price = close
alerts = sum(1 for _ in processador_bdi(source()))
heavy = sorted({"pydantic", "pandas", "scipy", "numba", "yaml", "airflow"} & set(sys.modules))
status = Path("/proc/self/status").read_text()
print(json.dumps({"alerts": alerts, "heavy": heavy, "peak_kb": int(status.split("VmHWM:")[1].split()[0])}))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT / "plugins", capture_output=True, text=True, check=True
    )
    seen = json.loads(run.stdout)

    assert seen["heavy"] == []
    assert seen["alerts"] > 500
    assert seen["peak_kb"] < 50_000


def test_the_shipped_file_holds_every_setting_at_its_default() -> None:
    mapping = yaml.safe_load((PROJECT / "config" / "detector.yaml").read_text())

    assert mapping == RULE.to_mapping()
    assert DetectorSettings.from_mapping(mapping) == RULE
    assert DetectorSettings.from_mapping(mapping).digest == RULE.digest
    assert DetectorSettings.from_mapping({"seed": 8}).digest != RULE.digest


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        pytest.param({"rnage": {}}, "the detector's settings: unknown rnage\nKnown here are: market, range", id="part"),
        pytest.param({"range": {"treshold": 2.0}}, "range: unknown treshold\nKnown here are: enabled", id="name"),
        pytest.param({"range": {"threshold": "2"}}, "range.threshold: expected float, found '2'", id="type"),
        pytest.param({"zscore": {"bars": True}}, "zscore.bars: expected int, found True", id="a bool is no number"),
        pytest.param({"zscore": 3}, "zscore: expected a mapping, found 3", id="no mapping"),
    ],
)
def test_settings_that_are_not_known_are_refused_by_name(mapping: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        DetectorSettings.from_mapping(mapping)

    assert expected in str(refused.value)


def test_a_whole_number_is_taken_where_a_number_is_expected() -> None:
    assert DetectorSettings.from_mapping({"range": {"threshold": 2}}).range.threshold == 2.0


def test_the_step_alone_is_the_loop() -> None:
    bars, detector = walk(3, seed=4), Detector(RULE)

    assert [alert for each in bars for alert in detector.step(each)] == alerts(bars)


def test_columns_of_different_lengths_are_refused() -> None:
    bars = walk(1, seed=1)

    with pytest.raises(BadBars, match="columns of one length"):
        replace(bars, close=bars.close[:-1])


def test_a_session_is_a_local_day_and_minutes_count_from_its_start() -> None:
    # 2015-10-18 00:00 is when Brazil's clocks went forward: 09:00 is 12:00 UTC before and 11:00 UTC after.
    opens = [np.datetime64("2015-10-16T12:00"), np.datetime64("2015-10-19T11:00"), np.datetime64("2015-10-19T11:01")]
    times = np.array(opens).astype("datetime64[s]").astype(np.int64)
    one = np.ones(3)

    bars = Bars.from_columns(
        times, one, one, one, one, one, period_min=1, tz="America/Sao_Paulo", symbol="WIN", adjustment="none"
    )

    assert bars.sessions == ("2015-10-16", "2015-10-19")
    assert bars.session.tolist() == [0, 1, 1]
    assert bars.minute.tolist() == [0, 0, 1]
    assert bars[1] == Bar(int(times[1]), 1.0, 1.0, 1.0, 1.0, 1.0, 1, 0, 1)
