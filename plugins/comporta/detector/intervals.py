"""How far a measured rate may lie from the true one: Wilson's interval, and one that draws whole sessions.

Events of one session resemble each other, which Wilson's interval does not know; drawing sessions does, but says [1, 1] of a
perfect score. So both are shown, and a result is called confident when both agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

Interval = tuple[float, float]


def wilson(hits: int, n: int, *, confidence: float) -> Interval | None:
    """Wilson's interval of hits / n; None of nothing."""
    if n == 0:
        return None
    found = binomtest(hits, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(found.low), float(found.high)


def by_session(totals: ArrayLike, *, confidence: float, draws: int, seed: int) -> Interval | None:
    """The percentile interval of sum / count over draws of whole sessions; ``totals`` holds one (sum, count) a session.

    A session that counts nothing is drawn too: how many events a period holds is a part of the chance. The mean is a ratio of
    two sums that vary together and may be 0 / 0 in a draw, which ``scipy.stats.bootstrap`` does not take; such a draw says
    nothing. None when there is nothing at all.
    """
    table = np.asarray(totals, dtype=np.float64).reshape(-1, 2)
    if not len(table):
        return None
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
    drawn = weights @ table
    known = drawn[drawn[:, 1] > 0]
    if not len(known):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known[:, 0] / known[:, 1], [tail, 1 - tail])
    return float(low), float(high)
