"""The STAGE 4 report says until when each objective is met and how sure that is, and never a date that nobody forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from tests.unit import capacity_story as story

from comporta.capacity.compared import Calibration, Compared
from comporta.capacity.model import BEFORE, Answer, FitReport, Forecast, Measured
from comporta.capacity.report import as_answers, in_unit, interval, report_data, write_capacity_report
from comporta.release.capacity import CapacityPlan
from comporta.reports.page import digest_of

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOSTILE = "</script><script>alert('são')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class Written:
    """A report that was written: its verdict, the page without plotly's own code, and the data beside it."""

    def __init__(
        self,
        folder: Path,
        *,
        measured: Measured | None = None,
        fits: tuple[FitReport, ...] | None = None,
        forecast: Forecast | None = None,
        doubled: Forecast | None = None,
        calibration: Calibration | None = None,
        **changes: Any,
    ) -> None:
        values: dict[str, Any] = {
            "name": "catalogue-2029",
            "title": "Catalogue ready for 2029",
            "run_id": "run-1",
            "started": NOW,
            "target": "comporta@db:5432/gis",
            "plan": CapacityPlan(),
            "stopped": (),
            "now": NOW,
        }
        report, self.verdict = write_capacity_report(
            folder,
            measured or story.measured(),
            story.fits() if fits is None else fits,
            forecast or story.forecast(),
            doubled,
            calibration,
            **(values | changes),
        )
        self.page = report.html.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
        self.data = json.loads(report.json.read_text(encoding="utf-8"))
        self.digest = report.digest

    @property
    def first(self) -> str:
        """What stands in the box on the first page, as text."""
        return _text(self.page.partition('<div class="first">')[2].partition("</div>\n<p class")[0])

    @property
    def text(self) -> str:
        return _text(self.page)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _text(page: str) -> str:
    parser = _Words()
    parser.feed(page)
    return " ".join(" ".join(parser.words).split())


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The story as it is, with a calibration, written once: a page with all its plots takes a second or two."""
    return Written(tmp_path_factory.mktemp("usual"), calibration=story.calibration())


def told(**changes: Any) -> dict[str, Any]:
    """The data of a report, without its plots."""
    values: dict[str, Any] = {
        "measured": story.measured(),
        "fitted_reports": story.fits(),
        "forecast": story.forecast(),
        "doubled": None,
        "calibration": None,
        "name": "n",
        "title": "t",
        "run_id": "r",
        "started": NOW,
        "target": "db",
        "plan": CapacityPlan(),
        "stopped": (),
    }
    return report_data(**(values | changes))


def test_the_first_page_has_one_line_for_each_objective_with_its_date_and_interval(usual: Written) -> None:
    first = usual.first
    assert "p95 at most 250 ms → met until 2028-04-12 2027-11-03 .. 2029-01-20" in first
    assert "disk at most 85 % full ✓ met until 2029-12-31 2029-06-01 .. after 2029-12-31" in first
    assert "8 clients at 250 ms ✗ not met –" in first
    assert "! not enough data" in first
    assert "fewer than three counts of partitions" in first


def test_the_first_page_says_how_good_the_last_forecast_was(usual: Written) -> None:
    first = usual.first
    assert "The forecast of 2026-09-01 was off by 6% in the median of 2 numbers; 1 of 2 stated 80 % intervals" in first


def test_the_page_is_headed_as_people_call_it_and_the_digest_is_of_the_data(usual: Written) -> None:
    written = usual
    assert "STAGE 4 Results + Performance Report" in written.text
    data = dict(written.data)
    assert data.pop("digest") == written.digest == digest_of(data)


@pytest.mark.parametrize(
    ("forecasted", "answers", "verdict"),
    [
        ("pass", story.objectives()[:2], "pass"),
        ("stop", story.objectives(), "stop"),
        ("pass", story.objectives()[3:], "warn"),
        ("pass", (), "warn"),
    ],
    ids=["the forecast's own", "a stop stays", "no data is a warning", "no objective is a warning"],
)
def test_the_verdict_is_the_forecasts_unless_something_could_not_be_judged(
    forecasted: str, answers: tuple[Answer, ...], verdict: str
) -> None:
    assert told(forecast=story.forecast(verdict=forecasted, answers=answers))["verdict"] == verdict


def test_the_table_of_models_shows_ours_beside_every_naive_rule(usual: Written) -> None:
    text = usual.text
    assert "throughput, OPT5 16 clients 810 1/s 790 2.5 % last rung: 700 (13.6 %) linear: 930 (14.8 %) ours" in text
    assert "p95, OPT5 4x rows 50 ms 66 32.0 % last rung: 48 (4.0 %) linear: 61 (22.0 %) last rung" in text


def test_tests_of_one_kind_are_told_by_their_median() -> None:
    fit = story.fits()[0]
    worse = fit.held_out[0].model_copy(update={"what": "next client rung: 1x", "error": 0.3})
    middle, better = (
        worse.model_copy(update={"what": f"next client rung: {n}x", "error": e}) for n, e in ((2, 0.1), (4, 0.0))
    )
    fit = fit.model_copy(update={"held_out": (worse, middle, better, fit.held_out[0])})
    first, second = told(fitted_reports=(fit,))["tested"]
    assert (first["kind"], first["tests"], first["error"], first["better"]) == ("next client rung", 3, 0.1, "ours")
    assert (second["kind"], second["tests"]) == ("16 clients", 1)


def test_a_model_that_is_not_used_is_named_with_its_reason(usual: Written) -> None:
    written = usual
    assert "1 of 2 models are not used" in written.first
    assert "the last rung was nearer (4 % against 32 %): it is used in its place" in written.text


def test_what_each_change_buys_stands_beside_what_has_no_date() -> None:
    bought = told()["bought"]
    assert bought["subjects"] == ["p95", "disk", "clients"]
    last = {row["state"]: row["cells"] for row in bought["rows"]}["OPT5"]
    assert [cell["number"] for cell in last] == ["-1 months", "+0 months", ""]


def test_every_assumption_is_told_once_and_where_the_shadow_is_unlike_production(usual: Written) -> None:
    text = usual.text
    assert text.count("other databases do not grow") == 1
    assert "shared_buffers 1GB 128MB" in text
    assert "fsync on off" in text


def test_doubled_growth_stands_beside_the_growth_of_now() -> None:
    sooner = story.objective("met_until", "p95 at most 250 ms", date=date(2027, 5, 1))
    pair = told(doubled=story.forecast(answers=(sooner,)))["doubled"][0]
    assert (pair["now"]["date"], pair["doubled"]["date"]) == ("2028-04-12", "2027-05-01")


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    whole = story.measured()
    measured = replace(
        whole,
        rungs=tuple(
            rung.model_copy(update={"by_transaction": {HOSTILE: rung.latency}, "calls": {HOSTILE: 1}})
            for rung in whole.rungs
        ),
    )
    odd = story.over_time(HOSTILE, HOSTILE, 1, 1)
    forecast = story.forecast(
        series={"rows": (odd,), HOSTILE: (odd,)},
        answers=(
            story.objective("met", HOSTILE, subject=HOSTILE, text=HOSTILE, why=HOSTILE),
            story.bought("OPT1", HOSTILE, 3),
        ),
        assumptions=(HOSTILE,),
    )
    written = Written(tmp_path, measured=measured, forecast=forecast, title=HOSTILE, name=HOSTILE, stopped=(HOSTILE,))
    parser = _Words()
    parser.feed(written.page)
    assert "img" not in parser.tags
    assert parser.tags.count("script") == 2 + written.page.count('type="application/json"')
    assert "<img" not in written.page
    assert "49" not in written.first


def test_a_run_that_measured_one_rung_only_is_told_without_a_plot_of_nothing(tmp_path: Path) -> None:
    whole = story.measured(rounds=1, calls_per_s=None)
    measured = replace(whole, rungs=whole.of(BEFORE)[:1], facts=())
    written = Written(
        tmp_path,
        measured=measured,
        forecast=story.forecast(series={}, answers=()),
        fits=(),
        stopped=["a breaker opened: latency"],
    )
    assert "Not told: no rung was measured both before and after." in written.text
    assert "There is not enough data for a forecast." in written.text
    assert "a breaker opened: latency" in written.text
    assert "The load is not production's" in written.first
    assert "no forecast of this release has been compared with production yet" in written.first


def test_the_same_facts_give_the_same_digest() -> None:
    assert digest_of(told()) == digest_of(told())


def test_the_event_holds_the_answers_without_their_words() -> None:
    assert as_answers(story.forecast())[0] == {
        "question": "p95",
        "subject": "",
        "state": "OPT5",
        "verdict": "met_until",
        "date": "2028-04-12",
    }


def test_an_interval_that_ends_beyond_the_horizon_says_after_it() -> None:
    answer = story.objective("met_until", "x", date=date(2028, 1, 1), low=date(2027, 1, 1))
    assert interval(answer, story.UNTIL) == "2027-01-01 .. after 2029-12-31"
    assert interval(story.objective("met", "x"), story.UNTIL) == ""


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (5.24, "clients", "5.24 clients"),
        (123456.7, "rows", "123,457 rows"),
        (2.5e9, "bytes", "2.5 GB"),
        (2.5e9, "bytes a day", "2.5 GB a day"),
        (float("nan"), "ms", "no data"),
    ],
)
def test_numbers_are_told_as_people_read_them(value: float, unit: str, told: str) -> None:
    assert in_unit(value, unit) == told


@given(
    predicted=st.floats(0, 1e12, allow_nan=False),
    measured=st.floats(0, 1e12, allow_nan=False),
)
def test_an_error_is_relative_to_what_was_measured_and_never_made_up(predicted: float, measured: float) -> None:
    item = Compared(what="x", subject="", unit="", predicted=predicted, low=None, high=None, measured=measured)
    assert item.inside is None
    if measured == 0:
        assert item.error == (0.0 if predicted == 0 else None)
    else:
        assert item.error == pytest.approx(abs(predicted - measured) / measured)


def test_a_calibration_without_a_number_says_so() -> None:
    empty = story.calibration().model_copy(update={"items": ()})
    assert empty.sentence == "The forecast of 2026-09-01 could not be compared with production."
