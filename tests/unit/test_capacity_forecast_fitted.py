"""From rungs to days: what the fitted models make of a catalogue whose law is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tests.capacity_data import GB, LAWS, MB, NOW, PLAN, Catalogue, Law
from tests.capacity_truth import truth

from comporta.capacity.forecast import forecast
from comporta.capacity.model import BEFORE, Answer, Forecast, Scenario
from comporta.capacity.models import fit

TWO = (BEFORE, "OPT5")
SMALL: dict[str, Any] = {"disk_total_bytes": GB, "disk_free_bytes": 340 * MB}
SCENARIO = Scenario(until=PLAN.until)


@cache
def usual() -> tuple[Forecast, Forecast]:
    """By the fitted models, and by the law itself."""
    it = Catalogue(states=TWO, **SMALL)
    measured = it.measured()
    return (
        forecast(measured, fit(measured, PLAN), PLAN, SCENARIO, NOW),
        forecast(measured, truth(it, 0), PLAN, SCENARIO, NOW),
    )


def fitted(**fields: Any) -> Forecast:
    measured = Catalogue(states=TWO, **fields).measured()
    return forecast(measured, fit(measured, PLAN), PLAN, SCENARIO, NOW)


def answer(found: Forecast, question: str, state: str) -> Answer:
    return next(each for each in found.answers if each.question == question and each.state == state)


@pytest.mark.parametrize("question", ["disk_full", "p95", "throughput"])
@pytest.mark.parametrize("state", TWO)
def test_the_fitted_day_is_near_the_true_one(question: str, state: str) -> None:
    found, true = (answer(each, question, state) for each in usual())

    assert found.verdict == true.verdict
    if true.date is not None:
        assert found.date is not None
        assert abs((found.date - true.date).days) <= 60
        assert found.low is not None
        assert found.low <= found.date


@pytest.mark.parametrize("state", TWO)
def test_as_many_clients_are_served_as_the_law_says(state: str) -> None:
    found, true = (answer(each, "clients", state).amount for each in usual())

    assert found is not None
    assert true is not None
    assert found.value == pytest.approx(true.value, rel=0.25)


def test_the_rows_of_2029_are_those_of_the_law() -> None:
    found, true = (answer(each, "rows", "").amount for each in usual())

    assert found is not None
    assert true is not None
    assert found.value == pytest.approx(true.value, rel=0.02)


def test_three_months_of_history_give_no_day() -> None:
    found = fitted(first_day=NOW.replace(month=8, day=20), **SMALL)

    assert answer(found, "disk_full", "OPT5").verdict == "not_enough_data"
    assert not [each for each in found.answers if each.date is not None]


def test_a_catalogue_that_stopped_growing_fills_nothing() -> None:
    found = fitted(power=0, **SMALL)

    assert answer(found, "disk_full", "OPT5").verdict in ("met", "not_enough_data")
    assert answer(found, "disk_full", "OPT5").date is None


def test_a_ladder_that_goes_backwards_is_not_met_where_it_cannot_serve() -> None:
    backwards = Law(60, 0.2, 0.15, 0.6)
    found = fitted(laws={**LAWS, "OPT5": backwards})

    assert answer(found, "p95", "OPT5").verdict == "not_met"
    assert answer(found, "throughput", "OPT5").verdict == "not_met"
    assert found.verdict == "stop"
