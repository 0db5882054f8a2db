"""The load ladder: which rungs a plan owes, which stand, and where it ends. What was measured is never measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comporta.capacity.model import BEFORE, Rung, RungResult, StateFacts
from comporta.capacity.pgbench import Load
from comporta.release.capacity import CapacityPlan, LadderPlan
from comporta.release.model import Release
from comporta.reports.folder import RunFolder


def states_of(release: Release) -> tuple[str, ...]:
    """Before the release, and after each of its changes."""
    return (BEFORE, *(change.name for change in release.changes))


def rungs_of(plan: LadderPlan, states: Sequence[str], state: str, size: float) -> tuple[Rung, ...]:
    """The rungs of a state at a size: the whole ladder at both ends of the release, in between what the plan has for it."""
    clients: Sequence[int] = plan.clients
    rounds = plan.rounds
    if state not in (states[0], states[-1]):
        clients, rounds = plan.each_change_clients if size in plan.each_change_sizes else (), 1
    return tuple(Rung(state, size, each, number) for number in range(1, rounds + 1) for each in clients)


def owed(plan: LadderPlan, states: Sequence[str]) -> tuple[Rung, ...]:
    """Every rung of the plan, in the order of the climb."""
    return tuple(rung for size in plan.sizes for state in states for rung in rungs_of(plan, states, state, size))


def stop_reason(load: Load, plan: CapacityPlan) -> str | None:
    """Why nothing higher is climbed after this rung; None while all is well."""
    stop, tried = plan.stop, load.transactions + load.failed
    if load.cut_off:
        return f"a transaction was not answered within {stop.rung_s:g} s, and the load was cut off"
    if tried and load.failed / tried > stop.failed_share:
        return f"{load.failed} of {tried} transactions failed; the plan stops at {stop.failed_share:.2%}"
    if load.latency.p95_ms > stop.p95_ms:
        return f"p95 was {load.latency.p95_ms:.0f} ms; the plan stops at {stop.p95_ms:g} ms"
    return None


@dataclass(frozen=True)
class Climb:
    """What was measured so far: each rung and each state is one file of the run's folder."""

    folder: RunFolder
    plan: CapacityPlan
    ladder: LadderPlan
    states: tuple[str, ...]

    def results(self) -> tuple[RungResult, ...]:
        """The rungs that were measured, in the order of the climb."""
        return tuple(self._result(rung) for rung in owed(self.ladder, self.states) if self.folder.has(rung.key))

    def facts(self) -> tuple[StateFacts, ...]:
        """The states that were looked at."""
        every = ((state, size) for size in self.ladder.sizes for state in self.states)
        return tuple(
            StateFacts.from_dict(self.folder.read(facts_key(state, size)))
            for state, size in every
            if self.folder.has(facts_key(state, size))
        )

    def missing(self, state: str, size: float) -> tuple[Rung, ...]:
        """The rungs of a state and size that are still to be measured: none beside or above one that said stop."""
        every = rungs_of(self.ladder, self.states, state, size)
        done = [self._result(rung) for rung in every if self.folder.has(rung.key)]
        ceiling = min((result.clients for result in done if result.stop), default=None)
        return tuple(
            rung for rung in every if not self.folder.has(rung.key) and (ceiling is None or rung.clients < ceiling)
        )

    def is_done(self, state: str, size: float) -> bool:
        """True when nothing of a state and size is left to be measured."""
        return self.folder.has(facts_key(state, size)) and not self.missing(state, size)

    def left(self) -> int:
        """Rungs still to be measured, over all states and sizes."""
        return sum(len(self.missing(state, size)) for size in self.ladder.sizes for state in self.states)

    def stops(self) -> tuple[str, ...]:
        """Where the ladder ended early, and why."""
        return tuple(
            f"{result.state} · {result.size:g}x rows · {result.clients} client(s): {result.stop}"
            for result in self.results()
            if result.stop
        )

    def _result(self, rung: Rung) -> RungResult:
        return RungResult.from_dict(self.folder.read(rung.key))


def facts_key(state: str, size: float) -> str:
    """The name of the file that holds the facts of a state at a size."""
    return f"facts-{state}-{size:g}x"
