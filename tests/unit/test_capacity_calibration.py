"""A forecast is held against what production shows, number by number; what cannot be compared says why and counts for nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from tests.unit import capacity_story as story

from comporta.capacity.calibration import Predicted, compare, whole_rollout
from comporta.capacity.compared import Compared
from comporta.capacity.model import MixedTransaction, MonthCount
from comporta.capacity.production import Production
from comporta.ledger import Event, EventType

DAY = date(2027, 5, 30)  # half a year after the forecast
WHEN = datetime(2027, 5, 30, 12, tzinfo=UTC)
TARGET = "4711/gis"
WHOLE = story.measured(noise=0.0)


def predicted(**more: Any) -> Predicted:
    told: dict[str, Any] = {
        "forecast": story.forecast(),
        "target": WHOLE.target,
        "mix": WHOLE.mix,
        "rungs": WHOLE.rungs,
        "release": "OPT5",
        "canaries_p95_ms": 40.0,
    }
    return Predicted(**(told | more))


def production(*, rows: int = 341_000, **more: Any) -> Production:
    geometrias, annotations, edits = WHOLE.target.histories
    months = (*geometrias.months, *(MonthCount(month=date(2027, month, 1), rows=6_000) for month in range(1, 6)))
    grown = geometrias.model_copy(update={"rows": rows, "until": WHEN, "months": months})
    facts = WHOLE.target.model_copy(update={"at": WHEN, "histories": (grown, annotations, edits)})
    return Production(**({"target": facts, "mix": WHOLE.mix} | more))


def found(predicted: Predicted, seen: Production) -> dict[str, Compared]:
    items, _ = compare(predicted, seen, DAY)
    return {f"{each.what} {each.subject}".strip(): each for each in items}


def why(predicted: Predicted, seen: Production) -> dict[str, str]:
    _, missing = compare(predicted, seen, DAY)
    return {each.what: each.why for each in missing}


def test_rows_are_compared_with_the_line_of_the_forecast_on_that_day() -> None:
    rows = found(predicted(), production())["rows catalogue.geometrias"]
    assert rows.predicted == pytest.approx(341_000)
    assert rows.error == pytest.approx(0)
    assert rows.inside is True


def test_a_value_outside_of_its_interval_is_not_inside() -> None:
    rows = found(predicted(), production(rows=500_000))["rows catalogue.geometrias"]
    assert rows.inside is False
    assert rows.error == pytest.approx((500_000 - 341_000) / 500_000)


def test_growth_is_that_of_the_last_month_that_is_over() -> None:
    growth = found(predicted(), production())["growth a month catalogue.geometrias"]
    assert (growth.measured, growth.note) == (6_000, "2027-04, the last month that is over")
    assert growth.predicted == pytest.approx(82_000 / 12, rel=0.1)
    assert growth.inside is None


def test_disk_is_what_is_in_use_by_whatever() -> None:
    disk = found(predicted(), production())["disk in use"]
    assert disk.measured == 18 * 1024**3


def test_bytes_are_compared_by_table_and_kind_and_as_a_whole() -> None:
    items = found(predicted(), production())
    database = items["bytes database"]
    assert (database.predicted, database.measured) == (pytest.approx(3.55e8), WHOLE.target.database_bytes)
    assert items["bytes catalogue.annotations table"].measured == 110 * 30_000 + 4 * 8192


def test_a_refresh_is_compared_with_the_line_of_its_view_under_the_release() -> None:
    refresh = found(predicted(), production(refresh_s=1.8))["refresh catalogue.search_names"]
    assert (refresh.predicted, refresh.error) == (pytest.approx(1.7), pytest.approx(0.1 / 1.8))


def test_means_since_the_forecast_are_compared_because_percentiles_are_not_recorded() -> None:
    later = WHOLE.mix.model_copy(
        update={
            "transactions": tuple(
                each.model_copy(update={"calls": each.calls * 2, "mean_ms": 3.0}) for each in WHOLE.mix.transactions
            )
        }
    )
    mean = found(predicted(), production(mix=later))["mean read_id"]
    assert mean.measured == pytest.approx(2.0)  # twice the calls at 3 ms, of which the first half took 4 ms
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low <= mean.predicted <= mean.high < 4.0
    assert "no percentiles" in mean.note


def test_statistics_that_were_reset_since_are_taken_as_they_are() -> None:
    reset = WHOLE.mix.model_copy(update={"since": WHEN})
    assert found(predicted(), production(mix=reset))["mean read_id"].measured == pytest.approx(4.0)


def test_a_transaction_that_hardly_ran_since_is_not_compared() -> None:
    few = MixedTransaction(name="read_id", weight=1, calls=5, mean_ms=1)
    seen = production(mix=WHOLE.mix.model_copy(update={"since": WHEN, "transactions": (few,)}))
    assert why(predicted(), seen)["mean, read_id"] == "5 calls since"


def test_canaries_are_compared_by_what_the_release_changed_on_the_shadow() -> None:
    canaries = found(predicted(), production(canaries_p95_ms=15.0))["p95 of the canaries"]
    assert canaries.low is not None
    assert canaries.high is not None
    assert canaries.low <= canaries.predicted <= canaries.high < 40
    assert "other queries than the load's" in canaries.note


def test_what_production_does_not_tell_is_named_and_not_counted() -> None:
    silent = production()
    silent = replace(
        silent, target=silent.target.model_copy(update={"connections_peak": None, "wal_bytes_per_s": None})
    )
    missing = why(predicted(), silent)
    assert missing["connections"] == missing["WAL"] == "production does not tell"
    assert "no sample since" in missing["p95 of the canaries"]


def test_a_load_that_nobody_recorded_is_not_compared() -> None:
    unrecorded = WHOLE.mix.model_copy(update={"recorded": False})
    assert "recorded no load" in why(predicted(), production(mix=unrecorded))["mean of the transactions"]


def test_a_day_beyond_the_forecast_has_no_prediction() -> None:
    items, missing = compare(predicted(), production(), date(2035, 1, 1))
    assert all(each.what in ("mean", "p95 of the canaries", "growth a month") for each in items)
    assert {each.why for each in missing if each.what == "disk in use"} == {"the forecast does not reach so far"}


def event(number: int, event_type: EventType, change: str, target: str = TARGET) -> Event:
    return Event(
        id=number, stream="rollout/r", version=number, feature="r", event_type=event_type, workflow="rollout", phase=change,
        payload={"target": target, "run": "x"}, actor="a", timestamp=WHEN, idempotency_key=None,
    )  # fmt: skip


def carried(change: str, start: int, target: str = TARGET) -> list[Event]:
    steps = (
        EventType.ROLLOUT_APPLY_STARTED,
        EventType.ROLLOUT_APPLY_FINISHED,
        EventType.ROLLOUT_VERIFY_PASSED,
        EventType.ROLLOUT_WATCH_PASSED,
    )
    return [event(start + nth, step, change, target) for nth, step in enumerate(steps)]


DONE = [*carried("A", 1), *carried("B", 5), event(9, EventType.ROLLOUT_FINISHED, "outcome")]
BACK = [event(10, EventType.ROLLBACK_STARTED, "B"), event(11, EventType.ROLLBACK_FINISHED, "B")]


@pytest.mark.parametrize(
    ("events", "whole"),
    [
        ([], None),
        (carried("A", 1), None),
        (DONE[:-1], None),
        (DONE, (9, 1)),
        ([*DONE, event(10, EventType.ROLLOUT_FINISHED, "outcome")], (9, 1)),
        ([*DONE, *BACK], None),
        ([*DONE, *BACK, *carried("B", 12), event(16, EventType.ROLLOUT_FINISHED, "outcome")], (16, 1)),
        (
            [*carried("A", 1, "1/other"), *carried("B", 5, "1/other"), event(9, EventType.ROLLOUT_FINISHED, "outcome")],
            None,
        ),
    ],
    ids=[
        "nothing",
        "one change",
        "no end yet",
        "whole",
        "ended again",
        "rolled back",
        "carried again",
        "another target",
    ],
)
def test_a_rollout_is_whole_when_every_change_is_in_place_and_its_end_is_recorded(
    events: list[Event], whole: tuple[int, int] | None
) -> None:
    found = whole_rollout(events, ["A", "B"], TARGET)
    assert (found and (found.finished, found.began)) == whole
