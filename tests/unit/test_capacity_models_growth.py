"""Growth and scaling: known parameters come back, odd series get the right verdict, and no date is made out of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pytest

from comporta.capacity.model import History, MonthCount
from comporta.capacity.models import Growth, fit_scaling
from comporta.capacity.models.growth import fit_growth

FIRST = date(2023, 1, 1)


def month(number: int) -> date:
    return date(FIRST.year + number // 12, number % 12 + 1, 1)


def history(added: Sequence[float], unfinished: int = 0, partition: str | None = None) -> History:
    counts = [round(n) for n in added]
    last = month(len(counts))
    return History(
        table="catalogue.geometrias",
        column="created_at",
        months=tuple(
            MonthCount(month=month(k), rows=n, partition=partition) for k, n in enumerate([*counts, unfinished])
        ),
        rows=max(0, sum(counts)) + unfinished,
        until=datetime(last.year, last.month, 11, tzinfo=UTC),
    )


def noisy(expected: Sequence[float], seed: int, spread: float = 0.05) -> list[float]:
    random = np.random.default_rng(seed)
    values = np.asarray(expected)
    root = np.sqrt(values.mean() * np.maximum(values, 0.0))
    return list(values + spread * root * random.standard_normal(len(values)))


def power(total: float, exponent: float, months: int) -> list[float]:
    ages = np.arange(months + 1) / months
    return list(total * np.diff(ages**exponent))


def grown(added: Sequence[float], **more: int) -> Growth:
    return fit_growth(history(added, **more))


def test_the_parameters_of_a_power_lie_within_their_intervals_in_nine_of_ten_draws() -> None:
    _in_nine_of_ten(lambda seed: (noisy(power(300_000, 2.0, 48), seed), "power", {"exponent": 2.0}))


def test_the_rate_of_a_line_lies_within_its_interval_in_nine_of_ten_draws() -> None:
    _in_nine_of_ten(lambda seed: (noisy([5_000.0] * 36, seed), "linear", {"rate": 5_000.0}))


def test_the_parameters_of_an_exponential_lie_within_their_intervals_in_nine_of_ten_draws() -> None:
    _in_nine_of_ten(
        lambda seed: (
            noisy(list(1_000 * np.exp(0.06 * np.arange(48))), seed),
            "exponential",
            {"growth a month": 0.06, "rate": 1_000 * float(np.exp(0.06 * 47))},
        )
    )


def _in_nine_of_ten(draw, draws: int = 200) -> None:  # type: ignore[no-untyped-def]
    hits: dict[str, int] = {}
    recognised = 0
    for seed in range(draws):
        added, form, truth = draw(seed)
        report = grown(added).report
        recognised += report.form == form
        for parameter in report.parameters:
            if report.form == form and parameter.name in truth:
                hits[parameter.name] = hits.get(parameter.name, 0) + (
                    parameter.low <= truth[parameter.name] <= parameter.high
                )
    assert recognised >= 0.85 * draws
    assert all(hit >= 0.9 * recognised for hit in hits.values()), (hits, recognised)


@pytest.mark.parametrize(
    ("added", "verdict"),
    [
        pytest.param([900, 1000, 1100, 950, 1050], "not_enough_data", id="five months"),
        pytest.param([], "not_enough_data", id="none"),
        pytest.param(noisy([1000.0] * 24, 3), "growing", id="steady"),
        pytest.param([100_000, *[0] * 23], "flat", id="one import, nothing since"),
        pytest.param([100_000, *noisy([3.0] * 23, 3)], "flat", id="hardly any"),
        pytest.param([100_000, *(-n for n in noisy([2000.0] * 23, 3))], "retrograde", id="fewer"),
    ],
)
def test_the_verdict_of_a_series(added: list[float], verdict: str) -> None:
    assert grown(added).verdict == verdict


def test_pure_chance_is_not_called_growth() -> None:
    random = np.random.default_rng(5)
    added = random.standard_normal(10) * 5_000
    growth = grown([20_000, *added])
    assert growth.verdict in ("not_enough_data", "flat")


def test_too_few_months_give_no_rows_after_today() -> None:
    growth = grown([900, 1000, 1100])
    assert np.isnan(growth.rows(date(2029, 12, 31)).value)
    assert growth.rows(growth.until).value == 3000


def test_the_unfinished_month_is_no_point_but_its_rows_count() -> None:
    growth = grown(noisy([1000.0] * 24, 3), unfinished=7)
    assert len(growth.added) == 24
    assert growth.rows(growth.until).value == growth.rows_now == sum(growth.added) + 7
    assert growth.rows(date(2023, 7, 1)).value == sum(growth.added[:6])
    assert growth.per_month(date(2027, 1, 1)).value == pytest.approx(1000, rel=0.05)


def test_twice_the_growth_adds_twice_the_rows() -> None:
    growth = grown(noisy(power(300_000, 2.0, 48), 1))
    days = [date(2027, 6, 1), date(2029, 12, 31)]
    once, twice = growth.rows(days), growth.rows(days, times=2.0)
    assert twice.draws - growth.rows_now == pytest.approx(2 * (once.draws - growth.rows_now))


def test_three_years_ahead_the_truth_lies_within_the_interval_of_a_power() -> None:
    inside = 0
    for seed in range(40):
        growth = grown(noisy(power(300_000, 2.0, 48), seed))
        low, high = growth.rows(date(2029, 12, 31)).band()
        ages = np.array([48 + 10 / 31, 83 + 30 / 31]) / 48  # from the day of the count to the last day of 2029
        inside += low <= growth.rows_now + 300_000 * np.diff(ages**2)[0] <= high
    assert inside >= 28  # of an interval of 80 %, with the luck of 40 draws


def test_a_partition_that_gets_no_more_rows_is_flat() -> None:
    both = history(noisy([1000.0] * 24, 3), partition="2024")
    months = (*both.months, *(MonthCount(month=month(k), rows=500, partition="2023") for k in range(6)))
    both = both.model_copy(update={"months": months})
    old, new = fit_growth(both, "2023"), fit_growth(both, "2024")
    assert (old.verdict, new.verdict) == ("flat", "growing")
    assert old.rows(date(2029, 12, 31)).value == 3000


def test_a_naive_rule_takes_the_place_of_a_form_that_missed_the_last_months() -> None:
    growth = grown([*noisy([1000.0] * 30, 3, 0.02), *noisy([9000.0] * 10, 3, 0.02)])
    assert not growth.report.used
    assert not growth.report.held_out[0].beats_naive
    assert growth.form == "last month's rate"
    assert "is used" in growth.why
    assert growth.per_month(date(2027, 1, 1)).value == pytest.approx(9000, rel=0.1)


def test_a_load_in_the_first_month_is_no_growth() -> None:
    growth = grown([1_000_000, *noisy([1000.0] * 24, 3)])
    assert "is left out" in growth.why
    assert growth.rows_now > 1_000_000
    assert growth.per_month(date(2027, 1, 1)).value == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("form", "truth"),
    [("affine", lambda x: 2e6 + 400 * x), ("power", lambda x: 3e-7 * x**1.4)],
    ids=["affine", "power"],
)
def test_the_parameters_of_a_scaling_lie_within_their_intervals_in_nine_of_ten_draws(form, truth) -> None:  # type: ignore[no-untyped-def]
    x = np.repeat([1e5, 2e5, 4e5, 8e5, 16e5], 2)
    hits = chosen = 0
    for seed in range(200):
        y = truth(x) * np.exp(0.05 * np.random.default_rng(seed).standard_normal(len(x)))
        found = fit_scaling("bytes", "bytes", list(x), list(y), noise=0.05)
        assert found is not None
        if found.form == form:
            chosen += 1
            named = {parameter.name: parameter for parameter in found.report.parameters}
            parameter, value = (named["for each x"], 400) if form == "affine" else (named["exponent"], 1.4)
            hits += parameter.low <= value <= parameter.high
    assert chosen >= 100
    assert hits >= 0.9 * chosen


def test_a_scaling_meets_what_it_has_not_seen() -> None:
    found = fit_scaling("bytes", "bytes", [1e5, 2e5, 4e5], [4.1e7, 8.0e7, 16.2e7], noise=0.02)
    assert found is not None
    assert found.report.used
    assert found.report.held_out[0].error < 0.05
    assert found.at(8e5).value == pytest.approx(32e7, rel=0.05)


def test_one_x_alone_is_taken_in_proportion_and_says_so() -> None:
    found = fit_scaling("bytes", "bytes", [1e5], [1e7])
    assert found is not None
    assert "not enough data" in found.report.why
    assert found.at([1e5, 4e5]).value == pytest.approx([1e7, 4e7], rel=0.1)
    low, high = found.at(4e5).band()
    assert low < 4e7 < high


def test_what_leaps_is_left_to_the_naive_rule() -> None:
    found = fit_scaling("planning", "ms", [1, 16, 64, 128], [1.0, 8.0, 30.0, 30.5], noise=0.05)
    assert found is not None
    assert not found.report.used
    assert found.at(256).value == pytest.approx(30.5, rel=0.1)


def test_nothing_measured_is_no_scaling() -> None:
    assert fit_scaling("bytes", "bytes", [], []) is None
