"""The baseline: what was normal before anything was changed. Limits that are relative are relative to the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from comporta.health.canaries import Run, percentile


@dataclass(frozen=True)
class CanaryBaseline:
    """One canary: how often it ran, how long it took in milliseconds, and how often it failed. None when no run was answered."""

    n: int
    p50_ms: float | None
    p95_ms: float | None
    errors: int

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Self:
        """From its runs."""
        answered = [run.ms for run in runs if run.error is None]
        return cls(
            n=len(runs),
            p50_ms=_rounded(percentile(answered, 0.5)),
            p95_ms=_rounded(percentile(answered, 0.95)),
            errors=sum(run.error is not None for run in runs),
        )


@dataclass(frozen=True)
class Baseline:
    """What was normal of a target: canaries and values of signals by name (None: no data). ``event`` is its id in the ledger."""

    target: str
    canaries: Mapping[str, CanaryBaseline] = field(default_factory=dict)
    signals: Mapping[str, float | None] = field(default_factory=dict)
    event: int | None = None

    @classmethod
    def parse(cls, payload: Mapping[str, Any], event: int) -> Self:
        """From the ledger."""
        canaries = {
            str(name): CanaryBaseline(each["n"], each["p50_ms"], each["p95_ms"], each["errors"])
            for name, each in (payload.get("canaries") or {}).items()
        }
        return cls(str(payload["target"]), canaries, dict(payload.get("signals") or {}), event)

    def p95_ms(self, canary: str) -> float | None:
        """The p95 of a canary then; None when it was not run, or never answered."""
        found = self.canaries.get(canary)
        return found.p95_ms if found else None

    def as_json(self) -> dict[str, Any]:
        """As the ledger has it."""
        return {
            "canaries": {name: asdict(each) for name, each in self.canaries.items()},
            "signals": dict(self.signals),
            "target": self.target,
        }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)
