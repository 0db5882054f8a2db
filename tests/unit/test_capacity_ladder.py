"""Which rungs a plan owes, which are left after a stop, and what pgbench's log says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from comporta.capacity.climber import Climber, LadderStopped, Objection
from comporta.capacity.ladder import Climb, facts_key, owed, rungs_of, stop_reason
from comporta.capacity.model import Latency, Rung, RungResult, StateFacts
from comporta.capacity.pgbench import Load, Pass, WeightedScript, Window, answers_of, load_of
from comporta.release.capacity import CapacityPlan, LadderPlan
from comporta.reports.folder import RunFolder

STATES = ("before", "OPT1", "OPT2")
LADDER = LadderPlan(
    clients=(1, 2, 4), sizes=(1, 2), rounds=2, seconds=1, each_change_clients=(2,), each_change_sizes=(1,)
)
NOTHING = Latency(mean_ms=1, p50_ms=1, p95_ms=1, p99_ms=1)


def result(rung: Rung, stop: str | None = None) -> RungResult:
    return RungResult(
        state=rung.state, size=rung.size, clients=rung.clients, round=rung.round, rows=10, seconds=1, transactions=5, failed=0,
        throughput_per_s=5, latency=NOTHING, by_transaction={}, calls={}, wal_bytes=0, stop=stop,
    )  # fmt: skip


@pytest.fixture
def climb(tmp_path: Path) -> Climb:
    folder = RunFolder.make(tmp_path, "stage4", "run", datetime(2026, 11, 30, tzinfo=UTC))
    return Climb(folder, CapacityPlan(), LADDER, STATES)


def measure(climb: Climb, rungs: Iterable[Rung], stop_at: int | None = None) -> None:
    for rung in rungs:
        said = "too slow" if rung.clients == stop_at else None
        climb.folder.write(rung.key, result(rung, said).to_dict())


def test_the_whole_ladder_is_owed_at_both_ends_of_the_release_and_a_short_one_in_between() -> None:
    assert [rung.clients for rung in rungs_of(LADDER, STATES, "before", 1)] == [1, 2, 4, 1, 2, 4]
    assert [rung.clients for rung in rungs_of(LADDER, STATES, "before", 2)] == [1, 2, 4, 1, 2, 4]
    assert [rung.clients for rung in rungs_of(LADDER, STATES, "OPT1", 1)] == [2]
    assert rungs_of(LADDER, STATES, "OPT1", 2) == ()
    assert len(owed(LADDER, STATES)) == 6 + 1 + 6 + 6 + 6


def test_each_round_climbs_the_whole_ladder_so_that_a_slow_minute_does_not_meet_one_rung_twice() -> None:
    assert [(r.round, r.clients) for r in rungs_of(LADDER, STATES, "before", 1)] == [
        (1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4),
    ]  # fmt: skip


def test_what_was_measured_is_not_missing(climb: Climb) -> None:
    every = rungs_of(LADDER, STATES, "before", 1)
    measure(climb, every[:4])
    assert climb.missing("before", 1) == every[4:]
    assert climb.left() == len(owed(LADDER, STATES)) - 4


def test_nothing_beside_or_above_a_rung_that_said_stop_is_climbed(climb: Climb) -> None:
    every = rungs_of(LADDER, STATES, "before", 1)
    measure(climb, every[:2], stop_at=2)
    assert [(r.round, r.clients) for r in climb.missing("before", 1)] == [(2, 1)]
    assert climb.stops() == ("before · 1x rows · 2 client(s): too slow",)


def test_a_stop_at_one_size_says_nothing_of_another(climb: Climb) -> None:
    measure(climb, rungs_of(LADDER, STATES, "before", 1)[:1], stop_at=1)
    assert climb.missing("before", 1) == ()
    assert len(climb.missing("before", 2)) == 6


def test_a_state_is_done_when_its_facts_and_its_rungs_stand(climb: Climb) -> None:
    measure(climb, rungs_of(LADDER, STATES, "before", 1))
    assert not climb.is_done("before", 1)
    facts = StateFacts(state="before", size=1, rows=10, database_bytes=1, relations=())
    climb.folder.write(facts_key("before", 1), facts.to_dict())
    assert climb.is_done("before", 1)
    assert climb.facts() == (facts,)


def test_a_ladder_that_does_not_rise_and_a_change_rung_off_the_ladder_are_refused() -> None:
    with pytest.raises(ValidationError, match="must rise from rung to rung"):
        LadderPlan(clients=(4, 2))
    with pytest.raises(ValidationError, match=r"each_change_clients: \[3\] is not on the ladder"):
        LadderPlan(clients=(1, 2), each_change_clients=(3,))


def load(**changed: object) -> Load:
    values: dict[str, object] = {
        "seconds": 1, "transactions": 99, "failed": 0, "throughput_per_s": 99, "latency": NOTHING,
        "by_transaction": {}, "calls": {}, "cut_off": False,
    }  # fmt: skip
    return Load(**(values | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (load(), None),
        (load(failed=2), "2 of 101 transactions failed; the plan stops at 1.00%"),
        (load(latency=NOTHING.model_copy(update={"p95_ms": 6000.0})), "p95 was 6000 ms; the plan stops at 5000 ms"),
        (load(cut_off=True), "a transaction was not answered within 60 s, and the load was cut off"),
    ],
)
def test_the_ladder_stops_by_the_rules_of_the_plan(seen: Load, said: str | None) -> None:
    assert stop_reason(seen, CapacityPlan()) == said


SCRIPTS = (WeightedScript("read", Path("read.sql"), 3), WeightedScript("write", Path("write.sql"), 1))


def log(*lines: tuple[int, float | str, int, float]) -> pd.DataFrame:
    """Lines of (client, ms or a word, script, second of its end)."""
    return pd.DataFrame(
        [
            (client, 0, ms * 1000 if isinstance(ms, float) else ms, script, int(at), round(at % 1 * 1e6))
            for client, ms, script, at in lines
        ],
        columns=["client", "number", "time_us", "script", "epoch_s", "epoch_us"],
    )


def seen_in(lines: pd.DataFrame, warm_up_s: float = 0.0, clients: int = 1, aborted: int = 0) -> Load:
    return load_of([Pass(answers_of(lines, Window(warm_up_s, 1.0)), aborted, False)], SCRIPTS, clients, 1.0)


def test_what_begins_before_the_window_or_after_it_does_not_count_but_keeps_its_client_busy() -> None:
    """Of the window's second the read before it takes 0.2 s, and the write after it nothing."""
    seen = seen_in(log((0, 1200.0, 0, 101.2), (0, 700.0, 1, 101.9), (0, 100.0, 0, 102.0), (0, 500.0, 1, 102.5)), 1.0)
    assert seen.calls == {"read": 1, "write": 1}
    assert seen.latency.mean_ms == 250
    assert seen.throughput_per_s == pytest.approx(4)


@pytest.mark.parametrize(
    ("slowest_s", "warm_up_s", "seconds", "tail_s"),
    [(0.25, 0.5, 2.25, 0.25), (0.5, 0.5, 2.0, 0.5), (0.75, 0.5, 2.75, 0.75), (4.0, 2.0, 6.0, 4.0)],
)
def test_a_rung_is_long_enough_for_its_slowest_transactions(
    slowest_s: float, warm_up_s: float, seconds: float, tail_s: float
) -> None:
    """They pile up in the warm-up, are counted for longer than one takes, and end under load."""
    window = Window.around(slowest_s, seconds=2, warm_up_s=0.5)
    assert window == Window(warm_up_s, seconds, tail_s)
    assert window.whole_s == int(window.whole_s)


def test_the_rate_is_that_of_the_mix_however_often_chance_drew_a_kind() -> None:
    """Three reads of 100 ms for each write of 700 ms take 1 s; drawn were one of each, which took 0.8 s."""
    seen = seen_in(log((0, 100.0, 0, 100.1), (0, 700.0, 1, 100.8), (0, 100.0, 0, 100.9), (0, 100.0, 0, 101.0)))
    assert seen.latency.mean_ms == 250
    assert seen.throughput_per_s == pytest.approx(4)
    twice = seen_in(log((0, 100.0, 0, 100.1), (0, 700.0, 1, 100.8)))
    assert twice.latency.mean_ms == 250
    assert twice.throughput_per_s == pytest.approx(0.8 * 4)  # the client was busy for 0.8 s of the second


def test_a_percentile_weighs_each_kind_by_the_mix() -> None:
    """One transaction in four of the mix is a write, though one in three was drawn."""
    seen = seen_in(log((0, 100.0, 0, 100.1), (0, 200.0, 0, 100.3), (0, 700.0, 1, 101.0)))
    assert (seen.latency.p50_ms, seen.latency.p95_ms) == (200, 700)


def test_a_transaction_under_way_at_the_end_counts_with_all_its_time() -> None:
    seen = seen_in(log((0, 100.0, 0, 100.1), (0, 100.0, 0, 100.9), (1, 3000.0, 1, 103.2)), clients=2)
    assert seen.latency.p99_ms == 3000
    assert seen.by_transaction["write"].p50_ms == 3000


def test_failed_transactions_are_counted_and_have_no_time() -> None:
    seen = seen_in(log((0, 100.0, 0, 100.1), (0, "deadlock", 1, 100.2)), aborted=1)
    assert (seen.transactions, seen.failed) == (1, 2)
    assert set(seen.by_transaction) == {"read"}


def climber(climb: Climb, answers: Iterable[Objection | None], said: list[str]) -> Climber:
    """One whose breaker gives these answers in turn; it has no servers."""
    nothing: Any = None
    spoken = iter(answers)
    return Climber(
        climb=climb, release=nothing, images=nothing, growth=nothing, scripts=(), owner="", breaker=lambda: next(spoken),
        say=said.append,
    )  # fmt: skip


OPEN = Objection("latency: open since 10:00 UTC", passes=True)
HELD = Objection("latency: held open by ana", passes=False)


def test_no_load_is_put_on_until_an_open_breaker_has_closed(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comporta.capacity.climber.LOOK_AGAIN_S", 0)
    said: list[str] = []
    climber(climb, [OPEN, OPEN, None], said).wait_for_leave(Rung("before", 1, 4, 1))
    assert said == ["no load for now, 300 s at most: latency: open since 10:00 UTC"]


@pytest.mark.parametrize(
    ("answers", "patience", "why"),
    [
        ([HELD], 300, "held open by ana"),
        ([OPEN, HELD], 300, "held open by ana"),
        ([OPEN], 0, "open since 10:00 UTC"),
        ([OPEN] * 1_000_000, 0.001, "has not gone away in 0.001 s"),
    ],
)
def test_the_ladder_ends_when_a_breaker_is_held_or_stays_open(
    climb: Climb, monkeypatch: pytest.MonkeyPatch, answers: list[Objection], patience: float, why: str
) -> None:
    monkeypatch.setattr("comporta.capacity.climber.LOOK_AGAIN_S", 0)
    plan = CapacityPlan.model_validate({"stop": {"breaker_s": patience}})
    with pytest.raises(LadderStopped) as stopped:
        climber(replace(climb, plan=plan), answers, []).wait_for_leave(Rung("before", 1, 4, 1))
    assert stopped.value.message.endswith(why)
