"""Models of what was measured, each tested on what it has not seen: ``fit`` is what the forecast works from."""

from __future__ import annotations

from dataclasses import dataclass

from comporta.capacity.model import FitReport, Measured
from comporta.capacity.models.draws import COUNT, Array, Draws, Value, as_draws, seeded
from comporta.capacity.models.growth import Growth
from comporta.capacity.models.performance import Performance
from comporta.capacity.models.scaling import Scaling
from comporta.release.capacity import CapacityPlan

__all__ = [
    "COUNT",
    "Array",
    "Draws",
    "Fitted",
    "Growth",
    "Performance",
    "Scaling",
    "Value",
    "as_draws",
    "fit",
    "seeded",
]


@dataclass(frozen=True)
class Fitted:
    """All models of a run. What was not measured is not in the dictionaries: use ``get``.

    ``rows`` below are those of ``StateFacts.rows`` (all history tables together), as at the state and size that was measured.
    """

    performance: dict[str, Performance]
    """By state; a state without rungs is missing."""
    growth: dict[str, Growth]
    """By table."""
    partition_growth: dict[tuple[str, str], Growth]
    """By table and partition (or year of valid time, while the table is in one piece)."""
    relation_bytes: dict[tuple[str, str], Scaling]
    """By state and relation (``RelationSize.name``): bytes against rows."""
    database_bytes: dict[str, Scaling]
    """By state: bytes of the database against rows."""
    refresh_s: dict[tuple[str, str], Scaling]
    """By state and view: seconds of a refresh against rows."""
    planning_ms: dict[str, Scaling]
    """By state: ms of planning the worst query against partitions."""
    memory_bytes: dict[str, Scaling]
    """By state: shared buffers and all connections together, against connections."""
    wal_bytes: dict[str, Scaling]
    """By state: bytes of WAL for one transaction of the mix, against size."""
    apply_s: dict[str, Scaling]
    """By change: seconds to apply it against rows."""
    reports: tuple[FitReport, ...]


def fit(measured: Measured, plan: CapacityPlan) -> Fitted:
    """Fit every model, test it on what it has not seen, and put the naive rule in the place of a model that is worse."""
    raise NotImplementedError
