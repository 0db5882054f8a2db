"""The quality page: what is found in bars that were spoilt on purpose, the exchange's days, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comporta.detector.bars import Bars
from comporta.detector.calendar import MarketCalendar, expiry, market_calendar
from comporta.detector.quality import Quality, quality_of
from comporta.detector.sources import read_bars
from comporta.detector.synthetic import make_synthetic

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "win"
SESSIONS = 30
SESSION_MIN = 535
DAY_S = 86_400


@pytest.fixture(scope="module")
def clean() -> Bars:
    return make_synthetic(SESSIONS, seed=11)[0]


def changed(bars: Bars, name: str, row: int, value: float) -> Bars:
    column = getattr(bars, name).copy()
    column[row] = value
    return replace(bars, **{name: column})


def without(bars: Bars, *rows: int) -> Bars:
    return bars[np.delete(np.arange(len(bars)), rows)]


def moved(bars: Bars, seconds: int) -> Bars:
    return Bars.from_columns(
        bars.open_time + seconds, bars.open, bars.high, bars.low, bars.close, bars.volume,
        period_min=bars.period_min, tz=bars.tz, symbol=bars.symbol, adjustment=bars.adjustment,
    )  # fmt: skip


def scaled(bars: Bars, factor: Any, **more: Any) -> Bars:
    return replace(bars, **{n: getattr(bars, n) * factor for n in ("open", "high", "low", "close")}, **more)


def test_a_clean_set_passes_every_check_and_keeps_every_session(clean: Bars) -> None:
    quality = quality_of(clean)
    assert {each.check: each.verdict for each in quality.findings if each.verdict != "pass"} == {}
    assert quality.verdict == "pass"
    assert quality.kept == tuple(range(SESSIONS))
    assert (quality.bars, quality.first, quality.last) == (
        SESSIONS * SESSION_MIN,
        "2024-02-15 09:00",
        "2024-03-27 17:54",
    )
    first = quality.sessions[0]
    assert (first.first, first.last, first.bars, first.share, first.overnight_pct) == ("09:00", "17:54", 535, 1.0, None)


def test_a_page_is_plain_values(clean: Bars) -> None:
    page = json.loads(json.dumps(quality_of(clean).to_dict(), allow_nan=False))
    assert [each["check"] for each in page["findings"]] == [
        "order", "prices", "volume", "ticks", "clock", "outside the session", "closed days", "missing days", "short sessions",
        "gaps", "leaps", "rolls",
    ]  # fmt: skip
    assert len(page["sessions"]) == SESSIONS


@pytest.mark.parametrize(
    ("spoil", "check", "verdict", "count", "example"),
    [
        (lambda b: changed(b, "open_time", 5, b.open_time[4]), "order", "stop", 1, "2024-02-15 09:05"),
        (lambda b: changed(b, "open_time", 5, b.open_time[3]), "order", "stop", 1, "2024-02-15 09:05"),
        (lambda b: changed(b, "high", 7, b.low[7] - 5), "prices", "stop", 1, "2024-02-15 09:07"),
        (lambda b: changed(b, "close", 7, np.nan), "prices", "stop", 1, "2024-02-15 09:07"),
        (lambda b: changed(b, "low", 7, 0), "prices", "stop", 1, "2024-02-15 09:07"),
        (lambda b: changed(b, "volume", 7, -1), "volume", "stop", 1, "2024-02-15 09:07"),
        (lambda b: changed(b, "volume", 7, 0), "volume", "warn", 1, "2024-02-15 09:07"),
        (lambda b: changed(b, "volume", 7, np.nan), "volume", "warn", 1, "2024-02-15 09:07"),
        (lambda b: scaled(b, 1.01), "ticks", "warn", None, None),
        (lambda b: replace(b, adjustment="proportional"), "ticks", "warn", 0, None),
        (lambda b: moved(b, 3 * 3600), "clock", "stop", None, "2024-02-16 12:00"),
        (lambda b: moved(b, -3 * 3600), "outside the session", "warn", None, "2024-02-15 06:00"),
        (lambda b: moved(b, 2 * DAY_S), "closed days", "stop", None, "2024-02-17"),
        (lambda b: without(b, *range(535, 1070)), "missing days", "warn", 1, "2024-02-16"),
        (lambda b: without(b, *range(535, 735)), "short sessions", "warn", 1, "2024-02-16 12:20-17:54, 63%"),
        (lambda b: without(b, *range(100, 120)), "gaps", "warn", 1, "2024-02-15 11:00 after 20 min"),
        (lambda b: without(b, 100), "gaps", "pass", 1, "2024-02-15 10:41 after 1 min"),
        (lambda b: changed(b, "open", 100, b.close[99] * 1.02), "leaps", "warn", 1, "2024-02-15 10:40 +2.00%"),
    ],
)  # fmt: skip
def test_what_was_spoilt_is_found_and_named(
    clean: Bars, spoil: Callable[[Bars], Bars], check: str, verdict: str, count: int | None, example: str | None
) -> None:
    quality = quality_of(spoil(clean))
    finding = quality.finding(check)
    assert finding.verdict == verdict, finding
    assert count is None or finding.count == count
    assert example is None or finding.examples[0] == example
    assert quality.verdict in {verdict, "warn", "stop"}


def test_multiplied_prices_may_lie_between_ticks_when_the_tag_says_so(clean: Bars) -> None:
    finding = quality_of(scaled(clean, 1.01, adjustment="proportional")).finding("ticks")
    assert finding.verdict == "pass"
    assert finding.count > 0.5 * len(clean)


def test_bars_of_which_most_sessions_are_short_stop(clean: Bars) -> None:
    quality = quality_of(clean[clean.minute < 200])
    assert quality.finding("short sessions").verdict == quality.verdict == "stop"
    assert quality.kept == ()


def test_a_short_session_is_not_kept_and_the_others_are(clean: Bars) -> None:
    quality = quality_of(without(clean, *range(535, 735)))
    assert quality.kept == (0, *range(2, SESSIONS))


def test_two_bars_have_a_page(clean: Bars) -> None:
    quality = quality_of(clean[:2])
    assert (quality.bars, quality.kept) == (2, ())


@pytest.fixture(scope="module")
def year() -> Bars:
    return make_synthetic(230, seed=3, bursts=0, period_min=5)[0]


class TestRolls:
    """A nominal series leaps by the carry at each expiry; an adjusted one does not."""

    def rolled(self, bars: Bars) -> Bars:
        """Each expiry lifts all that follows by 2 %."""
        days = np.array([date.fromisoformat(day) for day in bars.sessions])
        rolls = market_calendar(days[0], days[-1]).roll_days()
        lift = np.array([1.02 ** sum(roll <= day for roll in rolls) for day in days])
        return scaled(bars, lift[bars.session])

    def test_leaps_that_all_go_one_way_are_found(self, year: Bars) -> None:
        finding = quality_of(self.rolled(year)).finding("rolls")
        assert (finding.verdict, finding.count) == ("warn", 5)
        assert [each.split()[0] for each in finding.examples] == [
            "2024-04-17", "2024-06-12", "2024-08-14", "2024-10-16", "2024-12-18",
        ]  # fmt: skip

    def test_an_adjusted_series_passes_and_one_that_only_says_so_does_not(self, year: Bars) -> None:
        assert quality_of(replace(year, adjustment="difference")).finding("rolls").verdict == "pass"
        lying = replace(self.rolled(year), adjustment="difference")
        assert quality_of(lying).finding("rolls").verdict == "warn"


class TestCalendar:
    """B3's days."""

    @pytest.mark.parametrize(
        ("year", "month", "day"),
        [(2025, 2, 12), (2025, 4, 16), (2025, 6, 18), (2021, 12, 15), (2015, 10, 14), (2022, 2, 16)],
    )
    def test_an_expiry_is_the_wednesday_nearest_the_fifteenth(self, year: int, month: int, day: int) -> None:
        assert expiry(year, month) == date(year, month, day)

    def test_an_expiry_on_a_holiday_is_the_next_trading_day(self) -> None:
        days = frozenset({date(2025, 2, 11), date(2025, 2, 13), date(2025, 4, 16)})
        calendar = MarketCalendar(date(2025, 1, 1), date(2025, 5, 1), days)
        assert calendar.roll_days() == (date(2025, 2, 13), date(2025, 4, 16))

    def test_holidays_are_closed_and_ash_wednesday_opens_late(self) -> None:
        calendar = market_calendar(date(2025, 1, 1), date(2025, 12, 31))
        closed = (
            date(2025, 1, 1),
            date(2025, 3, 3),
            date(2025, 3, 4),
            date(2025, 4, 18),
            date(2025, 11, 20),
            date(2025, 6, 7),
        )
        assert not any(calendar.is_open(day) for day in closed)
        assert calendar.is_open(date(2025, 3, 5))
        assert calendar.late_opens == {date(2025, 3, 5): "13:00"}
        assert calendar.between(date(2025, 3, 1), date(2025, 3, 6)) == (date(2025, 3, 5), date(2025, 3, 6))

    def test_a_day_beyond_the_calendar_is_not_guessed(self) -> None:
        with pytest.raises(ValueError, match="2026-01-02 is outside"):
            market_calendar(date(2025, 1, 1), date(2025, 12, 31)).is_open(date(2026, 1, 2))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real bars for development are not here")
@pytest.mark.parametrize(
    ("name", "adjustment", "kept", "warned"),
    [
        ("WINN_M1_2015.parquet", "none", 95, {"rolls"}),
        ("WIN_M1_2025.parquet", "proportional", 107, {"short sessions", "gaps"}),
        ("WIN_M5_2021_22.parquet", "none", 181, {"volume", "short sessions", "rolls"}),
        ("WIN_M5_2025H1.parquet", "difference", 67, set()),
    ],
)
def test_the_real_sets_have_the_flaws_that_are_known_of_them(
    name: str, adjustment: Any, kept: int, warned: set[str]
) -> None:
    bars = read_bars(REAL / name, tz="America/Sao_Paulo", symbol="WIN", adjustment=adjustment)
    quality: Quality = quality_of(bars)
    assert {each.check for each in quality.findings if each.verdict == "warn"} == warned
    assert len(quality.kept) == kept
    assert quality.finding("missing days").count == quality.finding("closed days").count == 0
