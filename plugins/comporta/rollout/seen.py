"""What the breakers saw, as the report draws it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

from comporta.health import StoredSample
from comporta.rollout.report_samples import CanarySample, HealthSample


def health_sample(seen: StoredSample) -> HealthSample:
    """One look of one breaker."""
    verdict = cast(Literal["ok", "bad", "no data"], seen.verdict)
    return HealthSample(seen.at, seen.breaker, verdict, seen.value, seen.bound)


def canary_samples(seen: StoredSample) -> Iterator[CanarySample]:
    """Each run of the catalogue's own queries that a look is made of; none where the breaker does not time them."""
    for name, ms in (seen.detail.get("ms") or {}).items():
        yield CanarySample(seen.at, name, float(ms))
