"""How the mean time of the mix grows with the rows, told from each kind of transaction.

What reads every row takes a fixed time and one in proportion to the rows; what looks one up hardly notices them, until they no
longer fit into memory. A mix of both grows by neither law, and two or three sizes do not show by which. But each kind is timed by
itself, and there it shows: so the kinds grow by laws of their own, and the mix as their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from comporta.capacity.model import RungResult
from comporta.capacity.models.draws import Array

_SCAN: Final = 0.5  # a kind that grows faster than this power of the rows reads in proportion to them
_STEEPEST: Final = 1.5


@dataclass(frozen=True)
class Kinds:
    """Of each kind, an array entry: ``share`` of the mix's mean time at the smallest size, how it grows, and by which law.

    ``growth`` is the part of its time that is in proportion to the rows (of a scan), else the power of the rows.
    """

    smallest: float
    share: Array
    growth: Array
    scans: NDArray[np.bool_]

    def slowness(self, size: Array) -> Array:
        """Log of the mix's mean time at sizes, over that at size 1."""
        return np.asarray(self._log_mean(np.asarray(size, float)) - self._log_mean(np.ones(1))[0])

    def _log_mean(self, size: Array) -> Array:
        times = size[..., None] / self.smallest
        grown = np.where(self.scans, np.maximum(1 + self.growth * (times - 1), 1e-3), times**self.growth)
        return np.asarray(np.log(grown @ self.share))


def kinds_of(rungs: Sequence[RungResult]) -> Kinds | None:
    """From the times of each kind on the rungs; None when they were not timed, or at one size only.

    A kind's times are taken as a factor of the clients times one of the size. Those that a size did not draw count as not growing.
    """
    sizes = sorted({rung.size for rung in rungs})
    if len(sizes) < 2 or not all(rung.by_transaction for rung in rungs):
        return None
    names = sorted({name for rung in rungs for name in rung.by_transaction})
    calls = {name: sum(rung.calls.get(name, 0) for rung in rungs) for name in names}
    grown = {name: _factors([rung for rung in rungs if name in rung.by_transaction], name, sizes) for name in names}
    times = np.array(sizes) / sizes[0]
    laws = [_law(times, factors) for factors in grown.values()]
    smallest = [rung for rung in rungs if rung.size == sizes[0]]
    spent = np.array(
        [
            calls[name]
            * np.mean([rung.by_transaction[name].mean_ms for rung in smallest if name in rung.by_transaction] or [0.0])
            for name in names
        ]
    )
    if spent.sum() <= 0:
        return None
    return Kinds(sizes[0], spent / spent.sum(), np.array([law[0] for law in laws]), np.array([law[1] for law in laws]))


def _factors(rungs: Sequence[RungResult], name: str, sizes: Sequence[float]) -> Array:
    """How many times as long the kind takes at each size as at the first, by least squares of logs weighted by its calls."""
    y = np.log([max(rung.by_transaction[name].mean_ms, 1e-3) for rung in rungs])
    clients = sorted({rung.clients for rung in rungs})
    design = np.zeros((len(rungs), len(clients) + len(sizes) - 1))
    for row, rung in enumerate(rungs):
        design[row, clients.index(rung.clients)] = 1
        if rung.size != sizes[0]:
            design[row, len(clients) + sizes.index(rung.size) - 1] = 1
    weight = np.sqrt([max(1, rung.calls.get(name, 1)) for rung in rungs])
    found = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
    return np.asarray(np.exp(np.concatenate([[0.0], found[len(clients) :]])))


def _law(times: Array, factors: Array) -> tuple[float, bool]:
    """The growth, and whether it is that of a scan: where the sizes do not tell, what grows fast is one."""
    logs, beyond = np.log(times), times - 1
    power = float(np.clip(logs @ np.log(factors) / (logs @ logs), -_STEEPEST, _STEEPEST))
    part = float(np.clip(beyond @ (factors - 1) / (beyond @ beyond), 0.0, 1.0))
    scans = _SCAN <= power <= 1
    if len(times) > 2 and scans:
        line, curve = np.log1p(part * beyond), power * logs
        scans = float(((line - np.log(factors)) ** 2).sum()) <= float(((curve - np.log(factors)) ** 2).sum())
    return (part, True) if scans else (power, False)
