"""One proof under way: what a scenario drives, and what it leaves on record.

Every run of a script is a connection of its own that starts at the first statement, as ``psql -f`` would: a run after a
fault shows what a person sees who runs the file again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from comporta.demo.record import TrafficRecord
from comporta.dryrun.measure import measure_script
from comporta.errors import ComportaError, StatementFailed, UnreachableServer
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import ScriptProgress, run_script
from comporta.postgres.script import Script, Statement
from comporta.release.model import ProofPlan
from comporta.validation.faults import terminate
from comporta.validation.model import Fault, Phase
from comporta.validation.state import State, take_state

Say = Callable[[str], None]
# A script that hangs ends its proof, not the run.
LONGEST_STATEMENT_MS = 3_600_000
_READABLE = ("table", "view", "materialized view")


class TrialFailed(ComportaError):
    """The proof does not hold, and its scenario cannot go on: a script stopped where it had to come to its end."""


class TrialImpossible(ComportaError):
    """The scenario could not make its trouble: that is no data, and no data is no good news."""


@dataclass(frozen=True)
class Step:
    """One script of one change, in its role."""

    change: str
    role: str
    script: Script

    def __str__(self) -> str:
        return f"{self.change} {self.role}"


@dataclass(frozen=True)
class Moment:
    """A statement is about to run on backend ``pid``."""

    step: Step
    statement: Statement
    pid: int

    @property
    def place(self) -> str:
        """``rollback of OPT1, before statement 4 of 15 (drop view ...)``."""
        total = len(self.step.script.statements)
        where = f"before statement {self.statement.number} of {total} ({self.statement.headline})"
        return f"{self.step.role} of {self.step.change}, {where}"


OnMoment = Callable[[Moment], None]


@dataclass
class Trial:
    """The clone of one proof. ``dsn`` is the clone's, ``admin_dsn`` another database of the same shadow server."""

    dsn: str
    admin_dsn: str
    forward: tuple[Step, ...]
    verifications: tuple[Step, ...]
    backward: tuple[Step, ...]
    expected: State
    tables: tuple[str, ...]
    plan: ProofPlan
    say: Say
    late: list[TrafficRecord] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    applied: State | None = None

    def apply(self) -> None:
        """Apply what is to be rolled back, and verify it; TrialFailed when either stops."""
        for step in (*self.forward, *self.verifications):
            self.complete(step)
        self.note_applied()

    def rollback(self, on_moment: OnMoment = lambda _: None) -> None:
        """Roll back, dependants first; TrialFailed when a script stops."""
        for step in self.backward:
            self.complete(step, on_moment)

    def note_applied(self) -> None:
        """Look at the applied catalogue, once."""
        self.applied = self.applied or self.state()

    def complete(self, step: Step, on_moment: OnMoment = lambda _: None) -> Phase:
        """Run a script that must come to its end; TrialFailed names statement and error when it does not."""
        self.say(f"  {step}: {len(step.script.statements)} statements")
        return _finished(step, self.attempt(step, on_moment))

    def attempt(self, step: Step, on_moment: OnMoment = lambda _: None) -> Phase:
        """Run a script from its first statement on a new connection; a failure is in the phase, and is no exception."""
        started, reached, error = time.time(), 0, None

        def on_progress(progress: ScriptProgress) -> None:
            nonlocal reached
            if progress.notice is None:
                reached = progress.statement.number
                on_moment(Moment(step, progress.statement, conn.info.backend_pid))

        try:
            with connect(self.dsn, name=f"comporta/{step.role}", statement_timeout_ms=LONGEST_STATEMENT_MS) as conn:
                run_script(conn, step.script, on_progress)
        except (StatementFailed, UnreachableServer) as failure:
            error = failure.message
        return self._record(step, started, reached - (error is not None), error)

    def measured(self, step: Step) -> Phase:
        """Run a script that must come to its end, with its locks traced: how long did others queue behind them?"""
        started = time.time()
        found = measure_script(step.script, self.dsn, role=step.role)
        wait = found.longest_wait_caused
        run = len(found.statements) - (found.error is not None)
        phase = self._record(
            step, started, run, str(found.error) if found.error else None, wait.seconds if wait else 0.0
        )
        return _finished(step, phase)

    def cut(self, step: Step, number: int, inside_after_s: float | None = None) -> bool:
        """End the script's backend before statement ``number``; where ``inside_after_s`` is given, within the statement
        before it when that takes longer. True when it was within. TrialFailed when the script stops before by itself."""
        cutting = _Cut(self.admin_dsn, step, number, inside_after_s)
        with cutting.armed():
            phase = self.attempt(step, cutting.on_moment)
        if cutting.fault is None:
            if phase.error is None:
                return False  # the last statement was quicker than the knife
            raise TrialFailed(f"{step}, run again, stopped by itself: {phase.error}")
        self.faults.append(cutting.fault)
        return cutting.was_inside

    def state(self) -> State:
        """The clone's catalogue as it is now."""
        return take_state(self.dsn, [step.change for step in self.backward])

    def relations(self) -> tuple[str, ...]:
        """What a rollback may have to wait for: the tables of its changes, and tables and views that it will take away."""
        made = (
            ()
            if self.applied is None
            else (self.applied.fingerprint.facts.keys() - self.expected.fingerprint.facts.keys())
        )
        found = sorted(name for kind, name in made if kind in _READABLE and not name.startswith("comporta"))
        return tuple(dict.fromkeys((*self.tables, *found)))

    def check_restored(self, when: str) -> None:
        """TrialFailed names what is not as it must be; sequences may have moved on under traffic."""
        found = self.expected.differences(self.state(), exactly=False)
        if found:
            self.differences += [f"{when}: {each}" for each in found]
            raise TrialFailed(f"{when}, {len(found)} propert{'y is' if len(found) == 1 else 'ies are'} not as before")

    def fault(self, kind: str, where: str, outcome: str, at: float | None = None) -> None:
        """Put a fault on record; ``at`` is now unless given."""
        self.faults.append(Fault(kind, where, time.time() if at is None else at, outcome))

    def _record(
        self, step: Step, started: float, run: int, error: str | None, longest_wait_caused_s: float | None = None
    ) -> Phase:
        phase = Phase(
            change=step.change,
            role=step.role,
            started=started,
            seconds=time.time() - started,
            statements_run=max(0, run),
            statements=len(step.script.statements),
            error=error,
            longest_wait_caused_s=longest_wait_caused_s,
        )
        self.phases.append(phase)
        return phase


def _finished(step: Step, phase: Phase) -> Phase:
    if phase.error is not None:
        raise TrialFailed(f"{step} stopped: {phase.error}")
    return phase


class _Cut:
    """The knife: a second connection that ends the script's backend, at a boundary or a while into a statement."""

    def __init__(self, admin_dsn: str, step: Step, number: int, inside_after_s: float | None) -> None:
        self._step, self._number, self._inside_after_s = step, number, inside_after_s
        self._admin_dsn = admin_dsn
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._admin: Connection | None = None
        self.fault: Fault | None = None
        self.was_inside = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Hold the connection open for as long as the script may run."""
        with connect(self._admin_dsn, name="comporta/fault") as self._admin:
            try:
                yield
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer.join()

    def on_moment(self, moment: Moment) -> None:
        number = moment.statement.number
        if number == self._number - 1 and self._inside_after_s is not None:
            self._timer = threading.Timer(self._inside_after_s, partial(self._end, moment, inside=True))
            self._timer.start()
        if number == self._number:
            if self._timer is not None:
                self._timer.cancel()
                self._timer.join()
            self._end(moment, inside=False)

    def _end(self, moment: Moment, *, inside: bool) -> None:
        with self._lock:
            if self.fault is not None or self._admin is None:
                return
            at = time.time()
            if terminate(self._admin, moment.pid):
                where = moment.place
                if inside:
                    where = where.replace(", before statement", f", {self._inside_after_s:g} s into statement")
                self.fault = Fault("backend terminated", where, at, "run again")
                self.was_inside = inside
