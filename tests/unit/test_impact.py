"""What live traffic felt: stalls count while the script runs, and silence is not good news."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comporta.demo.record import AcknowledgedWrite, Operation, TrafficRecord
from comporta.dryrun.impact import POINTS, felt_hazards, harm_hazards, summarise
from comporta.release.model import Budget

WINDOW = (100.0, 110.0)
BUDGET = Budget(longest_stall_ms=200)


# How long an operation takes when nothing is in its way: a stall is what it takes beyond that.
USUAL_S = 0.01


def operation(at: float, seconds: float = USUAL_S, *, kind: str = "by_id", error: str | None = None) -> Operation:
    return Operation(at=at, due=at, seconds=seconds, kind=kind, is_write=kind == "insert", error=error)


def at_rest(*kinds: str) -> list[Operation]:
    """Traffic before the script, enough of each kind to know what is usual."""
    return [operation(91 + i / 10, kind=kind) for kind in kinds for i in range(9)]


def record(*operations: Operation) -> TrafficRecord:
    writes = tuple(AcknowledgedWrite(each.at, 1, "geometrias", "insert") for each in operations if each.is_write)
    return TrafficRecord(90.0, 120.0, 50, 50, operations, writes)


def run(*operations: Operation, wait: float | None = None, lost: tuple[str, ...] = ()) -> dict[str, Any]:
    waited = None if wait is None else {"seconds": wait}
    return {
        "traffic": summarise(record(*at_rest("by_id"), *operations), WINDOW),
        "lost_writes": list(lost),
        "longest_wait_caused": waited,
    }


def found(taken: dict[str, Any]) -> list[tuple[str, str]]:
    return [(hazard.code, hazard.severity) for hazard in felt_hazards(taken, BUDGET)]


@pytest.mark.parametrize(
    ("at", "seconds", "phase"),
    [
        pytest.param(98.0, 1.0, "before", id="answered-before"),
        pytest.param(98.0, 2.0, "during", id="answered-at-the-start"),
        pytest.param(98.0, 20.0, "during", id="all-the-way-through"),
        pytest.param(105.0, 0.1, "during", id="within"),
        pytest.param(110.0, 1.0, "during", id="sent-at-the-end"),
        pytest.param(110.5, 1.0, "after", id="sent-after"),
    ],
)
def test_an_operation_belongs_to_the_script_when_it_was_under_way_with_it(
    at: float, seconds: float, phase: str
) -> None:
    phases = summarise(record(operation(at, seconds)), WINDOW)["phases"]
    assert [name for name, kinds in phases.items() if kinds["read"]] == [phase]


def test_the_longest_stall_is_looked_for_during_the_script_only() -> None:
    summary = summarise(
        record(
            *at_rest("by_id", "insert"),
            operation(96, 3.0),
            operation(101, 0.3 + USUAL_S),
            operation(102, 0.41, kind="insert"),
            operation(115, 5.0),
        ),
        WINDOW,
    )
    assert summary["longest_stall"]["kind"] == "insert"
    assert summary["longest_stall"]["at"] == 102
    assert summary["longest_stall"]["seconds"] == pytest.approx(0.4)
    assert summary["longest_read_stall"]["seconds"] == pytest.approx(0.3)
    assert summary["longest_write_stall"]["seconds"] == pytest.approx(0.4)


def test_an_operation_that_is_always_slow_is_not_stalled() -> None:
    slow = [operation(91 + i / 10, 0.8, kind="map") for i in range(9)]
    summary = summarise(record(*at_rest("by_id"), *slow, operation(101, 0.85, kind="map"), operation(102, 0.2)), WINDOW)
    assert summary["longest_stall"]["kind"] == "by_id"
    assert summary["longest_stall"]["seconds"] == pytest.approx(0.19)


def test_a_search_is_told_but_not_judged_since_its_time_depends_on_what_is_asked() -> None:
    summary = summarise(
        record(*at_rest("by_id"), operation(101, 2.5, kind="search"), operation(102, 0.5, kind="search")), WINDOW
    )
    assert summary["longest_stall"] is None
    assert summary["slow_by_themselves"] == {"search": {"n": 2, "median": 1.5, "max": 2.5}}


@pytest.mark.parametrize(
    ("rare", "stall"),
    [
        pytest.param([(101, 6.0)], 6.0, id="ran-once"),
        pytest.param([(101, 6.0), (102, 5.0)], 1.0, id="ran-twice-and-waited-both-times"),
        pytest.param([(95, 0.8), (101, 0.9)], 0.1, id="always-slow"),
        pytest.param([(101, 6.0), (102, 5.9), (115, 0.02)], 5.98, id="quick-again-afterwards"),
    ],
)
def test_a_stall_of_a_rare_kind_does_not_pass_for_usual(rare: list[tuple[float, float]], stall: float) -> None:
    operations = [operation(at, seconds, kind="rare") for at, seconds in rare]
    longest = summarise(record(*at_rest("by_id"), *operations), WINDOW)["longest_stall"]
    assert longest["kind"] == "rare"
    assert longest["seconds"] == pytest.approx(stall)


def test_a_faster_answer_than_usual_is_a_stall_of_nothing() -> None:
    assert summarise(record(*at_rest("by_id"), operation(101, 0.001)), WINDOW)["longest_stall"]["seconds"] == 0.0


def test_everything_is_counted_whenever_it_was() -> None:
    summary = summarise(
        record(
            operation(91, error="57014: cancelled"),
            operation(101, kind="insert"),
            operation(118, error="57014: cancelled"),
        ),
        WINDOW,
    )
    assert (summary["operations"], summary["failed"], summary["acknowledged_writes"]) == (3, 2, 1)
    assert summary["errors"] == ["57014: cancelled"]


def test_percentiles_are_of_reads_and_writes_apart_and_none_without_data() -> None:
    during = summarise(record(*(operation(100 + i / 100, i / 1000) for i in range(1, 102))), WINDOW)["phases"]["during"]
    assert during["write"] is None
    assert during["read"] == pytest.approx({"n": 101, "p50": 0.051, "p95": 0.096, "p99": 0.1, "max": 0.101})


def test_no_traffic_at_all_is_no_data_and_not_zero() -> None:
    summary = summarise(record(), WINDOW)
    assert summary["longest_stall"] is None
    assert summary["points"] == []
    assert summary["phases"]["during"] == {"read": None, "write": None}


@given(
    st.lists(
        st.tuples(st.floats(90, 120), st.floats(0, 30), st.sampled_from(["by_id", "insert"])), max_size=60
    ).map(lambda rows: [operation(at, seconds, kind=kind) for at, seconds, kind in rows])
)  # fmt: skip
def test_every_operation_is_in_exactly_one_phase(operations: list[Operation]) -> None:
    summary = summarise(record(*operations), WINDOW)
    counted = [numbers["n"] for kinds in summary["phases"].values() for numbers in kinds.values() if numbers]
    assert sum(counted) == len(operations)
    assert len(summary["points"]) == len(operations)


def test_the_points_of_a_long_run_are_bounded_and_keep_the_slowest() -> None:
    operations = [operation(100 + i / 1000, 0.001) for i in range(10_000)]
    operations[4321] = operation(104.321, 2.5)
    points = summarise(record(*operations), WINDOW)["points"]
    assert len(points) <= 2 * POINTS
    assert [4.321, 2500.0, "by_id", False] in points
    assert points == sorted(points, key=lambda point: point[0])


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        pytest.param(run(operation(101)), [], id="nothing-was-felt"),
        pytest.param(run(operation(101, 0.2 + USUAL_S - 1e-6)), [], id="a-stall-of-just-the-budget"),
        pytest.param(
            run(operation(101, 0.3 + USUAL_S), wait=0.25), [("F04", "stop")], id="a-stall-behind-a-lock-of-the-script"
        ),
        pytest.param(
            run(operation(101, 0.3 + USUAL_S), wait=0.1), [("F04", "warn")], id="a-stall-for-some-other-reason"
        ),
        pytest.param(run(operation(101, 0.3 + USUAL_S)), [("F04", "warn")], id="a-stall-without-any-wait"),
        pytest.param(run(operation(95, 0.3)), [("F03", "warn")], id="no-traffic-during-the-script"),
        pytest.param(run(), [("F03", "warn")], id="no-traffic-at-all"),
        pytest.param(run(operation(101, error="XX000: no")), [("F02", "stop")], id="a-failed-operation"),
        pytest.param(run(operation(101), lost=("row 1",)), [("F01", "stop")], id="a-lost-write"),
        pytest.param(
            run(operation(101, 0.3 + USUAL_S, error="XX000: no"), wait=0.3, lost=("row 1",)),
            [("F01", "stop"), ("F02", "stop"), ("F04", "stop")],
            id="all-of-it",
        ),
    ],
)
def test_what_people_would_have_felt_is_judged(taken: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(taken) == expected


def test_a_hazard_carries_its_numbers() -> None:
    [hazard] = felt_hazards(run(operation(101, 0.3 + USUAL_S), wait=0.25), BUDGET)
    assert hazard.evidence == "300 ms, budget 200 ms; of it at most 250 ms behind a lock of this script"
    [hazard] = felt_hazards(run(operation(101, error="XX000: no")), BUDGET)
    assert hazard.evidence == "1 of 10 operations, such as XX000: no"


def test_a_write_lost_while_verify_ran_is_as_bad_as_one_lost_while_apply_ran() -> None:
    """Verify has no budget for stalls, but what it loses or breaks counts."""
    harmed = run(operation(101), operation(102, error="57014: cancelled"), lost=("id 7",))
    assert {hazard.code: hazard.severity for hazard in harm_hazards(harmed)} == {"F01": "stop", "F02": "stop"}
    assert harm_hazards(run(operation(101, 5.0))) == []
