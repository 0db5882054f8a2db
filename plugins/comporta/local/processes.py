"""Processes that we started, told apart from strangers that got the same number since."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process id and the kernel's start time of it (clock ticks since boot): the pair is never used twice in a boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now, None when there is none."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, stat.started)

    @property
    def alive(self) -> bool:
        """True while this very process runs; a zombie and a stranger with its number do not count."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state != "Z"


@dataclass(frozen=True)
class _Stat:
    state: str
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], session=int(fields[3]), started=int(fields[19]))


def boot_id() -> str:
    """Changes at each boot of the machine: start times of another boot mean nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def session_members(leader: Process, directory: Path) -> list[Process]:
    """Processes of the session that ``leader`` opened, dead or alive, that work in ``directory``.

    The leader may be gone and its number taken: then nothing started before it, and nothing elsewhere, is ours.
    """
    here = _stat(leader.pid)
    if here is not None and here.started != leader.started:
        return []
    return [
        Process(pid, stat.started)
        for pid in _pids()
        if (stat := _stat(pid)) is not None
        and stat.session == leader.pid
        and stat.started >= leader.started
        and stat.state != "Z"
        and _works_in(pid, directory)
    ]


def terminate(
    find: Callable[[], Iterable[Process]], *, patience_s: float = 15.0, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Ask all processes that ``find`` names to end, wait, then kill what is left; False when some survive even that."""
    for sign, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        for process in find():
            send(process, sign)
        deadline = clock() + seconds
        while clock() < deadline:
            if not any(process.alive for process in find()):
                return True
            time.sleep(0.1)
    return not any(process.alive for process in find())


def send(process: Process, sign: signal.Signals) -> None:
    """Signal this very process; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            # Between pidfd_open and this check the number cannot change hands: the handle pins the process.
            if process.alive:
                signal.pidfd_send_signal(handle, sign)
        finally:
            os.close(handle)


def _pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").resolve(strict=True) == directory.resolve()
    except OSError:
        return False
