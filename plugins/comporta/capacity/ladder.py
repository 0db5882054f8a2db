"""The load ladder: which rungs a plan owes, and how a clone is brought to each. What was measured is never measured again."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from comporta.capacity.measures.clone import grow, load_variables, make_steady, wal_position
from comporta.capacity.measures.state import state_facts
from comporta.capacity.model import BEFORE, Mix, Rung, RungResult, StateFacts
from comporta.capacity.pgbench import Load, LoadScript, run_load
from comporta.errors import ComportaError
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.release.capacity import CapacityPlan, LadderPlan
from comporta.release.model import Release
from comporta.reports.folder import RunFolder
from comporta.shadow.images import Images

# Why the target must not be loaded beside now; None when nothing speaks against it.
Breaker = Callable[[], str | None]
Say = Callable[[str], None]


class LadderStopped(ComportaError):
    """The ladder is not climbed on for now: a breaker is open, or the shadow has no room. What was measured is kept."""


def states_of(release: Release) -> tuple[str, ...]:
    """Before the release, and after each of its changes."""
    return (BEFORE, *(change.name for change in release.changes))


def rungs_of(plan: LadderPlan, states: Sequence[str], state: str, size: float) -> tuple[Rung, ...]:
    """The rungs of a state at a size: the whole ladder at both ends of the release, in between what the plan has for it."""
    clients: Sequence[int] = plan.clients
    if state not in (states[0], states[-1]):
        clients = plan.each_change_clients if size in plan.each_change_sizes else ()
    return tuple(Rung(state, size, each, number) for number in range(1, plan.rounds + 1) for each in clients)


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


@dataclass(frozen=True)
class Climber:
    """Brings the clone of one shadow to each state and size, and measures there."""

    climb: Climb
    release: Release
    images: Images
    growth: Script
    scripts: tuple[LoadScript, ...]
    owner: str
    breaker: Breaker
    say: Say

    def size(self, size: float) -> Iterator[RungResult]:
        """Measure what is missing at ``size``, state after state on one clone; yields each rung when its file is written.

        A state that is complete is passed through: its change is applied again, because the next one stands on it.
        """
        states = self.climb.states
        last = next((n for n in range(len(states) - 1, -1, -1) if not self.climb.is_done(states[n], size)), None)
        if last is None:
            return
        dsn = self._grown(size)
        for state in states[: last + 1]:
            took = self._apply(dsn, state)
            if self.climb.is_done(state, size):
                continue
            missing = self.climb.missing(state, size)
            if missing:
                self.say(f"{state} · {size:g}x rows: vacuum and checkpoint, so that every ladder starts alike")
                make_steady(dsn)
            if not self.climb.folder.has(facts_key(state, size)):
                facts = state_facts(
                    dsn,
                    state=state,
                    size=size,
                    history=self.climb.plan.history,
                    scripts=self.scripts,
                    planning=state == states[-1] and size == self.climb.ladder.sizes[0],
                )
                self.climb.folder.write(facts_key(state, size), facts.model_copy(update={"apply_s": took}).to_dict())
            # A rung that says stop changes what is missing, so it is asked anew each time.
            while missing := self.climb.missing(state, size):
                yield self._measure(dsn, missing[0])

    def _grown(self, size: float) -> str:
        dsn = self.images.reset((), self.owner, self.say)
        if size != 1:
            self.say(f"the clone grows to {size:g} times its rows")
            started = time.monotonic()
            grow(dsn, self.growth, size)
            self.say(f"the clone has {size:g} times its rows after {time.monotonic() - started:.1f} s")
        return dsn

    def _apply(self, dsn: str, state: str) -> float | None:
        if state == BEFORE:
            return None
        change = self.release.change(state)
        self.say(f"{change.name} is applied: {change.title}")
        started = time.monotonic()
        with connect(dsn, name="comporta/capacity") as conn:
            run_script(conn, change.apply)
        return round(time.monotonic() - started, 3)

    def _measure(self, dsn: str, rung: Rung) -> RungResult:
        if reason := self.breaker():
            raise LadderStopped(
                f"the ladder stopped before {rung}: {reason}",
                remedy="When the target is well again, start the run anew or clear the task: no finished rung is repeated.",
            )
        self.images.shadow.check_owner(self.owner)
        ladder, stop = self.climb.ladder, self.climb.plan.stop
        variables, rows = load_variables(dsn, self.climb.plan.history)
        before = wal_position(dsn)
        load = run_load(
            dsn,
            self.scripts,
            clients=rung.clients,
            seconds=ladder.seconds,
            warm_up_s=ladder.warm_up_s,
            longest_s=stop.rung_s,
            seed=zlib.crc32(rung.key.encode()),
            variables=variables,
        )
        reason = stop_reason(load, self.climb.plan)
        if reason is None and (opened := self.breaker()):
            reason = f"beside this load, {opened}"
        result = RungResult(
            state=rung.state,
            size=rung.size,
            clients=rung.clients,
            round=rung.round,
            rows=rows,
            seconds=load.seconds,
            transactions=load.transactions,
            failed=load.failed,
            throughput_per_s=round(load.throughput_per_s, 3),
            latency=load.latency,
            by_transaction=dict(load.by_transaction),
            calls=dict(load.calls),
            wal_bytes=wal_position(dsn) - before,
            stop=reason,
        )
        self.climb.folder.write(rung.key, result.to_dict())
        said = f"{rung}: {load.throughput_per_s:.0f} transactions/s, p95 {load.latency.p95_ms:.1f} ms"
        self.say(said + (f"; no higher rung here: {reason}" if reason else ""))
        return result


def load_scripts(scripts: Mapping[str, Script], mix: Mix) -> tuple[LoadScript, ...]:
    """The scripts of the mix with their weights; those that nobody calls stay out."""
    return tuple(
        LoadScript(each.name, scripts[each.name].path, each.weight) for each in mix.transactions if each.weight > 0
    )
