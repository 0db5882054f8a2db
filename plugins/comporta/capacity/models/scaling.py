"""One quantity against another (API published first; bodies follow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comporta.capacity.models.draws import Draws, Value


@dataclass(frozen=True)
class Scaling:
    """``y`` against ``x``: affine or power law. ``x_low`` and ``x_high`` are the smallest and the largest that were measured."""

    subject: str
    unit: str
    form: str
    points: int
    x_low: float
    x_high: float

    def at(self, x: Value) -> Draws:
        """The expected ``y``; never negative."""
        raise NotImplementedError


def fit_scaling(
    subject: str, unit: str, x: Sequence[float], y: Sequence[float], *, noise: float = 0.1
) -> Scaling | None:
    """The fit; None without a point. ``noise`` is the relative spread to expect where the points are too few to show it."""
    raise NotImplementedError
