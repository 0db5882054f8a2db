"""The Universal Scalability Law, with a size law for its first factor, and the exact posterior of its parameters.

    X(N, S) = lam(S) * N / (D(N) + kappa * N * (N - 1)),    D(N) = 1 + sigma * (N - 1)

is Gunther's law (N. J. Gunther, *Guerrilla Capacity Planning*, Springer 2007): ``sigma`` is contention, ``kappa`` coherency.
Processors that are all busy make a sharper knee than queueing for one resource does, so two sharper forms compete with it:
``D(N)`` proportional to ``((1 - sigma)^p + (sigma N)^p)^(1/p)``, ``D(1) = 1``, is the law itself at p = 1.

``lam(S)``, what one client gets, falls with the rows as a power law, ``lam1 * S^-alpha``, or as the sum of a part that does not
depend on them and one that is proportional, ``lam1 / (1 - u + u S)``, or as the kinds of transactions do together (``kinds``), to a
power near 1. Every form is weighed by its evidence, so that the draws carry the doubt between forms as well as that within one.

Noise is multiplicative: all is fitted in logs. Given sigma, kappa and the size law, log lam1 is a mean; so the posterior is
computed on a grid of three parameters, without a step that could fail to converge, and correct at the bound 0, where a covariance
is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from comporta.capacity.model import Parameter
from comporta.capacity.models.draws import COUNT, Array, seeded
from comporta.capacity.models.kinds import Kinds
from comporta.capacity.models.robust import huber_weights, shortest, soft_l1

Law = Literal["power", "affine", "kinds"]

_KNEES: Final = {1.0: 0.6, 2.0: 0.2, 4.0: 0.2}  # p, and how much it is believed before anything was measured
_LAWS: Final[tuple[Law, ...]] = ("power", "affine", "kinds")
# Likewise: plans that scan do so in proportion to the rows; where the kinds were timed, they know better.
_BELIEF: Final[dict[Law, float]] = {"power": 0.3, "affine": 0.7}
_BELIEF_BY_KIND: Final[dict[Law, float]] = {"power": 0.15, "affine": 0.15, "kinds": 0.7}
_RANGE: Final[dict[Law, tuple[float, float]]] = {"power": (-0.3, 1.5), "affine": (0.0, 1.0), "kinds": (0.4, 1.6)}
# Where a bell of so much deviation is believed in; of ``u``, every value alike.
_BELL: Final[dict[Law, tuple[float, float]]] = {"power": (0.4, 0.5), "kinds": (1.0, 0.1)}
_SIZE_FORMS: Final[dict[Law, str]] = {
    "power": "power of the size",
    "affine": "one over a line in the size",
    "kinds": "each kind of transaction by its own growth with the size",
}
_SIZE_PARAMETER: Final[dict[Law, str]] = {"power": "alpha", "affine": "u", "kinds": "power of the kinds' growth"}
_SPREAD: Final = 0.05  # noise that counts as one observation
_KAPPA_MAX: Final = 0.5
_KAPPA_USUAL: Final = 0.001  # half of a Cauchy's prior weight lies below: a retrograde ladder must show itself
_REPORT_DRAWS: Final = 2000
_HOPELESS: Final = 9.0  # a form so far behind (in logs) on the coarse grid is not looked at again


@dataclass(frozen=True)
class Form:
    """One competing form: the knee's sharpness and the size law."""

    knee: float
    law: Law

    def __str__(self) -> str:
        knee = "" if self.knee == 1 else f", knee of power {self.knee:g}"
        return f"Universal Scalability Law{knee}; {_SIZE_FORMS[self.law]}"


def contention(clients: Array, sigma: Array, knee: Array) -> Array:
    """D(N) of the module's docstring."""
    first = ((1 - sigma) ** knee + sigma**knee) ** (1 / knee)
    return np.asarray(((1 - sigma) ** knee + (sigma * clients) ** knee) ** (1 / knee) / first)


def slowness(size: Array, exponent: Array, law: Law, kinds: Kinds | None) -> Array:
    """log(lam1 / lam(S)), by one of the laws."""
    if law == "affine":
        return np.log(np.maximum(1 - exponent + exponent * size, 1e-9))
    return np.asarray(exponent * (np.log(size) if kinds is None or law == "power" else kinds.slowness(size)))


@dataclass(frozen=True)
class Usl:
    """Draws of the parameters, each ``(400,)``; draws of several forms stand beside each other, as many as its evidence earns."""

    log_lam: Array
    sigma: Array
    kappa: Array
    exponent: Array
    knee: Array
    law: NDArray[np.intp]
    """Which of ``_LAWS`` each draw follows."""
    kinds: Kinds | None = field(compare=False)
    form: str = field(compare=False)
    parameters: tuple[Parameter, ...] = field(compare=False)
    spread: float = field(compare=False)
    """Relative noise around the curve, form and rounds together."""

    def at(self, clients: Array, size: Array) -> Array:
        """Throughput, for arrays with the draws on the first axis (length 400 or 1) that broadcast against each other."""
        shape = (COUNT, *(1,) * (max(clients.ndim, size.ndim) - 1))
        sigma, kappa, knee = (each.reshape(shape) for each in (self.sigma, self.kappa, self.knee))
        speed_up = clients / (contention(clients, sigma, knee) + kappa * clients * (clients - 1))
        which, exponent = self.law.reshape(shape), self.exponent.reshape(shape)
        slow = np.select(
            [which == number for number in range(len(_LAWS))],
            [slowness(size, exponent, law, self.kinds) for law in _LAWS],
        )
        return np.asarray(np.exp(self.log_lam.reshape(shape) - slow) * speed_up)


@dataclass(frozen=True)
class _Cells:
    """The mean of log(X / N) of every measured pair of clients and size, as ``(clients, sizes)`` tables; weight 0: not measured."""

    clients: Array
    sizes: Array
    mean: Array
    weight: Array
    within: float
    points: int
    kinds: Kinds | None
    key: str


def _cells(clients: Array, size: Array, throughput: Array, kinds: Kinds | None) -> _Cells:
    y = np.log(throughput / clients)
    names, row = np.unique(clients, return_inverse=True)
    sizes, column = np.unique(size, return_inverse=True)
    design = np.hstack([np.eye(len(names))[row], np.eye(len(sizes))[column][:, 1:]])
    weights = huber_weights(y - design @ soft_l1(design, y), design.shape[1])
    weight, total, squares = (np.zeros((len(names), len(sizes))) for _ in range(3))
    np.add.at(weight, (row, column), weights)
    np.add.at(total, (row, column), weights * y)
    np.add.at(squares, (row, column), weights * y**2)
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    within = float((squares - weight * mean**2).sum())
    key = repr([clients.tolist(), size.tolist(), throughput.tolist()])
    return _Cells(names, sizes, mean, weight, max(0.0, within), len(y), kinds, key)


@dataclass(frozen=True)
class _Posterior:
    """The grid of one form: log weights, the axes, and what the noise and log lam1 are at each point."""

    form: Form
    axes: tuple[Array, Array, Array]
    log_weight: Array
    squares: Array
    center: Array
    evidence: float

    def draw(self, count: int, points: int, weight: float, random: np.random.Generator) -> tuple[Array, ...]:
        """log lam1, sigma, kappa, exponent."""
        mass = np.exp(self.log_weight - self.log_weight.max()).ravel()
        ladder = (np.arange(count) + random.random()) / count
        picked = random.permutation(np.minimum(np.searchsorted(np.cumsum(mass) / mass.sum(), ladder), mass.size - 1))
        where = np.unravel_index(picked, self.log_weight.shape)
        values = []
        for axis, index in zip(self.axes, where, strict=True):
            edges = _edges(axis)
            values.append(edges[index] + (edges[index + 1] - edges[index]) * random.random(count))
        noise = (self.squares.ravel()[picked] + _SPREAD**2) / random.chisquare(points, count)
        log_lam = self.center.ravel()[picked] + random.standard_normal(count) * np.sqrt(noise / weight)
        return log_lam, values[0], values[1], values[2]


def _edges(axis: Array) -> Array:
    if len(axis) == 1:
        return np.array([axis[0], axis[0]])
    return np.concatenate([axis[:1], (axis[1:] + axis[:-1]) / 2, axis[-1:]])


def _evaluate(cells: _Cells, form: Form, axes: tuple[Array, Array, Array]) -> _Posterior:
    sigma, kappa, exponent = axes
    n, w = cells.clients, cells.weight
    pairs = np.stack(np.meshgrid(sigma, kappa, indexing="ij"), axis=-1).reshape(-1, 2)
    d = contention(n, pairs[:, :1], np.array(form.knee)) + pairs[:, 1:] * n * (n - 1)
    h = np.log(d)  # (pairs, clients)
    g = slowness(cells.sizes, exponent[:, None], form.law, cells.kinds)  # (exponents, sizes)
    y, of_clients, of_sizes, total = cells.mean, w.sum(axis=1), w.sum(axis=0), w.sum()
    # The residual is y + h + g - log lam1: its sum and its squares split into parts of pairs, of exponents and of both.
    wy = w * y
    summed = wy.sum() + (h @ of_clients)[:, None] + (g @ of_sizes)[None, :]
    squares = (
        (wy * y).sum()
        + (h**2 @ of_clients + 2 * h @ wy.sum(axis=1))[:, None]
        + (g**2 @ of_sizes + 2 * g @ wy.sum(axis=0))[None, :]
        + 2 * h @ w @ g.T
    )
    center = summed / total
    squares = np.maximum(squares - summed * center, 0.0) + cells.within
    log_weight = -0.5 * cells.points * np.log(squares + _SPREAD**2)
    if form.law in _BELL:
        middle, deviation = _BELL[form.law]
        log_weight = log_weight - 0.5 * ((exponent - middle) / deviation)[None, :] ** 2
    log_weight = log_weight - np.log1p((pairs[:, 1] / _KAPPA_USUAL) ** 2)[:, None]
    volume = np.outer(np.outer(np.diff(_edges(sigma)), np.diff(_edges(kappa))).ravel(), np.diff(_edges(exponent)))
    log_weight = log_weight + np.log(np.maximum(volume, 1e-300))
    shape = (len(sigma), len(kappa), len(exponent))
    top = log_weight.max()
    evidence = float(top + np.log(np.exp(log_weight - top).sum()))
    return _Posterior(form, axes, log_weight.reshape(shape), squares.reshape(shape), center.reshape(shape), evidence)


def _coarse(cells: _Cells, form: Form) -> _Posterior:
    ramp = np.linspace(0, 1, 24)
    return _evaluate(cells, form, (ramp**2, _KAPPA_MAX * ramp**3, np.linspace(*_RANGE[form.law], 25)))


def _refine(cells: _Cells, found: _Posterior) -> _Posterior:
    """The same form on ever finer grids around where the weight lies."""
    for points in (20, 28):
        density = np.exp(found.log_weight - found.log_weight.max())
        fine = []
        for number, axis in enumerate(found.axes):
            along = density.max(axis=tuple(other for other in range(3) if other != number))
            held = np.flatnonzero(along > 1e-4)
            fine.append(np.linspace(axis[max(0, held[0] - 1)], axis[min(len(axis) - 1, held[-1] + 1)], points))
        found = _evaluate(cells, found.form, (fine[0], fine[1], fine[2]))
    return found


def fit_usl(
    clients: Sequence[float], size: Sequence[float], throughput: Sequence[float], kinds: Kinds | None = None
) -> Usl:
    """The posterior of the law given so many measurements (several of one pair are rounds), and how each kind grows."""
    cells = _cells(np.asarray(clients, float), np.asarray(size, float), np.asarray(throughput, float), kinds)
    found = [_coarse(cells, Form(knee, law)) for knee, law in product(_KNEES, _beliefs(kinds))]
    itself = max((each for each in found if each.form.knee == 1), key=lambda each: _worth(each, kinds))
    hopeful = max(each.evidence for each in found) - _HOPELESS
    itself = _refine(cells, itself)
    others = [each for each in found if each.evidence > hopeful and each.form != itself.form]
    found = [itself, *(_refine(cells, each) for each in others)]
    worth = np.array([_worth(each, kinds) for each in found])
    share = np.exp(worth - worth.max())
    share /= share.sum()
    random = seeded("usl", cells.key)
    counts = np.diff(np.concatenate([[0], np.round(np.cumsum(share) * COUNT)])).astype(int)
    total = float(cells.weight.sum())
    parts = [
        (
            *each.draw(count, cells.points, total, random),
            np.full(count, each.form.knee),
            np.full(count, _LAWS.index(each.form.law)),
        )
        for each, count in zip(found, counts, strict=True)
        if count
    ]
    order = random.permutation(COUNT)
    log_lam, sigma, kappa, exponent, knee, law = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    best = found[int(np.argmax(share))]
    spread = float(np.sqrt((best.squares.min() + _SPREAD**2) / cells.points))
    sharper = float((knee > 1).mean())
    form = f"{itself.form}" + (f" ({sharper:.0%} of the draws with a sharper knee)" if sharper else "")
    known = _parameters(cells, itself, random)
    return Usl(log_lam, sigma, kappa, exponent, knee, law.astype(int), kinds, form, known, spread)


def _beliefs(kinds: Kinds | None) -> dict[Law, float]:
    return _BELIEF if kinds is None else _BELIEF_BY_KIND


def _worth(found: _Posterior, kinds: Kinds | None) -> float:
    """Evidence and belief; a bell is divided by its area, and that of ``u``, even from 0 to 1, is 1."""
    law = found.form.law
    area = _BELL[law][1] * np.sqrt(2 * np.pi) if law in _BELL else 1.0
    return found.evidence + float(np.log(_KNEES[found.form.knee] * _beliefs(kinds)[law] / area))


def _parameters(cells: _Cells, best: _Posterior, random: np.random.Generator) -> tuple[Parameter, ...]:
    """The law's own parameters (p = 1): values by least squares, 95 % intervals by the posterior."""
    log_lam, sigma, kappa, exponent = best.draw(_REPORT_DRAWS, cells.points, float(cells.weight.sum()), random)
    top = np.unravel_index(int(np.argmin(best.squares)), best.squares.shape)
    start = np.array([best.center[top], *(axis[index] for axis, index in zip(best.axes, top, strict=True))])
    row, column = np.nonzero(cells.weight)
    n, s, w, y = cells.clients[row], cells.sizes[column], np.sqrt(cells.weight[row, column]), cells.mean[row, column]
    knee, law = np.array(best.form.knee), best.form.law

    def residuals(p: Array) -> Array:
        d = contention(n, p[1], knee) + p[2] * n * (n - 1)
        return np.asarray(w * (p[0] - np.log(d) - slowness(s, p[3], law, cells.kinds) - y))

    least, most = (0, 1) if law == "affine" else (-0.5, 2)
    low, high = np.array([-np.inf, 0, 0, least]), np.array([np.inf, 1, 1, most])
    inside = np.clip(start, low + 1e-9, high - 1e-9)
    value = least_squares(
        residuals, inside, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=[1, 0.1, 0.01, 0.5]
    ).x

    def parameter(name: str, value: float, draws: Array, floor: float | None, unit: str = "") -> Parameter:
        below, above = shortest(draws, floor=floor)
        return Parameter(name=name, value=value, low=min(below, value), high=max(above, value), unit=unit)

    return (
        parameter("lam", float(np.exp(value[0])), np.exp(log_lam), None, "1/s"),
        parameter("sigma", float(value[1]), sigma, 0.0),
        parameter("kappa", float(value[2]), kappa, 0.0),
        parameter(_SIZE_PARAMETER[law], float(value[3]), exponent, 0.0 if law == "affine" else None),
    )
