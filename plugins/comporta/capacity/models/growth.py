"""Rows by month (API published first; bodies follow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from comporta.capacity.model import History
from comporta.capacity.models.draws import Draws

Verdict = Literal["growing", "flat", "retrograde", "not_enough_data"]


@dataclass(frozen=True)
class Growth:
    """How the rows of a table (or of one partition of it) get more. ``months`` are finished ones, ``added`` the rows made in each.

    ``rows_now`` are those at ``until``. With the verdict ``not_enough_data`` there is no forecast: ``rows`` is nan after ``until``.
    """

    table: str
    partition: str | None
    verdict: Verdict
    why: str
    form: str
    months: tuple[date, ...]
    added: tuple[int, ...]
    rows_now: int
    until: date

    def rows(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        """Rows on a day (shape ``()``) or on several (shape ``(n,)``); what comes after ``until`` is ``times`` as much as fitted."""
        raise NotImplementedError

    def per_month(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        """Rows that are added a month, around a day: the expected rate, without the month's own luck."""
        raise NotImplementedError


def fit_growth(history: History, partition: str | None = None) -> Growth:
    """The growth of a table, or of one partition of it."""
    raise NotImplementedError
