"""Samples that a rollout report draws: health, three-valued, and the latency of the catalogue's own queries."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import TypeAdapter

from comporta.health.canaries import percentile


class Dated(Protocol):
    """Whatever was taken at a moment."""

    @property
    def at(self) -> datetime: ...


T = TypeVar("T", bound=Dated)

_GAP = 3.0
"""A silence of so many usual intervals between two samples is no sampling, and is shown as such."""


class Sampled(Protocol):
    """What the report needs of a sample; ``comporta.health.StoredSample`` has it."""

    @property
    def at(self) -> datetime: ...
    @property
    def breaker(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def bound(self) -> float | None: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class HealthSample:
    """What one breaker saw at one moment; ``value`` and ``limit`` are in the breaker's own unit, None where it has none.

    ``detail`` of the canaries' breakers has ``ms`` and ``failed`` by query.
    """

    at: datetime
    breaker: str
    verdict: Literal["ok", "bad", "no data"]
    value: float | None = None
    limit: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CanarySample:
    """One run of one of the catalogue's own queries: milliseconds until the answer, None when it failed."""

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


def seen(samples: Iterable[Sampled]) -> list[HealthSample]:
    """Samples as the report takes them, oldest first. A verdict that is unknown is no data."""
    verdicts: dict[str, Literal["ok", "bad", "no data"]] = {"ok": "ok", "bad": "bad"}
    found = [
        HealthSample(
            each.at.astimezone(UTC),
            each.breaker,
            verdicts.get(each.verdict, "no data"),
            each.value,
            each.bound,
            {key: dict(each.detail[key]) for key in ("ms", "failed") if isinstance(each.detail.get(key), Mapping)},
        )
        for each in samples
    ]
    return sorted(found, key=lambda each: (each.at, each.breaker))


def keep(file: Path, samples: Iterable[HealthSample]) -> list[HealthSample]:
    """Samples together with those that an earlier report of the same run kept in ``file``, which then has them all.

    The database forgets them after a day; the report of a run that somebody clears a month later must not.
    """
    former = _ROWS.validate_json(file.read_bytes()) if file.exists() else []
    together = {(each.at, each.breaker): each for each in (*former, *samples)}
    found = [together[key] for key in sorted(together)]
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_bytes(_ROWS.dump_json(found))
    part.replace(file)
    return found


_ROWS = TypeAdapter(list[HealthSample])


def canaries(health: Iterable[HealthSample]) -> list[CanarySample]:
    """The runs of the catalogue's own queries that the samples tell of. One that failed has no time, also where it timed out."""
    runs: dict[tuple[datetime, str], CanarySample] = {}
    for sample in health:
        for name, ms in sample.detail.get("ms", {}).items():
            runs.setdefault((sample.at, name), CanarySample(sample.at, name, ms))
        for name, error in sample.detail.get("failed", {}).items():
            runs[sample.at, name] = CanarySample(sample.at, name, None, str(error))
    return [runs[key] for key in sorted(runs)]


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


def latency(samples: Iterable[CanarySample], start: datetime, end: datetime) -> dict[str, Any]:
    """p50 and p95 in milliseconds of what was answered from ``start`` until before ``end``, its n, and how many failed."""
    within = [sample for sample in samples if start <= sample.at < end]
    answered = [sample.ms for sample in within if sample.ms is not None]
    return {
        "n": len(answered),
        "p50_ms": percentile(answered, 0.5),
        "p95_ms": percentile(answered, 0.95),
        "errors": len(within) - len(answered),
    }


def thinned(points: Sequence[T], most: int, weight: Callable[[T], float]) -> list[T]:
    """At most ``most`` points in the same order: of each run of neighbours the heaviest stays, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    return [max(points[start : start + size], key=weight) for start in range(0, len(points), size)]
