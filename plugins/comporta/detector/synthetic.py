"""Bars of which everything is known: a quiet market with bursts planted in it, or a fair walk that no rule can gain from.

**Planted.** Within a session the price swings around a level, held inside a band whose width follows the hour (wide at the
open, narrow at noon, wider again at the close). A 30-minute range without a burst stays below 1.54 times the usual one, which is
where an opportunity ends. A burst moves the level by ``size`` usual ranges within one minute, so the range is beyond 2.2 times
the usual one from the close of that minute on, and back to normal when that minute leaves the window: the episode is known to
the minute.

**Zero edge.** A walk of single ticks, up and down with one probability, that moves more often at the open and at the close.
Bars have no gaps between them, so a stop S ticks away and a target T ticks away are hit with odds T : S, whatever the entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from comporta.detector.bars import Bars, Floats
from comporta.detector.calendar import market_calendar
from comporta.detector.settings import MarketSettings
from comporta.errors import ConfigurationError

FIRST_DAY = date(2024, 2, 15)  # after Ash Wednesday: a year of whole sessions follows
START_TICKS = 24_000
WINDOW_MIN = 30
EARLIEST_MIN, LATEST_MIN, APART_MIN = 40, 60, 90
PULL = 0.7  # the share of a minute's distance from the level that is left a minute later
BAND = 1.6  # standard deviations
USUAL_RANGE = 3.15  # the usual 30-minute range in standard deviations of that swing
NOON_TICKS = 20.0
STEPS_A_MINUTE = 120


@dataclass(frozen=True)
class Burst:
    """A leap in one minute of a session: ``minute`` counts from the session's start, ``size`` is in usual 30-minute ranges."""

    session: int
    minute: int
    direction: Literal[1, -1] = 1
    size: float = 4.0


@dataclass(frozen=True)
class PlantedEpisode:
    """What is known of one burst. Times are epoch seconds UTC, for bars of one minute.

    ``open_time`` is the open of the minute that leaps, ``onset`` its close: the first moment at which it can be known.
    ``high_until`` is the close of the last bar whose 30-minute window holds that minute: the episode ends 15 minutes later.
    """

    session: int
    day: str
    minute: int
    direction: Literal[1, -1]
    size: float
    open_time: int
    onset: int
    high_until: int

    def onset_of(self, period_min: int) -> int:
        """The close of the longer bar that holds the minute: when a detector of that period can first know."""
        offset = self.minute % period_min
        return self.open_time + 60 * (period_min - offset)


@dataclass(frozen=True)
class PlantedTruth:
    """The bursts of a synthetic market, in order of time; none, and ``zero_edge`` True, where it is a fair walk."""

    seed: int
    episodes: tuple[PlantedEpisode, ...]
    zero_edge: bool = False


def make_synthetic(
    sessions: int,
    seed: int,
    bursts: int | Sequence[Burst] | None = None,
    zero_edge: bool = False,
    *,
    period_min: int = 1,
    first_day: date = FIRST_DAY,
    market: MarketSettings | None = None,
) -> tuple[Bars, PlantedTruth]:
    """``sessions`` whole sessions on B3's trading days from ``first_day``, the same for the same arguments.

    ``bursts`` is how many to plant at random (4 in 5 sessions by default), or which; a walk with zero edge has none. Bursts
    keep 90 minutes between them, and stay out of a session's first 40 and last 60.
    """
    market = market or MarketSettings()
    if sessions < 1:
        raise ConfigurationError(f"expected one session or more, found {sessions}", remedy="Ask for 60 or more.")
    if zero_edge and bursts:
        raise ConfigurationError(
            "expected a walk without bursts, found bursts beside zero_edge", remedy="Ask for one of the two."
        )
    rng = np.random.default_rng(seed)
    days = _days(sessions, first_day)
    if zero_edge:
        planted: tuple[Burst, ...] = ()
        columns = _walk(sessions, rng, market)
    else:
        planted = _planted(bursts, sessions, rng, market)
        columns = _swings(sessions, planted, rng, market)
    volume = _volume(columns, rng, market)
    times = _open_times(days, market)
    opens, high, low, close = (np.ascontiguousarray(each * market.tick, dtype=np.float64).ravel() for each in columns)
    content = b"".join(each.tobytes() for each in (times, opens, high, low, close, volume))
    bars = Bars.from_columns(
        times.ravel(), opens, high, low, close, volume.ravel(),
        period_min=1, tz=market.tz, symbol="SYNTHETIC", adjustment="none", session_start=market.session_start,
        source=f"synthetic, {'zero edge' if zero_edge else f'{len(planted)} bursts'}, seed {seed}",
        sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    episodes = tuple(_episode(burst, days, times, market) for burst in planted)
    return bars.resampled(period_min), PlantedTruth(seed, episodes, zero_edge)


def _days(sessions: int, first: date) -> tuple[date, ...]:
    """The first trading days of the exchange; no session opens late, so that all are whole."""
    calendar = market_calendar(first, first + timedelta(days=sessions * 2 + 30))
    return tuple(day for day in sorted(calendar.days) if day not in calendar.late_opens)[:sessions]


def _season(market: MarketSettings) -> Floats:
    """How much wider than at noon the market swings, for each minute of a session."""
    minute = np.arange(market.session_min)
    open_part = 1.0 * np.exp(-minute / 60)
    close_part = 0.4 * np.exp(-(market.session_min - minute) / 60)
    season: Floats = 1 + open_part + close_part
    return season


def _planted(
    bursts: int | Sequence[Burst] | None, sessions: int, rng: np.random.Generator, market: MarketSettings
) -> tuple[Burst, ...]:
    latest = market.session_min - LATEST_MIN
    if bursts is None or isinstance(bursts, int):
        wanted = round(0.8 * sessions) if bursts is None else bursts
        return _drawn(wanted, sessions, latest, rng)
    chosen = tuple(sorted(bursts, key=lambda burst: (burst.session, burst.minute)))
    for burst in chosen:
        if not (0 <= burst.session < sessions and EARLIEST_MIN <= burst.minute <= latest):
            raise ConfigurationError(
                f"expected bursts in sessions 0 to {sessions - 1} and minutes {EARLIEST_MIN} to {latest}, found {burst}",
                remedy="Move the burst: at a session's ends its episode would be cut off.",
            )
        if not 4 <= burst.size <= 12:
            raise ConfigurationError(
                f"expected a burst of 4 to 12 usual ranges, found {burst}",
                remedy="A smaller one may drown in the swings, and its truth would not be known.",
            )
    for one, other in pairwise(chosen):
        if one.session == other.session and other.minute - one.minute < APART_MIN:
            raise ConfigurationError(
                f"expected {APART_MIN} minutes between bursts, found {one} and {other}",
                remedy="Move one of them: closer, the two would be one episode.",
            )
    return chosen


def _drawn(wanted: int, sessions: int, latest: int, rng: np.random.Generator) -> tuple[Burst, ...]:
    """Bursts at random places, no more than three a session, far enough from each other."""
    room = 3 * sessions
    if not 0 <= wanted <= room:
        raise ConfigurationError(f"expected 0 to {room} bursts, found {wanted}", remedy="Ask for more sessions.")
    thirds = np.sort(rng.choice(room, size=wanted, replace=False))
    width = (latest - EARLIEST_MIN - 2 * APART_MIN) // 3
    drawn = []
    for place in thirds.tolist():
        session, third = divmod(place, 3)
        minute = EARLIEST_MIN + third * (width + APART_MIN) + int(rng.integers(0, width))
        direction: Literal[1, -1] = 1 if rng.random() < 0.5 else -1
        drawn.append(Burst(session, minute, direction, size=float(round(rng.uniform(4, 6), 2))))
    return tuple(drawn)


def _swings(
    sessions: int, planted: Sequence[Burst], rng: np.random.Generator, market: MarketSettings
) -> tuple[NDArray[np.int64], ...]:
    """Open, high, low and close in ticks, one row a session: swings inside a band around a level that only bursts move."""
    minutes = market.session_min
    width = NOON_TICKS * _season(market)[None, :] * rng.uniform(0.95, 1.05, size=(sessions, 1))
    noise = rng.standard_normal((sessions, minutes)) * np.sqrt(1 - PULL**2)
    swing = np.empty((sessions, minutes))
    swing[:, 0] = noise[:, 0]
    for minute in range(1, minutes):
        swing[:, minute] = np.clip(PULL * swing[:, minute - 1] + noise[:, minute], -BAND, BAND)
    level = np.zeros((sessions, minutes))
    for burst in planted:
        usual = NOON_TICKS * _season(market)[burst.minute] * USUAL_RANGE
        level[burst.session, burst.minute :] += burst.direction * round(burst.size * usual)
    overnight = rng.standard_normal(sessions) * 3 * NOON_TICKS
    for session in range(1, sessions):  # most of a move outlives the night, yet the price stays near where it began
        level[session] += 0.7 * level[session - 1, -1] + overnight[session]
    close = np.rint(START_TICKS + level + swing * width).astype(np.int64)
    opens = np.empty_like(close)
    opens[:, 1:] = close[:, :-1]
    opens[:, 0] = np.rint(START_TICKS + level[:, 0]).astype(np.int64)
    wicks = np.abs(rng.standard_normal((2, sessions, minutes))) * 0.3
    # A wick stays inside the band too: the band is what bounds the range of a window without a burst.
    top = np.rint(START_TICKS + level + np.minimum(swing + wicks[0], BAND) * width).astype(np.int64)
    bottom = np.rint(START_TICKS + level + np.maximum(swing - wicks[1], -BAND) * width).astype(np.int64)
    high = np.maximum(np.maximum(opens, close), top)
    low = np.minimum(np.minimum(opens, close), bottom)
    return opens, high, low, close


def _walk(sessions: int, rng: np.random.Generator, market: MarketSettings) -> tuple[NDArray[np.int64], ...]:
    """Open, high, low and close in ticks of a fair walk, one row a session; each session starts anew near the same price."""
    season = _season(market)
    moving = np.minimum(0.9, 0.35 * season)[:, None]
    columns = tuple(np.empty((sessions, market.session_min), dtype=np.int64) for _ in range(4))
    opens, high, low, close = columns
    for session in range(sessions):
        drawn = rng.random((market.session_min, STEPS_A_MINUTE))
        steps = (drawn < moving / 2).astype(np.int64) - (drawn > 1 - moving / 2)
        path = START_TICKS + int(rng.integers(-200, 201)) + np.cumsum(steps.ravel()).reshape(steps.shape)
        close[session] = path[:, -1]
        opens[session] = np.r_[path[0, 0] - steps[0, 0], path[:-1, -1]]
        high[session] = np.maximum(opens[session], path.max(axis=1))
        low[session] = np.minimum(opens[session], path.min(axis=1))
    return columns


def _volume(columns: tuple[NDArray[np.int64], ...], rng: np.random.Generator, market: MarketSettings) -> Floats:
    """Contracts: more at the open and the close, and where the bar is long."""
    _, high, low, _ = columns
    mean = 40 * _season(market)[None, :] * (1 + high - low)
    return rng.poisson(mean).astype(np.float64) + 1


def _open_times(days: Sequence[date], market: MarketSettings) -> NDArray[np.int64]:
    """Epoch seconds UTC of every minute's open, one row a session."""
    hours, minutes = (int(part) for part in market.session_start.split(":"))
    zone = ZoneInfo(market.tz)
    starts = [int(datetime(day.year, day.month, day.day, hours, minutes, tzinfo=zone).timestamp()) for day in days]
    return np.array(starts, dtype=np.int64)[:, None] + 60 * np.arange(market.session_min, dtype=np.int64)[None, :]


def _episode(burst: Burst, days: Sequence[date], times: NDArray[np.int64], market: MarketSettings) -> PlantedEpisode:
    opened = int(times[burst.session, burst.minute])
    last = min(burst.minute + WINDOW_MIN, market.session_min)
    return PlantedEpisode(
        session=burst.session,
        day=str(days[burst.session]),
        minute=burst.minute,
        direction=burst.direction,
        size=burst.size,
        open_time=opened,
        onset=opened + 60,
        high_until=int(times[burst.session, 0]) + 60 * last,
    )
