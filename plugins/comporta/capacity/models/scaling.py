"""One quantity against another, such as bytes against rows: a fixed part and one in proportion, or a power law.

The spread is relative. The form is chosen by the largest x, kept back from the fit; where a naive rule (as at the x before, or in
proportion to it) does better there than either, the rule is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from comporta.capacity.model import FitReport, HeldOut, Parameter
from comporta.capacity.models.draws import COUNT, Array, Draws, Value, as_draws, seeded
from comporta.capacity.models.robust import huber_weights, linear_draws, shortest

Form = Literal["affine", "power", "in proportion", "constant"]
Alone = Literal["in proportion", "constant"]

_PRIOR: Final = 2.0  # measurements that the expected noise counts as
_LONE_EXPONENT: Final = 0.15  # standard deviation of the exponent that is assumed of a lone point
_FORMS: Final[tuple[Form, ...]] = ("affine", "power")


@dataclass(frozen=True)
class Scaling:
    """``y`` against ``x``: affine or power law. ``x_low`` and ``x_high`` are the smallest and the largest that were measured."""

    subject: str
    unit: str
    form: Form
    points: int
    x_low: float
    x_high: float
    report: FitReport
    coefficients: Array = field(repr=False)
    """(400, 2): of 1 and x / x_high; in logs, but for the affine form."""

    def at(self, x: Value) -> Draws:
        """The expected ``y``; never negative."""
        against = as_draws(x).draws / self.x_high
        first, second = (self.coefficients[:, k].reshape(COUNT, *(1,) * (against.ndim - 1)) for k in range(2))
        if self.form == "affine":
            return Draws.of(np.maximum(first + second * against, 0.0))
        return Draws.of(np.exp(first + second * np.log(np.maximum(against, 1e-9))))


def fit_scaling(
    subject: str,
    unit: str,
    x: Sequence[float],
    y: Sequence[float],
    *,
    noise: float = 0.1,
    alone: Alone = "in proportion",
) -> Scaling | None:
    """The fit; None without a point above 0.

    ``noise`` is the relative spread to expect where the points are too few to show it, ``alone`` what is assumed when all have
    one x.
    """
    pairs = sorted((float(a), float(b)) for a, b in zip(x, y, strict=True) if a > 0 and b > 0)
    if not pairs:
        return None
    xs, ys = (np.array(each) for each in zip(*pairs, strict=True))
    distinct = np.unique(xs)
    held: tuple[HeldOut, ...] = ()
    form: Form = "affine"
    used = True
    if len(distinct) == 1:
        form, coefficients = (
            alone,
            _through_last(xs, ys, 1.0 if alone == "in proportion" else 0.0, noise, _LONE_EXPONENT),
        )
        used, why = False, f"not enough data: one x only; taken as {alone}"
    elif len(distinct) == 2:
        coefficients = _draw("affine", xs, ys, noise, subject)
        why = "a line through two x; not enough data for a test on a third"
    else:
        form, coefficients, held, used, why = _tested(xs, ys, noise, subject)
    report = FitReport(
        subject=subject,
        form=form,
        unit=unit,
        points=len(xs),
        parameters=_parameters(form, coefficients, float(distinct[-1]), unit),
        held_out=held,
        used=used,
        why=why,
    )
    return Scaling(subject, unit, form, len(xs), float(distinct[0]), float(distinct[-1]), report, coefficients)


def known_scaling(subject: str, unit: str, fixed: float, each: Sequence[float], *, noise: float, why: str) -> Scaling:
    """A fixed part that is known, and one in proportion, of which there are several measurements (x counts from 1)."""
    random = seeded("known", subject, fixed, list(each))
    spread = max(noise, float(np.std(np.log(each)))) / np.sqrt(len(each))
    slopes = float(np.median(each)) * np.exp(spread * random.standard_normal(COUNT))
    coefficients = np.column_stack([np.full(COUNT, fixed), slopes])
    parameters = _parameters("affine", coefficients, 1.0, unit)
    report = FitReport(
        subject=subject,
        form="affine",
        unit=unit,
        points=len(each),
        parameters=parameters,
        held_out=(),
        used=True,
        why=why,
    )
    return Scaling(subject, unit, "affine", len(each), 1.0, 1.0, report, coefficients)


def _tested(xs: Array, ys: Array, noise: float, subject: str) -> tuple[Form, Array, tuple[HeldOut, ...], bool, str]:
    seen = xs < xs[-1]
    last, before = xs[-1], xs[seen].max()
    measured = float(np.median(ys[~seen]))
    at_last = np.median(ys[xs == before])
    naive = {"as before": float(at_last), "in proportion": float(at_last * last / before)}
    naive_error = {rule: abs(value - measured) / measured for rule, value in naive.items()}
    guess = {}
    for each in _FORMS:
        first, second = np.median(_draw(each, xs[seen], ys[seen], noise, subject), axis=0)
        against = last / before
        guess[each] = float(
            max(0.0, first + second * against) if each == "affine" else np.exp(first + second * np.log(against))
        )
    error = {each: abs(value - measured) / measured for each, value in guess.items()}
    form: Form = "power" if error["power"] < error["affine"] - noise / 2 else "affine"
    held = (
        HeldOut(
            what=f"{subject} at the largest x, {last:g}",
            measured=measured,
            predicted=guess[form],
            error=error[form],
            naive=naive,
            naive_error=naive_error,
        ),
    )
    rule = min(naive_error, key=lambda name: naive_error[name])
    if error[form] > naive_error[rule] + noise:
        exponent = 0.0 if rule == "as before" else 1.0
        drift = max(naive_error[rule], noise) / float(np.log(last / before))
        why = f"{form} was {error[form]:.0%} off at the largest x, {rule!r} {naive_error[rule]:.0%}: the latter is used"
        instead: Form = "constant" if rule == "as before" else "in proportion"
        return instead, _through_last(xs, ys, exponent, noise, drift), held, False, why
    why = f"{form}, {error[form]:.1%} off at the largest x, not seen by the fit"
    return form, _draw(form, xs, ys, noise, subject), held, True, why


def _draw(form: Form, xs: Array, ys: Array, noise: float, subject: str) -> Array:
    random = seeded("scaling", form, subject, xs.tolist(), ys.tolist())
    flat = np.array([np.inf, np.inf])
    if form == "power":
        design = np.column_stack([np.ones_like(xs), np.log(xs / xs[-1])])
        y = np.log(ys)
        weights = np.ones_like(ys)
        for _ in range(2):
            center, draws, _ = linear_draws(design, y, weights, flat, noise, _PRIOR, random)
            weights = huber_weights(y - design @ center, 2)
        return draws
    design = np.column_stack([np.ones_like(xs), xs / xs[-1]])
    level, weights = ys, np.ones_like(ys)
    for _ in range(4):
        center, draws, _ = linear_draws(design / level[:, None], ys / level, weights, flat, noise, _PRIOR, random)
        level = np.maximum(design @ center, 0.1 * ys.min())
        weights = huber_weights(ys / level - design @ center / level, 2)
    return draws


def _through_last(xs: Array, ys: Array, exponent: float, noise: float, drift: float) -> Array:
    """A power law of a given exponent through the median at the largest x."""
    random = seeded("rule", exponent, xs.tolist(), ys.tolist())
    last = ys[xs == xs[-1]]
    level = np.log(np.median(last)) + noise / np.sqrt(len(last)) * random.standard_normal(COUNT)
    return np.column_stack([level, exponent + drift * random.standard_normal(COUNT)])


def _parameters(form: Form, coefficients: Array, x_high: float, unit: str) -> tuple[Parameter, ...]:
    if form == "affine":
        named = (("fixed", coefficients[:, 0], unit), ("for each x", coefficients[:, 1] / x_high, unit))
    else:
        named = (("at the largest x", np.exp(coefficients[:, 0]), unit), ("exponent", coefficients[:, 1], ""))
    found = []
    for name, draws, of in named:
        low, high = shortest(draws)
        found.append(Parameter(name=name, value=float(np.median(draws)), low=low, high=high, unit=of))
    return tuple(found)
