"""A forecast gives the day that the models imply, with an interval that holds it, and no day that the data cannot carry."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capacity_data import GB, LAWS, MB, NOW, PLAN, Catalogue, Law
from tests.capacity_truth import Affine, TrueGrowth, truth

from comporta.capacity.forecast import brought_nearer, forecast, months_later, verdict
from comporta.capacity.model import BEFORE, Answer, Forecast, HeldOut, Scenario
from comporta.capacity.models import Draws
from comporta.capacity.questions.disk import disk_full
from comporta.capacity.questions.outlook import NothingAhead, Outlook, first_over
from comporta.release.capacity import CapacityPlan, Objectives

UNTIL = PLAN.until
RELEASE = "OPT5"
SMALL: dict[str, Any] = {"disk_total_bytes": GB, "disk_free_bytes": 340 * MB}  # full before 2029
TWO = (BEFORE, RELEASE)


def made(
    catalogue: Catalogue | None = None,
    plan: CapacityPlan = PLAN,
    scenario: Scenario | None = None,
    spread: float = 0.05,
    **changes: Any,
) -> Forecast:
    it = catalogue or Catalogue()
    return forecast(it.measured(), truth(it, spread, **changes), plan, scenario or Scenario(until=UNTIL), NOW)


@pytest.fixture(scope="module")
def usual() -> Forecast:
    """The forecast of the catalogue as it is."""
    return made()


def answer(found: Forecast, question: str, state: str | None = RELEASE, subject: str | None = None) -> Answer:
    [one] = [
        each
        for each in found.answers
        if each.question == question and state in (None, each.state) and subject in (None, each.subject)
    ]
    return one


def objectives(**fields: Any) -> CapacityPlan:
    return PLAN.model_copy(update={"objectives": Objectives(**fields)})


def laws(**changed: Law) -> dict[str, Law]:
    return {**LAWS, **changed}


# -- days ------------------------------------------------------------------------------------------------------------


def test_the_disk_is_full_on_the_day_on_which_the_rows_need_the_bytes() -> None:
    it = Catalogue(states=TWO, **SMALL)
    found = answer(made(it, spread=0), "disk_full", BEFORE)

    per_row = 995.0  # of geometrias, with its indexes: see truth()
    room = 0.85 * GB - (GB - 340 * MB)
    share = np.sqrt(1 + room / (per_row * it.rows))  # rows grow with the square of time
    expected = it.first_day + timedelta(days=float(share) * (it.last_day + timedelta(1) - it.first_day).days)

    assert found.verdict == "met_until"
    assert found.date is not None
    assert abs((found.date - expected).days) <= 10


def test_the_interval_of_a_day_holds_the_true_day_as_often_as_it_says() -> None:
    it, spread, inside = Catalogue(states=TWO, **SMALL), 0.08, 0
    measured, draw = it.measured(), np.random.default_rng(7)
    true_day = answer(made(it, spread=0), "disk_full", BEFORE).date
    assert true_day is not None
    for _ in range(120):
        growth = TrueGrowth(it, "catalogue.geometrias", 1.0, spread, off=float(np.exp(draw.normal(0, spread))))
        fitted = truth(it, 0, growth={**truth(it, 0).growth, "catalogue.geometrias": growth})
        outlook = Outlook.of(measured, fitted, PLAN, Scenario(until=date(2035, 1, 1)), NOW)
        found = disk_full(outlook).answers[0]
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= true_day <= found.high

    assert 0.7 <= inside / 120 <= 0.9


def test_p95_is_passed_when_the_load_saturates_the_state() -> None:
    it = Catalogue(states=TWO)
    found = made(it, spread=0)
    before, after = answer(found, "p95", BEFORE), answer(found, "p95")

    rows = 300_330 + 30_000
    at = (before.date or NOW) - it.first_day
    grown = 330_000 * (at.days / (it.last_day + timedelta(1) - it.first_day).days) ** 2
    size = grown / rows
    law = it.laws[BEFORE]
    highest = max(law.throughput(n, size) for n in np.arange(1, 60, 0.1))

    assert before.verdict == "met_until"
    assert highest == pytest.approx(50 * 3 * size, rel=0.02)
    assert after.verdict == "met"
    assert after.date is None
    assert "saturated" in before.text


@pytest.mark.parametrize("load_grows", ["with_rows", "not"])
def test_the_load_grows_as_the_plan_says(load_grows: str) -> None:
    found = made(plan=PLAN.model_copy(update={"load_grows": load_grows}))
    [peak] = [line for line in found.series["connections"] if line.name == "peak"]

    assert peak.value[0] == pytest.approx(22, rel=0.02)
    assert peak.value[-1] == pytest.approx(22 * 1.93 if load_grows == "with_rows" else 22, rel=0.02)


def test_doubled_growth_brings_every_day_nearer() -> None:
    it = Catalogue(disk_total_bytes=GB, disk_free_bytes=400 * MB)
    found = made(it)
    doubled = answer(found, "growth_doubled", subject="disk")
    twice = made(it, scenario=Scenario(growth=2, until=UNTIL))

    once = answer(found, "disk_full")
    assert once.date is not None
    assert doubled.date is not None
    assert doubled.date < once.date
    assert doubled.date == answer(twice, "disk_full").date
    assert doubled.text.startswith("If growth doubled: with the release")


# -- what is not known -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["not_enough_data"])
def test_a_history_too_short_to_fit_gives_no_day_at_all(verdict: Any) -> None:
    it = Catalogue(**SMALL)
    growth = {
        "catalogue.geometrias": TrueGrowth(it, "catalogue.geometrias", 1.0, 0.05, verdict, "2 finished months of 6")
    }
    found = made(it, growth=growth)

    assert {each.verdict for each in found.answers if each.question == "disk_full"} == {"not_enough_data"}
    assert not [each for each in found.answers if each.date is not None]
    assert "2 finished months of 6" in answer(found, "disk_full").text
    assert found.verdict == "warn"


def test_what_is_broken_today_is_said_even_without_a_history() -> None:
    it = Catalogue(disk_total_bytes=GB, disk_free_bytes=50 * MB)
    found = made(it, growth={})

    assert answer(found, "disk_full").verdict == "not_met"
    assert answer(found, "disk_full").date == NOW
    assert found.verdict == "stop"


def test_a_history_carries_as_far_ahead_as_it_reaches_back() -> None:
    it = Catalogue(first_day=date(2025, 12, 1))
    found = made(it)
    disk = answer(found, "disk_full")

    assert disk.verdict == "not_enough_data"
    assert "11 months of history of catalogue.geometrias carry no further than 2027-11-29" in disk.text
    assert max(str(x) for line in found.series["disk"] for x in line.x) == "2027-11-29"
    assert not [each for each in found.answers if each.high is not None and each.high > date(2027, 11, 29)]


@pytest.mark.parametrize("power", [0, -0.5], ids=["flat", "retrograde"])
def test_rows_that_do_not_get_more_fill_nothing(power: float) -> None:
    found = made(Catalogue(power=power, **SMALL))

    assert answer(found, "disk_full").verdict == "met"
    assert answer(found, "p95").verdict == "met"
    assert not [each for each in found.answers if each.verdict == "met_until" and each.question != "partitions"]


def test_a_disk_that_nobody_knows_is_not_judged() -> None:
    found = answer(made(Catalogue(disk_total_bytes=None, disk_free_bytes=None)), "disk_full")

    assert found.verdict == "not_enough_data"
    assert "capacity.disk_bytes" in found.why


def test_the_plan_may_say_how_large_a_disk_is_that_the_server_does_not_tell() -> None:
    plan = PLAN.model_copy(update={"disk_bytes": GB})
    found = answer(made(Catalogue(disk_total_bytes=None, disk_free_bytes=None), plan), "disk_full")

    assert found.verdict == "met_until"


def test_without_a_recorded_rate_the_clients_of_the_objective_stand_for_the_load() -> None:
    found = made(Catalogue(calls_per_s=None))

    assert "8 clients at once (no rate was recorded)" in answer(found, "p95").text
    assert any("production recorded no rate" in each for each in answer(found, "p95").assumptions)
    assert answer(found, "throughput").verdict == "not_enough_data"
    assert answer(found, "throughput").amount is not None
    assert {each.verdict for each in found.answers if each.question == "wal"} == {"not_enough_data"}


def test_states_without_rungs_are_answered_as_unknown() -> None:
    it = Catalogue()
    fitted = truth(it)
    found = made(it, performance={BEFORE: fitted.performance[BEFORE]}, database_bytes={})

    assert answer(found, "p95", BEFORE).verdict == "met_until"
    assert answer(found, "p95").verdict == "not_enough_data"
    assert answer(found, "disk_full").verdict == "not_enough_data"
    assert not [each for each in found.answers if each.question == "buys"]
    assert found.verdict == "warn"


def test_a_forecast_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(NothingAhead, match="begins on 2026-11-30 and is asked until 2026-11-30"):
        made(scenario=Scenario(until=NOW))


# -- what is not met -------------------------------------------------------------------------------------------------


def test_a_state_that_cannot_serve_the_present_load_does_not_meet_its_objective() -> None:
    slow = Law(30, 0.3, 0.01, 0.5)
    found = made(Catalogue(laws=laws(OPT5=slow)))

    assert answer(found, "p95").verdict == "not_met"
    assert answer(found, "p95").date == NOW
    assert "not so today" in answer(found, "p95").text
    assert found.verdict == "stop"


def test_what_is_broken_only_before_the_release_does_not_stop_it() -> None:
    found = made(Catalogue(laws=laws(before=Law(30, 0.3, 0.01, 0.5))))

    assert answer(found, "p95", BEFORE).verdict == "not_met"
    assert found.verdict == "pass"
    assert "the load is served, which it was not without it" in answer(found, "buys", "OPT1", "p95").text


def test_an_objective_that_falls_within_the_months_looked_ahead_is_a_warning() -> None:
    it = Catalogue(disk_total_bytes=GB, disk_free_bytes=200 * MB)
    found = made(it)
    disk = answer(found, "disk_full")

    assert disk.date is not None
    assert disk.date < months_later(NOW, 12)
    assert found.verdict == "warn"
    assert made(it, PLAN.model_copy(update={"look_ahead_months": 1})).verdict == "pass"


def test_fewer_clients_than_must_be_served_is_a_day_or_a_no() -> None:
    near, far = made(plan=objectives(clients=65)), made(plan=objectives(clients=90))

    assert answer(near, "clients").verdict == "met_until"
    assert answer(far, "clients").verdict == "not_met"
    served = answer(near, "clients").amount
    assert served is not None
    assert served.low <= 71 <= served.high
    assert served.value == int(served.value)


# -- what changes buy ------------------------------------------------------------------------------------------------


def test_months_bought_are_the_days_between_the_dates() -> None:
    it = Catalogue(states=(BEFORE, "OPT1"), laws=laws(OPT1=Law(105, 0.22, 0.004, 0.75)))
    found = made(it, spread=0)
    bought, first, last = (
        answer(found, "buys", "OPT1", "p95"),
        answer(found, "p95", BEFORE),
        answer(found, "p95", "OPT1"),
    )

    assert first.date is not None
    assert last.date is not None
    assert bought.amount is not None
    assert bought.unit == "months"
    assert bought.amount.value == pytest.approx((last.date - first.date).days / 30.4375, abs=0.1)


def test_months_beyond_the_outlook_are_a_lower_bound(usual: Forecast) -> None:
    found = answer(usual, "buys", "OPT1", "p95")

    assert found.text.startswith("OPT1 buys at least 19 months of p95 (80 %: at least")


def test_a_change_that_makes_things_worse_costs_months() -> None:
    it = Catalogue(states=(BEFORE, "OPT1"), laws=laws(OPT1=Law(75, 0.22, 0.004, 0.75)))
    found = answer(made(it), "buys", "OPT1", "p95")

    assert found.text.startswith("OPT1 costs ")
    assert found.amount is not None
    assert found.amount.value < 0


def test_dates_that_differ_by_less_than_the_noise_are_not_called_bought() -> None:
    it = Catalogue(states=("before", "OPT1"), laws=laws(OPT1=LAWS[BEFORE]), **SMALL)
    noisy = {BEFORE: Affine(12 * MB, 904, 0.1), "OPT1": Affine(12 * MB, 905, 0.1, seed=9)}
    found = answer(made(it, database_bytes=noisy), "buys", "OPT1", "disk")

    assert "moves the date of disk by no more than the noise" in found.text


def test_where_no_date_moves_the_answer_is_what_is_better_today(usual: Forecast) -> None:
    found = answer(usual, "buys", "OPT2", "disk")

    assert found.text.startswith("OPT2 moves no date of disk (kept until 2029-12-31 either way): 8")
    assert found.text.endswith(" MB smaller.")
    assert found.unit == "bytes"


def test_a_difference_within_the_noise_is_not_called_one(usual: Forecast) -> None:
    found = answer(usual, "buys", "OPT4", "p95")

    assert "no difference that stands out from the noise" in found.text


# -- scenarios -------------------------------------------------------------------------------------------------------


def test_so_many_clients_at_once_need_as_many_connections_and_their_own_latency() -> None:
    found = made(scenario=Scenario(clients=84, until=UNTIL))

    assert answer(found, "connections", "").verdict == "not_met"
    assert "with 84 clients at once" in answer(found, "p95").text
    assert answer(found, "p95").verdict == "not_met"
    assert (
        "reaches far beyond what was measured: 5.2 times the most clients at once" in answer(found, "p95").assumptions
    )


def test_sizes_beyond_the_largest_measured_are_said_by_how_much(usual: Forecast) -> None:
    near, far = usual, made(scenario=Scenario(growth=10, until=UNTIL))

    assert not [each for each in near.assumptions if "beyond" in each]
    assert any("10.3 times the rows of today; measured were 4 times: beyond it" in each for each in far.assumptions)
    assert any(each.startswith("rows are added 10 times as fast") for each in far.assumptions)


# -- what there will be ----------------------------------------------------------------------------------------------


def test_2029_has_its_rows_bytes_and_partitions(usual: Forecast) -> None:
    rows, size, partitions = (
        answer(usual, "rows", "", "rows"),
        answer(usual, "bytes", subject="database"),
        answer(usual, "partitions"),
    )

    assert rows.amount is not None
    assert rows.amount.value == pytest.approx(637_000, rel=0.01)
    assert size.amount is not None
    assert size.amount.value == pytest.approx(577e6, rel=0.03)
    assert partitions.amount is not None
    assert partitions.amount.value == 20
    assert partitions.verdict == "met"


def test_without_the_daily_job_the_partitions_end_some_day() -> None:
    it = Catalogue()
    found = answer(made(it, scenario=Scenario(until=date(2034, 6, 30))), "partitions")

    assert found.verdict == "met_until"
    assert found.date == date(2030, 1, 1)
    assert "2034 is 3 years beyond them" in found.text


def test_planning_time_is_that_of_the_partitions_of_then() -> None:
    found = made(spread=0, plan=objectives(planning_ms=0.79))

    assert answer(found, "planning").verdict == "met_until"
    assert answer(found, "planning").date is not None
    assert answer(found, "planning", BEFORE).verdict == "met"


def test_a_refresh_is_held_against_its_own_interval() -> None:
    slow = {(RELEASE, "catalogue.search_names"): Affine(0.1, 100 / 330_000, 0.05)}
    found = answer(made(refresh_s=slow), "refresh")

    assert found.verdict == "met_until"
    assert found.objective == "a refresh takes at most 50% of its interval"


def test_a_view_that_nobody_refreshes_is_told() -> None:
    found = made(Catalogue(refresh_interval_s=None))

    assert answer(found, "refresh").verdict == "not_enough_data"
    assert "nobody schedules its refresh" in answer(found, "refresh").text
    assert found.verdict == "warn"


def test_memory_and_connections_are_held_against_the_servers_own() -> None:
    found = made(Catalogue(memory_bytes=2 * GB, connections_peak=60))

    assert answer(found, "connections", "").verdict == "met_until"
    assert answer(found, "memory").verdict == "not_met"


def test_the_release_takes_longer_with_the_rows_of_then() -> None:
    found = answer(made(spread=0), "apply")

    assert found.amount is not None
    assert found.amount.value == pytest.approx(29.6 * 1.93, rel=0.02)
    assert "most of it OPT1" in found.text


# -- the record ------------------------------------------------------------------------------------------------------

CATALOGUES = {
    "as it is": Catalogue(),
    "small disk": Catalogue(**SMALL),
    "no rate": Catalogue(calls_per_s=None),
    "flat": Catalogue(power=0),
    "short": Catalogue(first_day=date(2026, 2, 1)),
    "nothing told": Catalogue(
        disk_total_bytes=None, disk_free_bytes=None, memory_bytes=None, connections_peak=None, refresh_interval_s=None
    ),
    "saturated": Catalogue(laws=laws(**{state: Law(60, 0.9, 0, 0.9) for state in LAWS})),
    "retrograde": Catalogue(laws=laws(**{state: Law(60, 0.1, 0.2, 0.9) for state in LAWS})),
    "few states": Catalogue(states=TWO, clients=(1, 2, 4, 8), sizes=(1, 2), rounds=1),
}


@pytest.fixture(scope="module", params=CATALOGUES)
def each_forecast(request: pytest.FixtureRequest) -> Forecast:
    return made(CATALOGUES[request.param])


def test_a_forecast_is_the_same_each_time(usual: Forecast) -> None:
    assert made() == usual


def test_a_forecast_reads_back_as_it_was_written(each_forecast: Forecast) -> None:
    assert Forecast.from_dict(json.loads(json.dumps(each_forecast.to_dict(), allow_nan=False))) == each_forecast


def test_days_lie_in_order_and_within_the_scenario(each_forecast: Forecast) -> None:
    for each in each_forecast.answers:
        days = [day for day in (each.low, each.date, each.high) if day is not None]
        assert days == sorted(days), each
        assert all(NOW <= day <= UNTIL for day in days), each
        assert (each.verdict in ("not_met", "met_until")) == (each.date is not None), each
        assert "nan" not in each.text
        assert "inf " not in each.text
        if each.amount is not None:
            assert each.amount.low <= each.amount.value <= each.amount.high


def test_lines_of_plots_are_as_long_as_their_days(each_forecast: Forecast) -> None:
    for plot, lines in each_forecast.series.items():
        assert len({line.name for line in lines}) == len(lines), plot
        for line in lines:
            assert len(line.x) == len(line.value) == len(line.low) == len(line.high), (plot, line.name)
            assert len(line.x) <= 120


@given(
    st.lists(
        st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=6, max_size=6), min_size=1, max_size=5
    )
)  # fmt: skip
def test_the_first_day_over_lies_between_the_last_below_and_the_first_above(over: list[list[float]]) -> None:
    offsets = np.array([0.0, 7, 14, 21, 28, 30])
    for line, found in zip(over, first_over(np.array(over), offsets), strict=True):
        above = [n for n, value in enumerate(line) if not value <= 0]
        if not above:
            assert found == np.inf
        elif above[0] == 0:
            assert found == 0
        else:
            assert offsets[above[0] - 1] <= found <= offsets[above[0]]


def test_a_day_is_kept_within_its_own_interval() -> None:
    it = Catalogue(states=TWO)
    outlook = Outlook.of(it.measured(), truth(it), PLAN, Scenario(until=UNTIL), NOW)
    rising = np.linspace(0, 10, len(outlook.days))
    when = outlook.crosses(Draws(rising * 0, np.tile(rising, (400, 1))), 5)

    low, high = when.band()
    assert low <= when.value <= high


def test_models_that_are_not_used_are_among_the_assumptions() -> None:
    it = Catalogue()
    [report] = truth(it).reports
    missed = HeldOut(
        what="16 clients", measured=1, predicted=2, error=1, naive={"last rung": 1.1}, naive_error={"last rung": 0.1}
    )
    why = "worse than the last rung; the last rung is used"
    poor = report.model_copy(update={"used": False, "why": why, "held_out": (missed,)})

    assert "throughput: worse than the last rung; the last rung is used" in made(it, reports=(poor,)).assumptions


def answer_of(state: str, verdict: str, day: date | None = None, spread: int = 30) -> Answer:
    return Answer(
        question="p95", subject="p95", state=state, verdict=verdict, objective="p95 within 250 ms", text="",
        date=day, low=day and day - timedelta(days=spread), high=day and day + timedelta(days=spread),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("without", "having", "nearer"),
    [
        (answer_of("before", "met"), answer_of("OPT5", "met_until", date(2028, 4, 1)), True),
        (answer_of("before", "met_until", date(2029, 4, 1)), answer_of("OPT5", "met_until", date(2028, 4, 1)), True),
        (answer_of("before", "met_until", date(2028, 5, 1)), answer_of("OPT5", "met_until", date(2028, 4, 1)), False),
        (answer_of("before", "met"), answer_of("OPT5", "not_met"), True),
        (answer_of("before", "not_met"), answer_of("OPT5", "not_met"), False),
        (answer_of("before", "met"), answer_of("OPT5", "met"), False),
    ],
)
def test_a_release_that_brings_the_day_of_an_objective_nearer_is_a_warning_at_least(
    without: Answer, having: Answer, nearer: bool
) -> None:
    assert bool(brought_nearer([without, having], "OPT5")) is nearer
    if nearer and having.verdict == "met_until":
        assert verdict([without, having], "OPT5", date(2026, 11, 30), 12) == "warn"
