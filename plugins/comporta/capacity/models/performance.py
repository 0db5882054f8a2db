"""Throughput and latency against clients and size (API published first; bodies follow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from comporta.capacity.model import RungResult
from comporta.capacity.models.draws import Draws, Value

Percentile = Literal["p50", "p95", "p99"]


@dataclass(frozen=True)
class Performance:
    """How one state serves its load: ``sizes`` and ``clients`` are those that were measured, ascending.

    Every argument may be a number, an array or ``Draws``; arguments broadcast against each other, and the answer has their
    shape. With ``Draws`` as an argument, draw ``i`` of the model meets draw ``i`` of the argument.
    """

    state: str
    sizes: tuple[float, ...]
    clients: tuple[int, ...]

    def throughput(self, clients: Value, size: Value) -> Draws:
        """Transactions a second."""
        raise NotImplementedError

    def latency(self, percentile: Percentile, clients: Value, size: Value) -> Draws:
        """Milliseconds."""
        raise NotImplementedError

    def peak(self, size: Value) -> tuple[Draws, Draws]:
        """Clients at the peak (at most 1,000: where throughput never falls), and the throughput there."""
        raise NotImplementedError

    def clients_at(self, rate: Value, size: Value) -> Draws:
        """The fewest clients (not a whole number; at least 1) whose throughput reaches ``rate``; nan where none do."""
        raise NotImplementedError

    def clients_within(self, percentile: Percentile, limit_ms: float, size: Value) -> Draws:
        """The most clients (not a whole number) whose latency stays within the limit; 0 where one client is too slow."""
        raise NotImplementedError


def fit_performance(state: str, rungs: Sequence[RungResult]) -> Performance | None:
    """The fit of one state's rungs; None when there are fewer than three different numbers of clients."""
    raise NotImplementedError
