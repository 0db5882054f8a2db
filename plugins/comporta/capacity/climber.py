"""Brings a clone to each state and size of the ladder, and measures there what is missing."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from comporta.capacity.ladder import Climb, facts_key, stop_reason
from comporta.capacity.measures.clone import grow, load_variables, make_steady, wal_position
from comporta.capacity.measures.state import state_facts
from comporta.capacity.model import BEFORE, Latency, Mix, Rung, RungResult
from comporta.capacity.pgbench import PASSES, Load, WeightedScript, Window, run_load
from comporta.errors import ComportaError
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.release.model import Release
from comporta.shadow.images import Images

PRIMING_S = 1.5
LOOK_AGAIN_S = 1.0
LONGEST_STRETCH = 4.0  # times a rung's seconds: for a transaction that takes longer no rung is made longer
Say = Callable[[str], None]


@dataclass(frozen=True)
class Objection:
    """Why no load may be put on the shadow now; ``passes``: it may go away by itself when there is no load."""

    reason: str
    passes: bool


# None when nothing speaks against a load.
Breaker = Callable[[], Objection | None]


class LadderStopped(ComportaError):
    """The ladder is not climbed on for now: a breaker is open, or the shadow has no room. What was measured is kept."""


@dataclass(frozen=True)
class Ready:
    """A clone on which a ladder may be climbed: what its load begins with, and the rows that there are."""

    dsn: str
    variables: Mapping[str, int]
    rows: int
    slowest_s: float
    """What the slowest kind of transaction takes, for each client at work."""


@dataclass(frozen=True)
class Climber:
    """Brings the clone of one shadow to each state and size, and measures there."""

    climb: Climb
    release: Release
    images: Images
    growth: Script
    scripts: tuple[WeightedScript, ...]
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
        dsn = self.grown(size)
        for state in states[: last + 1]:
            took = self.apply(dsn, state)
            if self.climb.is_done(state, size):
                continue
            wanted = bool(self.climb.missing(state, size))
            if wanted:
                self.say(f"{state} · {size:g}x rows: made steady, with a first load, so that every ladder starts alike")
                make_steady(dsn)
            if not self.climb.folder.has(facts_key(state, size)):
                facts = state_facts(
                    dsn,
                    state=state,
                    size=size,
                    history=self.climb.plan.history,
                    scripts=self.scripts,
                    refresh=state in (states[0], states[-1]),  # a refresh takes long, and in between it is the same
                    planning=state == states[-1] and size == self.climb.ladder.sizes[0],
                )
                self.climb.folder.write(facts_key(state, size), facts.model_copy(update={"apply_s": took}).to_dict())
            if wanted:
                ready = self.prime(dsn)
                # A rung that says stop changes what is missing, so it is asked anew each time.
                while missing := self.climb.missing(state, size):
                    yield self.measure(ready, missing[0])

    def grown(self, size: float) -> str:
        """Make the clone in use one of this many times the rows, on which nothing of the release stands; its dsn."""
        dsn = self.images.reset((), self.owner, self.say)
        if size != 1:
            self.say(f"the clone grows to {size:g} times its rows")
            started = time.monotonic()
            grow(dsn, self.growth, size)
            self.say(f"the clone has {size:g} times its rows after {time.monotonic() - started:.1f} s")
        return dsn

    def apply(self, dsn: str, state: str) -> float | None:
        """Bring the clone from the state before to this one; the seconds that it took, None before the release."""
        if state == BEFORE:
            return None
        change = self.release.change(state)
        self.say(f"{change.name} is applied: {change.title}")
        started = time.monotonic()
        with connect(dsn, name="comporta/capacity") as conn:
            run_script(conn, change.apply)
        return round(time.monotonic() - started, 3)

    def prime(self, dsn: str) -> Ready:
        """Load the clone once before its first rung, so that what the load reads is in memory."""
        variables, rows = load_variables(dsn, self.climb.plan.history)
        most = max(self.climb.ladder.clients)
        window = Window(self.climb.ladder.warm_up_s, PRIMING_S)
        load = self._load(dsn, variables, most, window, seed=0, most_passes=1)
        return Ready(dsn, variables, rows, _slowest_s(load.by_transaction) / most)

    def measure(self, ready: Ready, rung: Rung) -> RungResult:
        """Climb one rung and write its file; LadderStopped when a breaker speaks against it, and goes on doing so."""
        self.wait_for_leave(rung)
        self.images.shadow.check_owner(self.owner)
        before = wal_position(ready.dsn)
        # The same rung at another size draws the same transactions: what differs then is what the rows make of them.
        seed = zlib.crc32(f"{rung.state} {rung.clients} {rung.round}".encode())
        load = self._load(ready.dsn, ready.variables, rung.clients, self._window(ready, rung), seed=seed)
        reason = stop_reason(load, self.climb.plan)
        if reason is None and (opened := self.breaker()):
            reason = f"beside this load, {opened.reason}"
        result = RungResult(
            state=rung.state,
            size=rung.size,
            clients=rung.clients,
            round=rung.round,
            rows=ready.rows,
            seconds=load.seconds,
            transactions=load.transactions,
            failed=load.failed,
            throughput_per_s=round(load.throughput_per_s, 3),
            latency=load.latency,
            by_transaction=dict(load.by_transaction),
            calls=dict(load.calls),
            wal_bytes=wal_position(ready.dsn) - before,
            stop=reason,
        )
        self.climb.folder.write(rung.key, result.to_dict())
        said = f"{rung}: {load.throughput_per_s:.0f} transactions/s, p95 {load.latency.p95_ms:.1f} ms"
        self.say(said + (f"; no higher rung here: {reason}" if reason else ""))
        return result

    def wait_for_leave(self, rung: Rung) -> None:
        """Return when nothing speaks against a load: a breaker that opened may close once there is none."""
        patience = self.climb.plan.stop.breaker_s
        ends = time.monotonic() + patience
        told = ""
        while objection := self.breaker():
            if not objection.passes or time.monotonic() >= ends:
                waited = f" and has not gone away in {patience:g} s" if objection.passes and patience else ""
                raise LadderStopped(
                    f"the ladder stopped before {rung}: {objection.reason}{waited}",
                    remedy="Once that is mended, start the run anew or clear the task: no finished rung is repeated.",
                )
            if objection.reason != told:
                told = objection.reason
                self.say(f"no load for now, {patience:g} s at most: {told}")
            time.sleep(LOOK_AGAIN_S)

    def _window(self, ready: Ready, rung: Rung) -> Window:
        """Long enough for the slowest kind of transaction, which takes as it did on the rung below, for each client."""
        ladder = self.climb.ladder
        below = [
            result
            for result in self.climb.results()
            if (result.state, result.size) == (rung.state, rung.size) and result.clients <= rung.clients
        ]
        for_each = ready.slowest_s
        if below:
            most = max(result.clients for result in below)
            for_each = max(_slowest_s(each.by_transaction) for each in below if each.clients == most) / most
        slowest_s = min(for_each * rung.clients, LONGEST_STRETCH * ladder.seconds)
        return Window.around(slowest_s, seconds=ladder.seconds, warm_up_s=ladder.warm_up_s)

    def _load(
        self,
        dsn: str,
        variables: Mapping[str, int],
        clients: int,
        window: Window,
        *,
        seed: int,
        most_passes: int = PASSES,
    ) -> Load:
        return run_load(
            dsn,
            self.scripts,
            clients=clients,
            window=window,
            longest_s=self.climb.plan.stop.rung_s,
            seed=seed,
            variables=variables,
            most_passes=most_passes,
        )


def _slowest_s(kinds: Mapping[str, Latency]) -> float:
    """The mean time of the slowest kind of transaction, s."""
    return max((each.mean_ms for each in kinds.values()), default=0.0) / 1000


def weighted(folder: Path, mix: Mix) -> tuple[WeightedScript, ...]:
    """The scripts of the mix in ``folder`` with their weights; those that nobody calls stay out."""
    return tuple(
        WeightedScript(each.name, folder / f"{each.name}.sql", each.weight)
        for each in mix.transactions
        if each.weight > 0
    )
