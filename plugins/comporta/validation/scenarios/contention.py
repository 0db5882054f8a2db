"""Long readers and a writer stand in the way: the rollback waits in short tries, completes, and nobody stalls behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from comporta.validation.faults import FaultNotPossible
from comporta.validation.obstacles import reader, writer
from comporta.validation.trial import Trial, TrialFailed

PAUSE_S = 1.0


class _Over(Exception):
    """The rollback is through: a reader that stands in nobody's way any more may go."""


def run(trial: Trial) -> None:
    trial.apply()
    limit = trial.plan.longest_wait_ms / 1000
    for step in trial.backward:
        with _in_the_way(trial, str(step)):
            phase = trial.measured(step)
        waited = phase.longest_wait_caused_s or 0.0
        if waited > limit:
            raise TrialFailed(f"{step} made another session wait for {waited:.3f} s; the limit is {limit:.3f} s")


@contextmanager
def _in_the_way(trial: Trial, step: str) -> Iterator[None]:
    """A reader and a writer from before the first statement on, and readers after them until the script is through."""
    over, relations, told = threading.Event(), trial.relations(), f"held its locks for {trial.plan.obstacle_s:g} s"

    def keep_reading() -> None:
        while not over.wait(PAUSE_S):
            # FaultNotPossible: the rollback holds these locks at this moment.
            with suppress(_Over, FaultNotPossible), reader(trial.dsn, relations, trial.plan.obstacle_s):
                trial.fault("reader", f"beside {step}", f"held its locks for up to {trial.plan.obstacle_s:g} s")
                if over.wait(trial.plan.obstacle_s):
                    raise _Over

    with ExitStack() as stack:
        stack.enter_context(reader(trial.dsn, relations, trial.plan.obstacle_s))
        stack.enter_context(writer(trial.dsn, relations, trial.plan.obstacle_s))
        started = time.time()
        trial.fault("reader", f"before {step}", told, started)
        trial.fault("writer", f"before {step}", told, started)
        after_them = threading.Timer(trial.plan.obstacle_s, keep_reading)
        after_them.start()
        try:
            yield
        finally:
            over.set()
            after_them.cancel()
            after_them.join()
