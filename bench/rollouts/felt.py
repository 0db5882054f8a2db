"""What live traffic felt in the windows of a phase. Stall: what an operation took beyond the median of its kind outside of all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comporta.demo.operations import SLOW_KINDS
from comporta.demo.record import Operation, TrafficRecord


@dataclass
class Windows:
    """Begin and end of each piece of work in epoch seconds, by phase."""

    of: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, phase: str, begin: float, end: float) -> None:
        """One more window of a phase."""
        self.of.setdefault(phase, []).append((begin, end))

    def seconds(self, phase: str) -> float:
        """How long a phase took, without what lay between its windows."""
        return sum(end - begin for begin, end in self.of.get(phase, ()))


def felt(record: TrafficRecord, windows: Windows) -> dict[str, dict[str, Any]]:
    """By phase: operations, failed, the longest stall of reads and writes in ms, and the longest search, which is told apart."""
    everything = [window for each in windows.of.values() for window in each]
    usual = _usual(record.operations, everything)
    return {phase: _phase(_within(record.operations, each), usual) for phase, each in windows.of.items()}


def _phase(under_way: Sequence[Operation], usual: dict[str, float]) -> dict[str, Any]:
    judged = [each for each in under_way if each.kind not in SLOW_KINDS]
    return {
        "operations": len(under_way),
        "failed": sum(each.error is not None for each in under_way),
        "longest_read_stall_ms": _longest((each for each in judged if not each.is_write), usual),
        "longest_write_stall_ms": _longest((each for each in judged if each.is_write), usual),
        "longest_search_ms": _ms(max((each.seconds for each in under_way if each.kind in SLOW_KINDS), default=None)),
    }


def _longest(operations: Iterable[Operation], usual: dict[str, float]) -> float | None:
    return _ms(max((max(0.0, each.seconds - usual.get(each.kind, 0.0)) for each in operations), default=None))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def _usual(operations: Sequence[Operation], windows: Sequence[tuple[float, float]]) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    inside = set(map(id, _within(operations, windows)))
    for each in operations:
        if id(each) not in inside:
            kinds.setdefault(each.kind, []).append(each.seconds)
    return {kind: statistics.median(seconds) for kind, seconds in kinds.items()}


def _within(operations: Sequence[Operation], windows: Sequence[tuple[float, float]]) -> list[Operation]:
    return [each for each in operations if any(each.ended >= begin and each.at <= end for begin, end in windows)]
