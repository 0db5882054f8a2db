"""Kill a process that the local supervisor looks after, and wait until another does its work."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from comporta.drills.model import CannotDrill, Context, NotRecovered
from comporta.local import supervisor
from comporta.local.layout import Layout
from comporta.local.processes import Process, send


@dataclass(frozen=True)
class Death:
    """``killed_at`` and ``back_at`` in epoch seconds."""

    killed_at: float
    back_at: float

    @property
    def seconds(self) -> float:
        """From the kill until the successor worked."""
        return self.back_at - self.killed_at


def find(layout: Layout, name: str, *, how_found: str) -> Process:
    """The live process of that name that the supervisor started; CannotDrill says that there is none, and ``how_found``."""
    record = supervisor.record_of(layout)
    if record is None or not record.supervisor.alive:
        raise CannotDrill(
            f"no supervisor of {layout.project} runs: this drill is for the local system of `make run`",
            remedy="Start it with `make run`. On your own servers, kill the process there and watch your service "
            "manager bring it back: the runbook has the commands.",
        )
    process = record.children.get(name)
    if process is None:
        raise CannotDrill(f"no process named {name} is supervised here", remedy=how_found)
    if not process.alive:
        raise CannotDrill(
            f"the supervised process {name} is down already", remedy=f"See {layout.logs / name}.log; this is no drill."
        )
    return process


def kill_and_wait(
    context: Context, layout: Layout, name: str, process: Process, works: Callable[[float], bool], *, patience_s: float
) -> Death:
    """SIGKILL ``process``; ``works(killed_at)`` says whether a successor does the work. NotRecovered after the patience."""
    with context.step(f"KILL of {name} (pid {process.pid})"):
        killed_at = time.time()
        try:
            send(process, signal.SIGKILL)
        except PermissionError:
            raise CannotDrill(
                f"{name} (pid {process.pid}) belongs to another user", remedy="Drill as the user who ran `make run`."
            ) from None

    def is_back() -> bool:
        record = supervisor.record_of(layout)
        successor = record.children.get(name) if record else None
        return successor not in (None, process) and works(killed_at)

    with context.step(f"the supervisor starts {name} again, and it works"):
        try:
            Retrying(
                stop=stop_after_delay(patience_s), wait=wait_fixed(0.25), retry=retry_if_result(lambda back: not back)
            )(is_back)
        except RetryError:
            raise NotRecovered(
                f"{name} does not work {patience_s:.0f} s after it was killed",
                remedy=f"See {layout.logs / name}.log and {layout.logs / 'supervisor.log'}.",
            ) from None
    return Death(killed_at, time.time())
