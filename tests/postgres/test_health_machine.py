"""No order of samples, questions and holds brings a breaker where it must not be.

A model of a breaker, written apart from the database's and by other means (it keeps every sample and counts anew each time), says
of each call what must come of it; hypothesis looks for a sequence in which the database says something else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.postgres.health_desk import TARGET, HealthDesk, open_desk

from comporta.health import NotHeld
from comporta.health.sample import Sample, Verdict
from comporta.release.health import HealthPlan

PLAN = HealthPlan(
    every_s=1, window_s=12, min_samples=3, bad_rate=0.5, slow_rate=0.6, open_s=7, probes=2, stale_s=5, timeout_ms=100
)
BREAKER = "latency"
HOLDERS = ("one", "two", "three")
PEOPLE = ("ana", "bia")

# Each run of the machine is of a release of its own, since it starts over on the same database.
RELEASES = (f"r{number}" for number in itertools.count())

holders = st.sampled_from(HOLDERS)
verdicts = st.sampled_from(("ok", "ok", "bad", "no data"))


@dataclass(frozen=True)
class Seen:
    at: int
    verdict: Verdict
    slow: int
    probe: bool


@dataclass
class Expected:
    """What the model knows of one breaker; times are seconds since the run began."""

    now: int = 0
    state: str = "closed"
    opened_at: int = 0
    counted_from: int = -1_000_000
    probing_since: int = 0
    seen: list[Seen] = field(default_factory=list)
    sampler: tuple[str, int] | None = None
    prober: tuple[str, int] | None = None
    held: dict[str, str] = field(default_factory=dict)

    def take_sampling(self, who: str) -> bool:
        if self.sampler is None or self.sampler[0] == who or self.sampler[1] <= self.now:
            self.sampler = (who, self.now + int(PLAN.stale_s))
            return True
        return False

    def admit(self, who: str) -> bool:
        if self.state == "closed" or (self.state == "open" and self.now < self.opened_at + PLAN.open_s):
            return False
        if self.prober is not None and self.prober[0] != who and self.prober[1] > self.now:
            return False
        if self.state == "open":
            self.state, self.probing_since = "half-open", self.now
        self.prober = (who, self.now + int(PLAN.stale_s))
        return True

    def report(self, who: str, verdict: Verdict, slow: int, probe: bool) -> bool:
        sampling = self.sampler is not None and self.sampler[0] == who
        if sampling:
            self.sampler = (who, self.now + int(PLAN.stale_s))
        is_probe = (
            probe and self.state == "half-open" and self.prober is not None and self.prober[0] == who
            and self.prober[1] > self.now
        )  # fmt: skip
        if is_probe:
            self.prober = None
        if not sampling and not is_probe:
            return False
        self.seen.append(Seen(self.now, verdict, slow, is_probe))
        if self.state == "half-open":
            self._go_on(verdict)
        elif self.state == "closed" and self.tripped():
            self.trip()
        return True

    def _go_on(self, verdict: Verdict) -> None:
        if verdict == "bad":
            self.trip()
            return
        probes = [each.verdict for each in self.seen if each.probe and each.at >= self.probing_since]
        row = len(list(itertools.takewhile(lambda one: one == "ok", reversed(probes))))
        if self.seen[-1].probe and row >= PLAN.probes:
            self.state, self.counted_from = "closed", self.probing_since

    def trip(self) -> None:
        self.state, self.opened_at, self.prober = "open", self.now, None

    def window(self) -> list[Seen]:
        start = {"closed": self.counted_from, "half-open": self.probing_since}.get(self.state, -1_000_000)
        return [each for each in self.seen if each.at > self.now - PLAN.window_s and each.at >= start]

    def tripped(self) -> bool:
        with_data = [each for each in self.window() if each.verdict != "no data"]
        if len(with_data) < PLAN.min_samples:
            return False
        bad = sum(each.verdict == "bad" for each in with_data)
        slow = sum(each.slow for each in self.window())
        return bad >= PLAN.bad_rate * len(with_data) or slow >= PLAN.slow_rate * RUNS * len(self.window())

    def health(self) -> str:
        if self.held or self.state != "closed":
            return "bad"
        with_data = [each for each in self.window() if each.verdict != "no data"]
        fresh = [each for each in self.seen if each.verdict != "no data" and each.at > self.now - PLAN.stale_s]
        return "ok" if fresh and len(with_data) >= PLAN.min_samples else "no data"


RUNS = 2


def machine(desk: HealthDesk) -> type[RuleBasedStateMachine]:
    class Breakers(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.release = next(RELEASES)
            self.expected = Expected()
            self.sample("one")

        @rule(seconds=st.integers(1, 8))
        def pass_time(self, seconds: int) -> None:
            desk.pass_time(seconds)
            self.expected.now += seconds

        @rule(who=holders)
        def sample(self, who: str) -> None:
            assert desk.book.become_sampler(self.release, TARGET, who, PLAN) == self.expected.take_sampling(who)

        @rule(who=holders, verdict=verdicts, slow=st.sampled_from((0, 0, 0, 1, RUNS)), probe=st.booleans())
        def report(self, who: str, verdict: Verdict, slow: int, probe: bool) -> None:
            sent = Sample(breaker=BREAKER, verdict=verdict, why="x", runs=RUNS, slow=slow, probe=probe)
            taken = desk.book.report(self.release, TARGET, who, [sent], PLAN).taken
            assert (taken != ()) == self.expected.report(who, verdict, slow, probe)

        @rule(verdicts=st.lists(verdicts, min_size=1, max_size=4), worst=st.booleans())
        def look_on(self, verdicts: list[Verdict], worst: bool) -> None:
            """A second, a look, as who samples does; on a sick target, nothing is better than bad."""
            assert self.expected.sampler is not None
            for verdict in verdicts:
                self.pass_time(1)
                self.report(self.expected.sampler[0], "bad" if worst and verdict == "ok" else verdict, 0, False)

        @rule(who=holders)
        def admit(self, who: str) -> None:
            assert desk.book.admit(self.release, TARGET, BREAKER, who, PLAN) == self.expected.admit(who)

        @precondition(lambda self: self.expected.state != "closed")
        @rule(who=holders, verdicts=st.lists(verdicts, min_size=1, max_size=3))
        def probe(self, who: str, verdicts: list[Verdict]) -> None:
            """As the monitor does: ask, look, report."""
            for verdict in verdicts:
                self.pass_time(int(PLAN.open_s) if self.expected.state == "open" else 1)
                self.admit(who)
                self.report(who, verdict, 0, True)

        @precondition(lambda self: len(self.expected.held) < 2)
        @rule(who=st.sampled_from(PEOPLE), breaker=st.sampled_from((BREAKER, "all")))
        def hold(self, who: str, breaker: str) -> None:
            desk.book.hold(self.release, breaker, actor=who, reason="x")
            self.expected.held[f"{breaker} {who}"] = breaker

        @rule(breaker=st.sampled_from((BREAKER, "all")))
        def release_hold(self, breaker: str) -> None:
            mine = [key for key, what in self.expected.held.items() if what == breaker]
            if not mine:
                with pytest.raises(NotHeld):
                    desk.book.release(self.release, breaker, actor="eva", reason="y")
                return
            assert len(desk.book.release(self.release, breaker, actor="eva", reason="y")) == len(mine)
            for key in mine:
                del self.expected.held[key]

        @invariant()
        def the_database_says_the_same(self) -> None:
            found = desk.book.look(self.release, PLAN)
            (one,) = (each for each in found.breakers if each.name == BREAKER)
            assert one.position == self.expected.state
            held = [key for key, what in self.expected.held.items() if what == "all"]
            assert one.state == self.expected.health() or (held and one.state != "bad")
            if self.expected.health() == "bad":
                assert found.state == "bad"
            if self.expected.seen:
                window = self.expected.window()
                assert (one.n, one.no_data) == (
                    sum(each.verdict != "no data" for each in window),
                    sum(each.verdict == "no data" for each in window),
                )

    return Breakers


@pytest.fixture
def desk(control: str) -> Iterator[HealthDesk]:
    with open_desk(control) as made:
        yield made


@pytest.mark.timeout(600)
def test_no_sequence_brings_a_breaker_where_the_model_does_not(desk: HealthDesk) -> None:
    run_state_machine_as_test(
        machine(desk),
        settings=settings(
            max_examples=80,
            stateful_step_count=50,
            derandomize=True,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert desk.differences() == []
    counted = dict(desk.owner.execute("select event_type, count(*) from comporta.event group by 1").fetchall())
    assert set(counted) == {"breaker_opened", "breaker_probing", "breaker_closed", "breaker_held", "breaker_released"}
    assert min(counted.values()) > 20, "too few of a kind to say anything"
