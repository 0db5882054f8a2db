"""What is wrong with bars before anything is detected in them: one finding a check, one row a session, one verdict.

``stop`` means that a result from these bars would say something about the file and not about the market. ``warn`` is for the
reader of the report. Nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from comporta.detector.bars import Bars
from comporta.detector.calendar import MarketCalendar, market_calendar
from comporta.detector.settings import MarketSettings

Verdict = Literal["pass", "warn", "stop"]
VERDICTS: tuple[Verdict, ...] = ("pass", "warn", "stop")
EXAMPLES = 12
LATE_START_MIN = 15
GAP_WARN_MIN = 15
MISSING_WARN_SHARE = 0.005
OFF_TICK_WARN_SHARE = 0.001
CLOCK_STOP_SHARE = 0.8
SHORT_STOP_SHARE = 0.5
LEAP_SHARE = 0.01
ROLL_SPREADS = 3.0
SATURDAY = 5


@dataclass(frozen=True)
class Finding:
    """One check: what was expected and found in words, how often it was not so, and where, at most a dozen places."""

    check: str
    verdict: Verdict
    count: int
    expected: str
    found: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionQuality:
    """One trading day. ``share`` is bars over expected bars of the regular hours; gaps are minutes without bars inside them.

    ``overnight_pct`` is the first open over the close before, None for the first day. ``kept`` says whether it is scored.
    """

    session: int
    day: str
    first: str
    last: str
    bars: int
    expected: int
    share: float
    gaps: int
    longest_gap_min: int
    overnight_pct: float | None
    late_open: str | None
    roll: bool
    kept: bool


@dataclass(frozen=True)
class Quality:
    """The quality page of one set of bars, in plain values."""

    verdict: Verdict
    symbol: str
    source: str
    sha256: str
    tz: str
    period_min: int
    adjustment: str
    bars: int
    first: str
    last: str
    findings: tuple[Finding, ...]
    sessions: tuple[SessionQuality, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of the sessions with enough bars to be scored."""
        return tuple(each.session for each in self.sessions if each.kept)

    def finding(self, check: str) -> Finding:
        """One check by its name."""
        return next(each for each in self.findings if each.check == check)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def calendar_of(bars: Bars) -> MarketCalendar:
    """The exchange's calendar over the days of the bars."""
    first, last = (
        date.fromisoformat(bars.sessions[int(number)]) for number in (bars.session.min(), bars.session.max())
    )
    return market_calendar(first, last)


def quality_of(bars: Bars, calendar: MarketCalendar | None = None, market: MarketSettings | None = None) -> Quality:
    """Every check on two bars or more, in the order of the page; without a calendar, B3's is taken."""
    market = market or MarketSettings()
    look = _Look(bars, calendar or calendar_of(bars), market)
    checks: tuple[Callable[[_Look], Finding], ...] = (
        _order, _prices, _volume, _ticks, _clock, _outside, _closed_days, _missing_days, _short_sessions, _gaps, _leaps,
        _rolls,
    )  # fmt: skip
    findings = tuple(check(look) for check in checks)
    return Quality(
        verdict=max((each.verdict for each in findings), key=VERDICTS.index),
        symbol=bars.symbol,
        source=bars.source,
        sha256=bars.sha256,
        tz=bars.tz,
        period_min=bars.period_min,
        adjustment=bars.adjustment,
        bars=len(bars),
        first=look.when(0),
        last=look.when(len(bars) - 1),
        findings=findings,
        sessions=look.sessions,
    )


class _Look:
    """The bars with what several checks need of them, worked out once."""

    def __init__(self, bars: Bars, calendar: MarketCalendar, market: MarketSettings) -> None:
        self.bars, self.calendar, self.market = bars, calendar, market
        numbers = np.unique(bars.session).tolist()  # a part of a file keeps the dates of the whole
        self.days = tuple(date.fromisoformat(bars.sessions[number]) for number in numbers)
        self.rolls = frozenset(calendar.roll_days())
        hours, minutes = market.session_start.split(":")
        self.start_min = int(hours) * 60 + int(minutes)
        self.regular = (bars.minute >= 0) & (bars.minute < market.session_min)
        self.steps = np.diff(bars.minute)
        self.same_session = np.diff(bars.session) == 0
        self.sessions = tuple(self._session(number, day) for number, day in zip(numbers, self.days, strict=True))

    def clock(self, minute: int) -> str:
        """A minute of the session as HH:MM of the exchange."""
        hours, minutes = divmod(minute + self.start_min, 60)
        return f"{hours:02d}:{minutes:02d}"

    def when(self, row: int) -> str:
        """Day and time of a bar, for a person."""
        return f"{self.bars.sessions[int(self.bars.session[row])]} {self.clock(int(self.bars.minute[row]))}"

    def examples(self, rows: NDArray[np.int64], said: Callable[[int], str] | None = None) -> tuple[str, ...]:
        """The first bars of these, each with a word of its own."""
        return tuple(f"{self.when(row)}{said(row) if said else ''}" for row in rows[:EXAMPLES].tolist())

    def _session(self, number: int, day: date) -> SessionQuality:
        bars, period = self.bars, self.bars.period_min
        rows = np.flatnonzero(bars.session == number)
        minutes = bars.minute[rows]
        regular = minutes[self.regular[rows]]
        expected = self.market.session_min // period
        jumps = np.diff(regular) - period if len(regular) else np.zeros(0, dtype=np.int64)
        before = rows[0] - 1
        overnight = None if before < 0 else round(100 * float(bars.open[rows[0]] / bars.close[before] - 1), 4)
        return SessionQuality(
            session=number,
            day=str(day),
            first=self.clock(int(minutes[0])),
            last=self.clock(int(minutes[-1])),
            bars=len(rows),
            expected=expected,
            share=round(len(regular) / expected, 4),
            gaps=int((jumps > 0).sum()),
            longest_gap_min=int(jumps.max(initial=0)),
            overnight_pct=overnight,
            late_open=self.calendar.late_opens.get(day),
            roll=day in self.rolls,
            kept=len(regular) / expected >= self.market.min_session_share,
        )


def _order(look: _Look) -> Finding:
    rows = np.flatnonzero(np.diff(look.bars.open_time) <= 0) + 1
    twice = int((np.diff(look.bars.open_time) == 0).sum())
    return Finding(
        "order",
        "stop" if len(rows) else "pass",
        len(rows),
        "every bar opens after the one before",
        f"{len(rows) - twice} bars out of order, {twice} duplicates",
        look.examples(rows),
    )


def _prices(look: _Look) -> Finding:
    bars = look.bars
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    four = np.stack([bars.open, bars.high, bars.low, bars.close])
    wrong = ~np.isfinite(four).all(axis=0) | (bars.high < top) | (bars.low > bottom)
    if bars.adjustment != "difference":
        wrong |= (four <= 0).any(axis=0)
    rows = np.flatnonzero(wrong)
    return Finding(
        "prices",
        "stop" if len(rows) else "pass",
        len(rows),
        "finite prices above 0 with low <= open, close <= high",
        f"{len(rows)} bars whose prices cannot be",
        look.examples(rows),
    )


def _volume(look: _Look) -> Finding:
    volume = look.bars.volume
    unknown, zero, negative = int(np.isnan(volume).sum()), int((volume == 0).sum()), int((volume < 0).sum())
    rows = np.flatnonzero(~(volume > 0))
    return Finding(
        "volume",
        "stop" if negative else "warn" if len(rows) else "pass",
        len(rows),
        "something traded in every bar",
        f"{unknown} bars of unknown volume, {zero} of none, {negative} of a negative one",
        look.examples(rows),
    )


def _ticks(look: _Look) -> Finding:
    bars, tick = look.bars, look.market.tick
    four = np.stack([bars.open, bars.high, bars.low, bars.close]) / tick
    off = (np.abs(four - np.rint(four)) > 1e-6).any(axis=0)
    rows, share = np.flatnonzero(off), float(off.mean())
    found = f"{share:.2%} of the bars have a price between two ticks"
    if bars.adjustment == "proportional":
        # Prices that were multiplied leave the grid; if all lie on it, the tag says what was not done.
        doubt = not len(rows)
        found += ": the tag says proportional, yet nothing was multiplied" if doubt else ", as a multiplied history has"
        return Finding("ticks", "warn" if doubt else "pass", len(rows), f"prices off the grid of {tick:g}", found)
    return Finding(
        "ticks",
        "warn" if share > OFF_TICK_WARN_SHARE else "pass",
        len(rows),
        f"multiples of {tick:g}, as nominal or difference-adjusted prices are",
        found,
        look.examples(rows),
    )


def _clock(look: _Look) -> Finding:
    """A file of another zone, or of another clock, has its first bars at another hour."""
    inner = [each for each in look.sessions[1:-1] or look.sessions if each.late_open is None]
    punctual = [each for each in inner if 0 <= _minutes(each.first) - look.start_min <= LATE_START_MIN]
    share = len(punctual) / len(inner) if inner else 1.0
    usual = max({each.first for each in inner}, key=[each.first for each in inner].count) if inner else "-"
    late = tuple(f"{each.day} {each.first}" for each in inner if each not in punctual)
    return Finding(
        "clock",
        "stop" if share < CLOCK_STOP_SHARE else "pass",
        len(late),
        f"sessions that begin at {look.market.session_start} of {look.bars.tz}",
        f"{share:.0%} of them do; most begin at {usual}"
        + (": the zone of the times is probably another one" if share < CLOCK_STOP_SHARE else ""),
        late[:EXAMPLES],
    )


def _outside(look: _Look) -> Finding:
    minute = look.bars.minute
    early, late = np.flatnonzero(minute < 0), int((minute >= look.market.session_min).sum())
    return Finding(
        "outside the session",
        "warn" if len(early) else "pass",
        len(early) + late,
        f"bars from {look.market.session_start} to {look.market.session_end}; the close moves over the year",
        f"{len(early)} bars before, {late} after",
        look.examples(early),
    )


def _closed_days(look: _Look) -> Finding:
    closed = [day for day in look.days if not look.calendar.is_open(day)]
    weekend = [day for day in closed if day.weekday() >= SATURDAY]
    return Finding(
        "closed days",
        "stop" if weekend else "warn" if closed else "pass",
        len(closed),
        "no bars on weekends and holidays",
        f"bars on {len(weekend)} weekend days and {len(closed) - len(weekend)} holidays",
        _dates(closed),
    )


def _missing_days(look: _Look) -> Finding:
    missing = sorted(set(look.calendar.between(look.days[0], look.days[-1])) - set(look.days))
    return Finding(
        "missing days",
        "warn" if missing else "pass",
        len(missing),
        "bars on every trading day between the first and the last",
        f"{len(missing)} trading days without a bar",
        _dates(missing),
    )


def _short_sessions(look: _Look) -> Finding:
    short = [each for each in look.sessions if not each.kept]
    late = sum(each.late_open is not None for each in short)
    unexplained = len(short) - late
    stop = len(short) > SHORT_STOP_SHARE * len(look.sessions)
    return Finding(
        "short sessions",
        "stop" if stop else "warn" if unexplained else "pass",
        len(short),
        f"{look.market.min_session_share:.0%} of a session's bars or more",
        f"{len(short)} of {len(look.sessions)} sessions have fewer and are not scored; {late} of them opened late by the calendar",
        tuple(f"{each.day} {each.first}-{each.last}, {each.share:.0%}" for each in short[:EXAMPLES]),
    )


def _gaps(look: _Look) -> Finding:
    bars, period = look.bars, look.bars.period_min
    inside = look.same_session & look.regular[1:] & look.regular[:-1] & (look.steps > period)
    rows = np.flatnonzero(inside) + 1
    missing = int((look.steps[inside] // period - 1).sum())
    longest = int(look.steps[inside].max(initial=period)) - period
    share = missing / max(1, int(look.regular.sum()) + missing)
    return Finding(
        "gaps",
        "warn" if longest > GAP_WARN_MIN or share > MISSING_WARN_SHARE else "pass",
        len(rows),
        f"a bar every {period} min inside a session",
        f"{len(rows)} gaps, {missing} bars missing ({share:.2%}), the longest {longest} min",
        look.examples(rows, lambda row: f" after {int(bars.minute[row] - bars.minute[row - 1]) - period} min"),
    )


def _leaps(look: _Look) -> Finding:
    bars = look.bars
    change = np.zeros(len(bars))
    change[1:] = np.where(look.same_session, bars.open[1:] / bars.close[:-1] - 1, 0)
    rows = np.flatnonzero(np.abs(change) > LEAP_SHARE)
    return Finding(
        "leaps",
        "warn" if len(rows) else "pass",
        len(rows),
        f"an open within {LEAP_SHARE:.0%} of the close before it, inside a session",
        f"{len(rows)} opens further off",
        look.examples(rows, lambda row: f" {change[row]:+.2%}"),
    )


def _rolls(look: _Look) -> Finding:
    """The change over each expiry beside the usual overnight change: a nominal series leaps there by the carry of two months."""
    changes = {each.day: each.overnight_pct for each in look.sessions if each.overnight_pct is not None}
    plain = [change for each, change in zip(look.sessions[1:], changes.values(), strict=True) if not each.roll]
    spread = 1.4826 * float(np.median(np.abs(np.array(plain) - np.median(plain)))) if plain else 0.0
    days = [str(day) for day in sorted(look.rolls) if str(day) in changes]
    leaps = np.array([_roll_change(look, day, changes) for day in days])
    # One leap may be the market's own; that all of them go one way, beyond what chance allows their mean, is the roll's.
    score = float(leaps.mean()) * len(days) ** 0.5 / spread if days and spread else 0.0
    leaping = abs(score) > ROLL_SPREADS
    nominal = look.bars.adjustment == "none"
    mean = f", mean change {leaps.mean():+.2f} % ({score:+.1f} standard errors)" if days else ""
    return Finding(
        "rolls",
        "warn" if leaping else "pass",
        len(days) if leaping else 0,
        "prices are nominal: they leap at each expiry, and no window may look across one"
        if nominal
        else f"no leap over an expiry: prices are {look.bars.adjustment}-adjusted",
        f"{len(days)} expiries inside, usual overnight change {spread:.2f} %{mean}",
        tuple(f"{day} {leap:+.2f} %" for day, leap in zip(days[:EXAMPLES], leaps[:EXAMPLES].tolist(), strict=True)),
    )


def _roll_change(look: _Look, day: str, changes: Mapping[str, float]) -> float:
    """The larger of the changes into the day of expiry and into the next: vendors roll on either."""
    days = [each.day for each in look.sessions]
    after = days[days.index(day) : days.index(day) + 2]
    return max((changes.get(each, 0.0) for each in after), key=abs)


def _dates(days: Iterable[date]) -> tuple[str, ...]:
    return tuple(str(day) for day in days)[:EXAMPLES]


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
