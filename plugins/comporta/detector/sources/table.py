"""What every source of bars is turned into first, and the checks that all of them pass before they are called bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from comporta.detector.bars import Adjustment, Bars, Floats
from comporta.detector.calendar import EXCHANGE_TZ
from comporta.detector.settings import MarketSettings
from comporta.detector.sources.errors import (
    BadValue,
    DuplicateBar,
    NaiveTimes,
    NoSuchTime,
    NotInOrder,
    TooFewBars,
    UnknownZone,
    WrongPeriod,
)

PRICES = ("open", "high", "low", "close")
DAY_MIN = 1440
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns as they were read, one array each, all of one length; nothing is checked yet but that they are numbers.

    ``seconds`` counts from 1970-01-01 00:00, of UTC when ``aware``, else of a wall clock whose zone is yet to be said.
    ``lines`` are the 1-based places to name in an error, ``place`` the word for them. A volume that is not known is NaN.
    """

    source: str
    sha256: str
    seconds: NDArray[np.int64]
    aware: bool
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    lines: NDArray[np.int64]
    place: str = "line"
    newest_first: bool = False

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, index: int) -> str:
        """The source and place of a row, to open an error with."""
        return f"{self.source}, {self.place} {self.lines[index]}"

    def taken(self, index: Any) -> Table:
        """The rows of a slice, in its order."""
        columns = ("seconds", *PRICES, "volume", "lines")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})


def bars_of(
    table: Table,
    *,
    tz: str | None,
    symbol: str,
    adjustment: Adjustment,
    period_min: int | None = None,
    exchange_tz: str = EXCHANGE_TZ,
    session_start: str = MarketSettings().session_start,
) -> Bars:
    """The table as Bars on the exchange's clock, or a BarsRefused that names the first row that cannot be.

    ``tz`` is the zone of naive times; aware times need none. Sessions and minutes are always told by ``exchange_tz``, so that
    a file written in UTC has the same sessions as one written in the exchange's own time.
    """
    if adjustment not in get_args(Adjustment):
        raise BadValue(
            f"{table.source}: expected an adjustment of {', '.join(get_args(Adjustment))}, found {adjustment!r}",
            remedy="Say how the rolls of the contract were treated: none (nominal prices), proportional or difference.",
            source=table.source,
        )
    _check_count(table)
    instants = _instants(table, tz)
    if table.newest_first and (np.diff(instants) < 0).all():
        table, instants = table.taken(slice(None, None, -1)), instants[::-1]
    _check_values(table, adjustment)
    _check_order(table, instants)
    period = _period(table, instants, period_min)
    check_zone(exchange_tz, table.source)
    return Bars.from_columns(
        instants, table.open, table.high, table.low, table.close, table.volume,
        period_min=period, tz=exchange_tz, symbol=symbol, adjustment=adjustment, session_start=session_start,
        source=table.source, sha256=table.sha256,
    )  # fmt: skip


def check_zone(tz: str, source: str) -> None:
    """Refuse a zone that is not in the table of zones, with the names that look like it."""
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = get_close_matches(tz, sorted(available_timezones()), n=3)
        raise UnknownZone(
            f"{source}: expected the name of a time zone such as {EXCHANGE_TZ}, found {tz!r}",
            remedy=f"Did you mean {' or '.join(near)}?" if near else f"Give --tz {EXCHANGE_TZ}, or another IANA name.",
            source=source,
        ) from error


def wall(seconds: int) -> str:
    """Seconds of a wall clock as a person writes them."""
    return str(np.datetime64(seconds, "s")).replace("T", " ").removesuffix(":00")


def _check_count(table: Table) -> None:
    if len(table) < 2:
        place, found = (table.at(0), "one bar") if len(table) else (table.source, "no bar")
        raise TooFewBars(
            f"{place}: expected two bars or more, found {found}",
            remedy="Export a longer time: the detector needs 20 sessions before it says anything.",
            source=table.source,
            line=int(table.lines[0]) if len(table) else None,
        )


def _instants(table: Table, tz: str | None) -> NDArray[np.int64]:
    """Epoch seconds UTC of every row."""
    if tz is not None:
        check_zone(tz, table.source)
    if table.aware:
        return table.seconds
    if tz is None:
        raise NaiveTimes(
            f"{table.at(0)}: expected times with a zone, found {wall(int(table.seconds[0]))} without one",
            remedy=f"Say which clock wrote them: --tz {EXCHANGE_TZ} for times of the exchange, --tz UTC for universal time.",
            source=table.source,
            line=int(table.lines[0]),
        )
    clock = pd.DatetimeIndex(table.seconds.astype("datetime64[s]"))
    local = clock.tz_localize(tz, ambiguous="NaT", nonexistent="NaT")
    bad = np.flatnonzero(local.isna())
    if len(bad):
        row = int(bad[0])
        skipped = clock[row : row + 1].tz_localize(tz, ambiguous=np.array([True]), nonexistent="NaT").isna()[0]
        why = "never was there: the clock was put forward" if skipped else "was there twice: the clock was put back"
        raise NoSuchTime(
            f"{table.at(row)}: expected a time of {tz}, found {wall(int(table.seconds[row]))}, which {why}",
            remedy="The times are of another zone (give that one with --tz), or write them with their offset from UTC.",
            source=table.source,
            line=int(table.lines[row]),
        )
    instants: NDArray[np.int64] = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    return instants


def _check_values(table: Table, adjustment: Adjustment) -> None:
    """Refuse the first row whose prices or volume no bar can have."""
    o, h, low, c = (getattr(table, name) for name in PRICES)
    body_high, body_low = np.maximum(o, c), np.minimum(o, c)
    rules: list[tuple[Mask, str, Callable[[int], str]]] = []
    for name in PRICES:
        rules.append((~np.isfinite(getattr(table, name)), f"a number as {name}", _shown(table, name)))
        if adjustment != "difference":  # such a history may lie below zero
            rules.append((getattr(table, name) <= 0, f"a price above 0 as {name}", _shown(table, name)))
    rules += [
        (h < low, "a high not below the low", lambda row: f"high {h[row]:.10g} and low {low[row]:.10g}"),
        (h < body_high, "a high not below open and close", lambda row: f"high {h[row]:.10g} under {body_high[row]:.10g}"),
        (low > body_low, "a low not above open and close", lambda row: f"low {low[row]:.10g} over {body_low[row]:.10g}"),
        (table.volume < 0, "a volume of 0 or more", _shown(table, "volume")),
        (np.isinf(table.volume), "a finite volume", _shown(table, "volume")),
    ]  # fmt: skip
    broken = [(int(np.argmax(mask)), rule) for rule, (mask, _, _) in enumerate(rules) if mask.any()]
    if broken:
        row, rule = min(broken)
        _, expected, found = rules[rule]
        raise BadValue(
            f"{table.at(row)} ({wall(int(table.seconds[row]))}): expected {expected}, found {found(row)}",
            remedy=f"Export the day again, or take this {table.place} out; the quality page will show the gap.",
            source=table.source,
            line=int(table.lines[row]),
        )


def _shown(table: Table, name: str) -> Callable[[int], str]:
    """A value of a column for a message, by its row."""
    return lambda row: f"{getattr(table, name)[row]:.10g}"


def _check_order(table: Table, instants: NDArray[np.int64]) -> None:
    steps = np.diff(instants)
    wrong = np.flatnonzero(steps <= 0)
    if not len(wrong):
        return
    row = int(wrong[0]) + 1
    line, above = int(table.lines[row]), int(table.lines[row - 1])
    this, before = wall(int(table.seconds[row])), wall(int(table.seconds[row - 1]))
    if steps[row - 1] == 0:
        raise DuplicateBar(
            f"{table.at(row)}: expected a bar after {before}, found {this} again, which {table.place} {above} has already",
            remedy="Take one of the two out; if two exports were joined, cut the second where the first ends.",
            source=table.source,
            line=line,
        )
    raise NotInOrder(
        f"{table.at(row)}: expected a bar after {before} ({table.place} {above}), found {this}",
        remedy="Sort the bars by time, oldest first.",
        source=table.source,
        line=line,
    )


def _period(table: Table, instants: NDArray[np.int64], said: int | None) -> int:
    """The period in minutes: the one that was said, or that most neighbours are apart; every bar fits its grid."""
    steps = np.diff(instants)
    values, counts = np.unique(steps, return_counts=True)
    period = said if said is not None else int(values[np.argmax(counts)]) // 60
    if not 1 <= period < DAY_MIN:
        raise WrongPeriod(
            f"{table.source}: expected bars within the day, found bars {int(values[np.argmax(counts)])} s apart",
            remedy="Export bars of 1 or 5 minutes: a day's bar says nothing about its hours.",
            source=table.source,
        )
    off = instants % 60 != 0 if period > 60 or 60 % period else instants % (60 * period) != 0
    close = np.r_[False, steps < 60 * period]
    wrong = np.flatnonzero(off | close)
    if len(wrong):
        row = int(wrong[0])
        how = "said" if said is not None else "most bars have"
        found = f"{int(steps[row - 1])} s after the bar above it" if close[row] else "off the clock's grid"
        raise WrongPeriod(
            f"{table.at(row)}: expected a bar of {period} min, which is what {how}, found {wall(int(table.seconds[row]))},"
            f" {found}",
            remedy="Give the period of the file with --period-min, or export bars of one period.",
            source=table.source,
            line=int(table.lines[row]),
        )
    return period
