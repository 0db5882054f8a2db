"""Rows by month, from when they were made: a constant rate, a power of the table's age, or an exponential.

All three are cumulative curves; they are fitted to the months' differences, because the errors of a running total are not
independent. The spread of a month's count grows like its root (quasi-Poisson). Intervals come from a block bootstrap of the
standardised residuals, which keeps what neighbouring months have in common, in its one-step form (the fit's Jacobian carries each
sample of residuals into the parameters); the same blocks, laid end to end, are the luck of the months to come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Final, Literal, get_args

import numpy as np
from scipy.optimize import least_squares

from comporta.capacity.model import FitReport, HeldOut, History, Parameter
from comporta.capacity.models.draws import COUNT, Array, Draws, seeded
from comporta.capacity.models.robust import shortest

Verdict = Literal["growing", "flat", "retrograde", "not_enough_data"]
Form = Literal["linear", "power", "exponential", "last month's rate", "linear through all"]

FEWEST_MONTHS: Final = 6
_TAIL: Final = 0.2  # of the months are kept back to choose the form
_BLOCK: Final = 3  # months
_LOAD: Final = 10  # times the usual month: a first month with more is the load of what had been made elsewhere
_HORIZON: Final = 240  # months for which luck is drawn
_FLAT: Final = 0.001  # of the rows, in a year: less is no growth
_CANNOT_TELL: Final = 0.05  # of the rows, in a year: so much, and yet its interval holds 0


def _cumulative(form: Form, age: float) -> Callable[[Array, Array], Array]:
    """Rows up to a time in months since the first month began, such that the month that ends at ``age`` has the first parameter."""

    def line(p: Array, t: Array) -> Array:
        return np.asarray(p[..., :1] * t)

    def power(p: Array, t: Array) -> Array:
        b = p[..., 1:2]
        return np.asarray(p[..., :1] * np.maximum(t, 0.0) ** b / (age**b - (age - 1) ** b))

    def exponential(p: Array, t: Array) -> Array:
        g = np.where(np.abs(p[..., 1:2]) < 1e-9, 1e-9, p[..., 1:2])
        return np.asarray(p[..., :1] * np.expm1(g * (t - age)) / -np.expm1(-g))

    return {"power": power, "exponential": exponential}.get(form, line)


@dataclass(frozen=True)
class MonthlyFit:
    """A form fitted to the months' differences, with draws of its parameters and the residuals to draw luck from."""

    form: Form
    parameters: Array
    draws: Array  # (400, parameters)
    age: float
    spread: float  # of a standardised residual
    residuals: Array

    def between(self, since: float, times: Array) -> Array:
        """Expected rows made from ``since`` to each time, by draw."""
        curve = _cumulative(self.form, self.age)
        return curve(self.draws, times) - curve(self.draws, np.array([since]))

    def expected(self, since: float, until: float) -> float:
        curve = _cumulative(self.form, self.age)
        return float((curve(self.parameters, np.array([until])) - curve(self.parameters, np.array([since])))[0])

    def doubt(self, since: float, until: float) -> float:
        """Standard deviation of the rows made between, by the months' luck alone."""
        return self.spread * float(np.sqrt(max(1.0, abs(self.expected(since, until)))))


@dataclass(frozen=True)
class Growth:
    """How the rows of a table (or of one partition of it) get more. ``months`` are finished ones, ``added`` the rows made in each.

    ``rows_now`` are those at ``until``. With the verdict ``not_enough_data`` there is no forecast: ``rows`` is nan after ``until``.
    """

    table: str
    partition: str | None
    verdict: Verdict
    why: str
    form: str
    months: tuple[date, ...]
    added: tuple[int, ...]
    rows_now: int
    until: date
    report: FitReport
    counted: int = field(default=0, repr=False)
    """Rows at the end of the last finished month."""
    fitted: MonthlyFit | None = field(default=None, repr=False, compare=False)
    luck: Array | None = field(default=None, repr=False, compare=False)
    """(400, months from ``until``): what chance adds, cumulative."""

    def rows(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        """Rows on a day (shape ``()``) or on several (shape ``(n,)``); what comes after ``until`` is ``times`` as fitted."""
        t = self._time(days)
        now = float(self._time(self.until)[0])
        if self.fitted is None:
            more = np.full((COUNT, len(t)), np.nan if self.verdict == "not_enough_data" else 0.0)
        else:
            more = self.fitted.between(now, np.maximum(t, now))
            if self.luck is not None:
                steps = np.arange(self.luck.shape[1])
                more = more + np.array([np.interp(t - now, steps, path) for path in self.luck])
        known = np.broadcast_to(self._measured(t), more.shape)
        draws = np.where(t <= now, known, np.maximum(self.rows_now + times * more, 0.0))
        return _shaped(draws, days)

    def per_month(self, days: date | Sequence[date], times: float = 1.0) -> Draws:
        """Rows that are added a month, around a day: the expected rate, without the month's own luck."""
        t = self._time(days)
        if self.fitted is None:
            return _shaped(np.full((COUNT, len(t)), np.nan if self.verdict == "not_enough_data" else 0.0), days)
        curve = _cumulative(self.fitted.form, self.fitted.age)
        return _shaped(times * (curve(self.fitted.draws, t + 0.5) - curve(self.fitted.draws, t - 0.5)), days)

    def _time(self, days: date | Sequence[date]) -> Array:
        """Months since the first one began."""
        first = self.months[0] if self.months else self.until.replace(day=1)
        each = [days] if isinstance(days, date) else list(days)
        return np.array([_months(first, day) + (day.day - 1) / _length(day) for day in each])

    def _measured(self, t: Array) -> Array:
        """Rows at times up to ``until``, between the ends of months by a line."""
        ends = np.arange(len(self.months) + 1, dtype=float)
        before = self.counted - sum(self.added)
        totals = before + np.concatenate([[0.0], np.cumsum(self.added)])
        now = float(self._time(self.until)[0])
        return np.asarray(np.interp(t, np.append(ends, max(now, ends[-1])), np.append(totals, self.rows_now)))


def fit_growth(history: History, partition: str | None = None, form: str | None = None) -> Growth:
    """The growth of a table, or of one partition of it, for which the form can be given: that of its table."""
    until = history.until.date()
    counts: dict[date, int] = {}
    for month in history.months:
        counts.setdefault(month.month, 0)
        if partition is None or month.partition == partition:
            counts[month.month] += month.rows
    finished = sorted(month for month in counts if month < until.replace(day=1))
    months = tuple(_range(finished[0], until.replace(day=1))) if finished else ()
    added = tuple(counts.get(month, 0) for month in months)
    load = added[0] if len(added) > 1 and added[0] > _LOAD * max(1.0, float(np.median(np.abs(added[1:])))) else 0
    if load:
        months, added = months[1:], added[1:]
    rows = history.rows if partition is None else sum(counts.values())
    unfinished = sum(n for month, n in counts.items() if month >= until.replace(day=1))
    name = history.table if partition is None else f"{history.table}, {partition}"
    verdict, why, fit, held, used = _judge(np.array(added, float), rows, form)
    if load:
        why += f"; the first month, in which {load:,} rows were loaded, is left out"
    parameters = _parameters(fit) if fit else ()
    report = FitReport(
        subject=f"growth of {name}",
        form=fit.form if fit else "none",
        unit="rows a month",
        points=len(months),
        parameters=parameters,
        held_out=held,
        used=used,
        why=why,
    )
    growth = Growth(
        table=history.table,
        partition=partition,
        verdict=verdict,
        why=why,
        form=report.form,
        months=months,
        added=added,
        rows_now=rows,
        until=until,
        report=report,
        counted=rows - unfinished,
        fitted=fit if verdict != "not_enough_data" else None,
    )
    if growth.fitted is None:
        return growth
    now = float(growth._time(until)[0])
    return replace(growth, luck=_luck(growth.fitted, now, seeded("luck", name, added)))


def _judge(
    added: Array, rows: int, form: str | None
) -> tuple[Verdict, str, MonthlyFit | None, tuple[HeldOut, ...], bool]:
    if len(added) < FEWEST_MONTHS:
        return (
            "not_enough_data",
            f"{len(added)} finished month(s), at least {FEWEST_MONTHS} are needed",
            None,
            (),
            False,
        )
    if not added[-max(FEWEST_MONTHS, len(added) // 2) :].any():
        return "flat", "no row was made in the later half of the months", None, (), True
    given = next((each for each in get_args(Form) if each == form), None)
    fit, held, used, why = (_fit(given, added), (), True, f"{given}, as of its table") if given else _choose(added)
    rate = _cumulative(fit.form, fit.age)
    last = np.array([fit.age - 1, fit.age])
    draws = np.diff(rate(fit.draws, last), axis=1)[:, 0]
    low, high = np.quantile(draws, (0.025, 0.975))
    yearly = 12 * float(np.median(draws)) / max(1, rows)
    if high < 0:
        return "retrograde", f"rows get fewer; {why}", fit, held, used
    if low <= 0 and abs(yearly) > _CANNOT_TELL:
        return "not_enough_data", "the months differ too much to tell growth from chance", fit, held, False
    if low <= 0 or abs(yearly) < _FLAT:
        return "flat", f"no growth that can be told from none; {why}", fit, held, used
    return "growing", why, fit, held, used


def _choose(added: Array) -> tuple[MonthlyFit, tuple[HeldOut, ...], bool, str]:
    """The form by the months kept back: a line, unless another is better by more than the months' luck."""
    n = len(added)
    tail = max(2, round(_TAIL * n))
    forms: tuple[Form, ...] = ("linear", "power", "exponential") if added.min() >= 0 else ("linear",)
    if n - tail < FEWEST_MONTHS - 1:
        return _fit("linear", added), (), True, f"{n} months are too few to choose a form by: a constant rate"
    head, measured = added[:-tail], float(added[-tail:].sum())
    scale = max(1.0, abs(measured))
    fits = {form: _fit(form, head) for form in forms}
    guess = {form: fit.expected(n - tail, n) for form, fit in fits.items()}
    error = {form: abs(value - measured) / scale for form, value in guess.items()}
    doubt = fits["linear"].doubt(n - tail, n) / scale
    best: Form = "linear"
    for form in forms[1:]:
        if error[form] < error[best] - (doubt if best == "linear" else doubt / 2):
            best = form
    if best != "linear" and len(forms) == 3:
        other: Form = "power" if best == "exponential" else "exponential"
        whole = {form: _fit(form, added) for form in (best, other)}
        if abs(error[best] - error[other]) <= doubt and whole[other].spread < 0.95 * whole[best].spread:
            best = other  # the months kept back do not tell the two apart: all of them do
    doubt = fits[best].doubt(n - tail, n) / scale
    naive = {"last month's rate": float(head[-1]) * tail, "linear through all": float(head.mean()) * tail}
    naive_error = {rule: abs(value - measured) / scale for rule, value in naive.items()}
    held = (
        HeldOut(
            what=f"rows made in the last {tail} months",
            measured=measured,
            predicted=guess[best],
            error=error[best],
            naive=naive,
            naive_error=naive_error,
        ),
    )
    rule: Form = (
        "last month's rate"
        if naive_error["last month's rate"] < naive_error["linear through all"]
        else "linear through all"
    )
    if error[best] > naive_error[rule] + doubt:
        why = f"{best} was {error[best]:.0%} off in the last {tail} months, {rule} {naive_error[rule]:.0%}: the latter is used"
        return _fit(rule, added), held, False, why
    return (
        _fit(best, added),
        held,
        True,
        f"{best}, {error[best]:.1%} off in the last {tail} months, not seen by the fit",
    )


def _fit(form: Form, added: Array) -> MonthlyFit:
    n = len(added)
    age = float(n)
    curve = _cumulative(form, age)
    ends = np.arange(n + 1, dtype=float)
    level = max(1e-9, float(np.abs(added).mean()))

    def model(p: Array) -> Array:
        return np.asarray(np.diff(curve(np.asarray(p * scale, dtype=float), ends)))

    if form in ("power", "exponential"):
        recent = max(level / 10, float(added[-max(3, n // 6) :].mean()))
        scale = np.array([recent, 1.0])
        start, low, high = (
            (np.array([1.0, 1.5]), [1e-6, 0.1], [100, 6])
            if form == "power"
            else (np.array([1.0, 0.02]), [1e-6, -0.7], [100, 0.7])
        )
    else:
        value = float(added[-1]) if form == "last month's rate" else float(added.mean())
        scale, start, low, high = np.array([level]), np.array([value / level]), [-np.inf], [np.inf]
    free = form in ("linear", "power", "exponential")
    root = np.full(n, np.sqrt(max(1.0, level)))
    for _ in range(2 if free else 0):
        rest = (added - model(start)) / root
        bend = max(1e-6, 3 * 1.4826 * float(np.median(np.abs(rest))))
        found = least_squares(
            lambda p, root=root: (added - model(np.asarray(p, dtype=np.float64))) / root,
            start,
            bounds=(low, high),
            loss="soft_l1",
            f_scale=bend,
        )
        start = found.x
        root = np.sqrt(np.maximum(np.abs(model(start)), max(1.0, 0.05 * level)))
    residuals = (added - model(start)) / root
    freedom = max(1, n - len(start))
    spread = float(np.sqrt((residuals**2).sum() / freedom))
    steps = [np.where(np.arange(len(start)) == k, 1e-4, 0.0) for k in range(len(start))]
    jacobian = np.column_stack([(model(start + step) - model(start - step)) / (2e-4 * root) for step in steps])
    random = seeded("growth", form, added.tolist())
    sample = _blocks(residuals * np.sqrt(n / freedom), n, random)
    tails = np.sqrt(freedom / random.chisquare(freedom, COUNT))
    moved = (sample @ np.linalg.pinv(jacobian).T) * tails[:, None]
    draws = np.clip(start + moved, low, high)
    return MonthlyFit(form, start * scale, draws * scale, age, spread, residuals * np.sqrt(n / freedom))


def _blocks(residuals: Array, length: int, random: np.random.Generator) -> Array:
    """``(400, length)`` residuals in blocks of neighbours, from a circle so that each is as likely as another."""
    starts = random.integers(0, len(residuals), (COUNT, -(-length // _BLOCK)))
    index = (starts[:, :, None] + np.arange(_BLOCK)).reshape(COUNT, -1)[:, :length] % len(residuals)
    return np.asarray((residuals - residuals.mean())[index])


def _luck(fit: MonthlyFit, now: float, random: np.random.Generator) -> Array:
    curve = _cumulative(fit.form, fit.age)
    ends: Array = now + np.arange(_HORIZON + 1, dtype=np.float64)
    expected = np.abs(np.diff(curve(fit.parameters, ends)))
    steps = _blocks(fit.residuals, _HORIZON, random) * np.sqrt(expected)
    return np.concatenate([np.zeros((COUNT, 1)), np.cumsum(steps, axis=1)], axis=1)


def _parameters(fit: MonthlyFit) -> tuple[Parameter, ...]:
    names = ("rate", {"power": "exponent", "exponential": "growth a month"}.get(fit.form, ""))
    units = ("rows a month", "")
    found = []
    for name, unit, value, draws in zip(names, units, fit.parameters, fit.draws.T, strict=False):
        low, high = shortest(draws)
        found.append(
            Parameter(
                name=name, value=float(value), low=min(low, float(value)), high=max(high, float(value)), unit=unit
            )
        )
    return tuple(found)


def _shaped(draws: Array, days: date | Sequence[date]) -> Draws:
    return Draws.of(draws[:, 0] if isinstance(days, date) else draws)


def _months(first: date, day: date) -> int:
    return 12 * (day.year - first.year) + day.month - first.month


def _length(day: date) -> int:
    after = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return (after - day.replace(day=1)).days


def _range(first: date, end: date) -> list[date]:
    return [
        date(first.year + (first.month - 1 + k) // 12, (first.month - 1 + k) % 12 + 1, 1)
        for k in range(_months(first, end))
    ]
