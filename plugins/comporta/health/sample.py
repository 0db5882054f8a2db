"""A sample: what one look found of one signal, held against its limit. Three-valued: what could not be seen is never good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from comporta.release.health import Limit

Verdict = Literal["ok", "bad", "no data"]

NO_BASELINE = "its limit is relative to a baseline, and none was taken of this target (comporta health baseline)"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One signal at one look. ``bound`` is the limit in force; ``runs`` and ``slow`` are canary runs, where there are any."""

    breaker: str
    verdict: Verdict
    why: str
    value: float | None = None
    bound: float | None = None
    runs: int = 0
    slow: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)
    probe: bool = False

    def as_json(self) -> dict[str, Any]:
        """As the database takes it."""
        return asdict(self) | {"verdict": self.verdict.replace(" ", "_"), "detail": dict(self.detail)}


def no_data(breaker: str, why: str, **more: Any) -> Sample:
    """A sample of what could not be seen."""
    return Sample(breaker=breaker, verdict="no data", why=why, **more)


def judged(breaker: str, limit: Limit, value: float | None, baseline: float | None, what: str, **more: Any) -> Sample:
    """``value`` held against its limit; ``what`` says what was counted."""
    if value is None or not math.isfinite(value):
        return no_data(breaker, f"{what}: unknown", **more)
    bound = limit.bound(baseline)
    if bound is None:
        # Above an absolute limit it is bad whatever the baseline would have been; below, nobody knows.
        if limit.at_most is not None and value > limit.at_most:
            return _bad(breaker, value, limit.at_most, what, **more)
        return no_data(breaker, NO_BASELINE, value=value, **more)
    if value > bound:
        return _bad(breaker, value, bound, what, **more)
    return Sample(
        breaker=breaker, verdict="ok", why=f"{what}: {value:.4g}, at most {bound:.4g}", value=value, bound=bound, **more
    )


def _bad(breaker: str, value: float, bound: float, what: str, **more: Any) -> Sample:
    return Sample(
        breaker=breaker,
        verdict="bad",
        why=f"{what}: {value:.4g}, at most {bound:.4g}",
        value=value,
        bound=bound,
        **more,
    )
