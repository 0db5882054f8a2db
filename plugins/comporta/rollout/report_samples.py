"""Samples that a rollout report draws: health three-valued, latency of the catalogue's own queries. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeVar


class Dated(Protocol):
    """Whatever was taken at a moment."""

    @property
    def at(self) -> datetime: ...


T = TypeVar("T", bound=Dated)

NO_DATA = "no data"
_GAP = 3.0
"""A silence of so many usual intervals between two samples is no sampling, and is shown as such."""


@dataclass(frozen=True)
class HealthSample:
    """What one breaker saw at one moment; ``value`` and ``limit`` are in the breaker's own unit, None where it has none."""

    at: datetime
    breaker: str
    verdict: Literal["ok", "bad", "no data"]
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class CanarySample:
    """One run of one of the catalogue's own queries: milliseconds until the answer, None when it failed or did not answer."""

    at: datetime
    canary: str
    ms: float | None
    error: str = ""


@dataclass(frozen=True)
class Stretch:
    """Samples of one breaker in a row with one verdict; ``not sampled`` is the silence between two of them."""

    breaker: str
    verdict: Literal["ok", "bad", "no data", "not sampled"]
    started: datetime
    ended: datetime
    samples: int


def stretches(samples: Iterable[HealthSample]) -> list[Stretch]:
    """Samples of all breakers as stretches, each from its first sample to the first of the next one."""
    return [
        each
        for breaker, its in by_name(samples, lambda sample: sample.breaker).items()
        for each in _of_one(breaker, its)
    ]


def _of_one(breaker: str, samples: Sequence[HealthSample]) -> list[Stretch]:
    usual = usual_interval([sample.at for sample in samples])
    found: list[Stretch] = []
    first = 0
    for number, sample in enumerate(samples):
        following = samples[number + 1] if number + 1 < len(samples) else None
        silent = following is not None and following.at - sample.at > _GAP * usual
        if following is not None and not silent and following.verdict == sample.verdict:
            continue
        ended = sample.at + usual if following is None or silent else following.at
        found.append(Stretch(breaker, sample.verdict, samples[first].at, ended, number + 1 - first))
        if silent and following is not None:
            found.append(Stretch(breaker, "not sampled", ended, following.at, 0))
        first = number + 1
    return found


def usual_interval(moments: Sequence[datetime]) -> timedelta:
    """The median time between two samples in a row; one second where there is but one."""
    steps = sorted(later - earlier for earlier, later in pairwise(moments))
    return steps[len(steps) // 2] if steps else timedelta(seconds=1)


def by_name(samples: Iterable[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    """Samples by the name that a function gives them, names in the order of the alphabet, each in order of time."""
    found: dict[str, list[T]] = {}
    for sample in samples:
        found.setdefault(name(sample), []).append(sample)
    return {key: sorted(found[key], key=lambda each: each.at) for key in sorted(found)}


def nearest_rank(values: Sequence[float], share: float) -> float | None:
    """The value at or below which that share of all lies (nearest rank); None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latency(samples: Iterable[CanarySample], start: datetime, end: datetime) -> dict[str, Any]:
    """p50 and p95 in milliseconds of what was answered from ``start`` until before ``end``, its n, and how many failed."""
    within = [sample for sample in samples if start <= sample.at < end]
    answered = [sample.ms for sample in within if sample.ms is not None]
    return {
        "n": len(answered),
        "p50_ms": nearest_rank(answered, 0.5),
        "p95_ms": nearest_rank(answered, 0.95),
        "errors": len(within) - len(answered),
    }


def thinned(points: Sequence[T], most: int, weight: Callable[[T], float]) -> list[T]:
    """At most ``most`` points in the same order: of each run of neighbours the heaviest stays, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    return [max(points[start : start + size], key=weight) for start in range(0, len(points), size)]
