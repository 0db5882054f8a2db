"""Trading days of B3, and the days on which its index future rolls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache

EXCHANGE_TZ = "America/Sao_Paulo"
EXCHANGE = "BVMF"
WEDNESDAY = 2


@dataclass(frozen=True)
class MarketCalendar:
    """The trading days from ``first`` to ``last``; ``late_opens`` has the HH:MM of days that begin later (Ash Wednesday)."""

    first: date
    last: date
    days: frozenset[date]
    late_opens: Mapping[date, str] = field(default_factory=dict)

    def is_open(self, day: date) -> bool:
        """True on a trading day; ValueError for a day that this calendar does not reach."""
        if not self.first <= day <= self.last:
            raise ValueError(f"{day} is outside the calendar, which runs from {self.first} to {self.last}")
        return day in self.days

    def between(self, first: date, last: date) -> tuple[date, ...]:
        """The trading days from ``first`` to ``last``, both counted, in order."""
        return tuple(sorted(day for day in self.days if first <= day <= last))

    def roll_days(self) -> tuple[date, ...]:
        """The expiries within this calendar: the Wednesday nearest the 15th of even months, or the next trading day after it."""
        months = [(year, month) for year in range(self.first.year, self.last.year + 1) for month in range(2, 13, 2)]
        rolls = (self._next_open(expiry(year, month)) for year, month in months)
        return tuple(day for day in rolls if day is not None and day >= self.first)

    def _next_open(self, day: date) -> date | None:
        return min((each for each in self.days if each >= day), default=None) if day >= self.first else None


def expiry(year: int, month: int) -> date:
    """The Wednesday nearest the 15th of a month: the 12th at the earliest, the 18th at the latest."""
    twelfth = date(year, month, 12)
    return twelfth + timedelta(days=(WEDNESDAY - twelfth.weekday()) % 7)


@lru_cache(maxsize=16)
def market_calendar(first: date, last: date) -> MarketCalendar:
    """B3's trading days from ``first`` to ``last``, as the library of exchange calendars knows them."""
    days, late = _book(first.year, last.year)
    inside = frozenset(day for day in days if first <= day <= last)
    return MarketCalendar(first, last, inside, {day: at for day, at in late.items() if day in inside})


@lru_cache(maxsize=16)
def _book(first_year: int, last_year: int) -> tuple[frozenset[date], dict[date, str]]:
    """Trading days and late opens of whole years."""
    import exchange_calendars  # it takes a second: only who asks for days pays for it

    with warnings.catch_warnings():  # of pandas, about the library's own code
        warnings.filterwarnings("ignore", message="Series.values")
        book = exchange_calendars.get_calendar(EXCHANGE, start=f"{first_year}-01-01", end=f"{last_year}-12-31")
    late = {day.date(): book.session_open(day).tz_convert(EXCHANGE_TZ).strftime("%H:%M") for day in book.late_opens}
    return frozenset(day.date() for day in book.sessions), late
