"""When a mail is tried again, and when no more: pure functions of its tries and its age."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Patience:
    """How long a mail is tried.

    The pause doubles from ``first_s`` to ``longest_s``. A mail that its server puts off has failed after ``tries`` tries
    and ``hours``, whichever is later: a readiness request that nobody gets is of no use after its two hours, and somebody
    else should know. While the whole server is away, telling somebody else would not arrive either: then it takes ``away_hours``.
    """

    first_s: float = 30.0
    longest_s: float = 900.0
    tries: int = 8
    hours: float = 1.0
    away_hours: float = 48.0

    def ended(self, tries: int, age: timedelta, *, away: bool) -> bool:
        """True when a mail that was tried so often, and is so old, is not tried again."""
        return tries >= self.tries and age >= timedelta(hours=self.away_hours if away else self.hours)


def pause(tries: int, key: str, patience: Patience = Patience()) -> timedelta:
    """The pause after try number ``tries`` (from 1): doubling, and between half and all of that by ``key``.

    The jitter is a function of key and number, so the same mail always waits alike, and mails that failed together part.
    """
    longest = min(patience.longest_s, patience.first_s * 2.0 ** min(tries - 1, 60))
    draw = int.from_bytes(hashlib.sha256(f"{key}/{tries}".encode()).digest()[:4], "big") / 2**32
    return timedelta(seconds=longest * (0.5 + 0.5 * draw))
