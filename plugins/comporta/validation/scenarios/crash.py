"""The server crashes in the middle of the rollback, and in another run the disk is full: afterwards, running again converges."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from functools import partial

from comporta.errors import ComportaError
from comporta.postgres.connection import connect
from comporta.validation.faults import BackendGone, Recovery, crash_server, disk_quota, smallest_quota
from comporta.validation.trial import Moment, Step, Trial, TrialFailed

CRASHES = True
INSIDE_AFTER_S = 0.03


def run(trial: Trial) -> None:
    trial.apply()
    for step in trial.backward:
        _crash_at_the_middle(trial, step)
        _crash_within(trial, step)
        trial.complete(step)
    trial.check_restored("after the crash")
    if trial.forward:
        trial.apply()
        for step in trial.backward:
            _fill_the_disk(trial, step)
            trial.complete(step)


def _crash_at_the_middle(trial: Trial, step: Step) -> None:
    middle = len(step.script.statements) // 2 + 1
    crash = _Crash(trial)
    trial.attempt(step, lambda moment: crash.now(moment) if moment.statement.number == middle else None)
    crash.record()
    if not crash.happened:
        raise TrialFailed(f"{step} ended before statement {middle}, where the server was to crash")


def _crash_within(trial: Trial, step: Step) -> None:
    """Crash once within the first statement that is slow; a rollback without one comes to its end here."""
    crash = _Crash(trial)
    timers: list[threading.Timer] = []

    def aim(moment: Moment) -> None:
        stop_aiming()
        timers.append(threading.Timer(INSIDE_AFTER_S, partial(crash.now, moment, "within statement")))
        timers[-1].start()

    def stop_aiming() -> None:
        while timers:
            timers[-1].cancel()
            timers.pop().join()

    phase = trial.attempt(step, aim)
    stop_aiming()
    crash.record()
    if phase.error is not None and not crash.happened:
        raise TrialFailed(f"{step}, run again after a crash, stopped by itself: {phase.error}")


class _Crash:
    """At most one crash of the server, perhaps from a thread beside the session that runs the script."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._where = ""
        self._recovery: Recovery | None = None
        self._problem: ComportaError | None = None

    @property
    def happened(self) -> bool:
        return self._recovery is not None

    def now(self, moment: Moment, how: str = "before statement") -> None:
        """Crash the server and wait until it is back."""
        if self.happened:
            return
        self._where = moment.place.replace("before statement", how)
        try:
            self._recovery = crash_server(self._trial.admin_dsn, victim_pid=moment.pid)
        except BackendGone:
            return  # the script was quicker
        except ComportaError as problem:  # this may be a thread: ``record`` raises it in the scenario's own
            self._problem = problem

    def record(self) -> None:
        """Put the crash on the trial's record, or raise what prevented it."""
        if self._problem is not None:
            raise self._problem
        if self._recovery is not None:
            told = f"back after {self._recovery.seconds:.1f} s, run again"
            self._trial.fault("server crash", self._where, told, self._recovery.crashed_at)


def _fill_the_disk(trial: Trial, step: Step) -> None:
    """From its first statement on no file of the rollback's backend may grow beyond the smallest quota; then it may again."""
    with connect(trial.admin_dsn, name="comporta/fault") as admin:
        limit = smallest_quota(admin)
    with ExitStack() as stack:

        def limit_it(moment: Moment) -> None:
            if moment.statement.number == 1:
                stack.enter_context(disk_quota(trial.admin_dsn, moment.pid, limit))

        started = time.time()
        phase = trial.attempt(step, limit_it)
    kilobytes = f"files of at most {limit // 1024:,} kB"
    if phase.error is None:
        trial.fault("disk full", f"{step}, {kilobytes}", "needed no more: came to its end", started)
    else:
        trial.fault(
            "disk full", f"{step}, {kilobytes}", f"stopped ({phase.error.splitlines()[-1].strip()}), run again", started
        )
