"""Numbers that are not known exactly: a central value beside 400 equally likely ones.

Draw ``i`` of everything that one model says belongs together, so that a question that combines several models is asked of each
draw in turn. The draws depend on nothing but the data that they come from: the same measurements give the same forecast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COUNT: Final = 400


@dataclass(frozen=True)
class Draws:
    """``value`` of any shape (``()`` for one number), ``draws`` of shape ``(400, *value.shape)``.

    nan stands for "there is none" (a rate that cannot be reached) and ranks above every number: a band ends in nan where the
    draws at that rank have none.
    """

    value: Array
    draws: Array

    @classmethod
    def of(cls, draws: Array) -> Self:
        """From draws alone: the value is their median."""
        return cls(_quantile(draws, 0.5), draws)

    @classmethod
    def exactly(cls, value: float | Sequence[float] | Array) -> Self:
        """A number that is known: every draw is the value."""
        known = np.asarray(value, dtype=float)
        return cls(known, np.broadcast_to(known, (COUNT, *known.shape)))

    def band(self, level: float = 0.8) -> tuple[Array, Array]:
        """Low and high ends of the interval that holds so large a share of the draws, as many below it as above it."""
        return _quantile(self.draws, (1 - level) / 2), _quantile(self.draws, (1 + level) / 2)

    def then(self, function: Callable[[Array], Array]) -> Draws:
        """The draws of a function of this number; it must work element by element."""
        return Draws(function(self.value), function(self.draws))

    def _with(self, other: Value, function: Callable[[Array, Array], Array]) -> Draws:
        second = as_draws(other)
        return Draws(function(self.value, second.value), function(*align(self.draws, second.draws)))

    def __getitem__(self, index: Any) -> Draws:
        """A part of the value, with its draws."""
        keys = index if isinstance(index, tuple) else (index,)
        return Draws(np.asarray(self.value[keys]), self.draws[(slice(None), *keys)])

    def __add__(self, other: Value) -> Draws:
        return self._with(other, np.add)

    def __sub__(self, other: Value) -> Draws:
        return self._with(other, np.subtract)

    def __mul__(self, other: Value) -> Draws:
        return self._with(other, np.multiply)

    def __truediv__(self, other: Value) -> Draws:
        return self._with(other, np.divide)

    __radd__ = __add__
    __rmul__ = __mul__


Value = float | Sequence[float] | Array | Draws


def as_draws(value: Value) -> Draws:
    """The value itself, or a known number as draws that are all alike."""
    return value if isinstance(value, Draws) else Draws.exactly(value)


def align(*draws: Array) -> tuple[Array, ...]:
    """Draws of different shapes so that they broadcast: the first axis stays that of the draws."""
    deepest = max(each.ndim for each in draws)
    return tuple(each.reshape(each.shape[0], *(1,) * (deepest - each.ndim), *each.shape[1:]) for each in draws)


def seeded(*content: object) -> np.random.Generator:
    """A generator that depends on the content alone."""
    digest = hashlib.sha256(repr(content).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _quantile(draws: Array, share: float) -> Array:
    ranked = np.sort(draws, axis=0)  # nan comes last
    return np.asarray(ranked[min(len(ranked) - 1, max(0, round(share * (len(ranked) - 1))))])
