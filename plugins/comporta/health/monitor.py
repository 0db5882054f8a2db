"""Who looks: one process at a time samples the target of a release, and probes what is half-open."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

import psycopg

from comporta.errors import ComportaError
from comporta.health.book import BreakerBook, Reported
from comporta.health.target import identify_target, take_samples
from comporta.release.model import Release, load_release
from comporta.settings import Settings

Say = Callable[[str], None]


def holder_name() -> str:
    """A name for one that looks, which no other has: leases and events name it."""
    return f"health:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Monitor:
    """Looks at a target again and again, while it holds the lease to; otherwise it waits for that lease. One thread at a time.

    A target that is sick or absent is no data, and a control database that is away is told of and tried again: ``step`` raises
    for neither. What is said twice in a row is said once.
    """

    def __init__(
        self,
        control_dsn: str,
        target_dsn: str,
        release: Release,
        *,
        say: Say = lambda _: None,
        holder: str | None = None,
    ) -> None:
        self._control_dsn = control_dsn
        self._target_dsn = target_dsn
        self._release = release
        self._say_to = say
        self._said = ""
        self.holder = holder or holder_name()
        self._book: BreakerBook | None = None
        self._target: str | None = None
        self._sampled: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, ending: threading.Event, changed: Callable[[], bool] = lambda: False) -> None:
        """Look every ``every_s`` seconds until ``ending`` is set or ``changed()``."""
        while not ending.is_set() and not changed():
            self.step()
            ending.wait(self._release.health.every_s)

    def step(self) -> Reported | None:
        """One look, reported; None when another process samples, or nothing could be reported."""
        try:
            return self._step()
        except (psycopg.Error, ComportaError) as error:
            self._say(f"not sampled: {_words(error)}")
            self._forget_book()
            return None

    def close(self) -> None:
        """Let another process sample at once."""
        # Without the control database the lease ends by itself.
        with suppress(psycopg.Error, ComportaError):
            if self._book is not None and self._sampled is not None:
                self._book.stop_sampling(self._release.name, self._sampled, self.holder)
        self._forget_book()

    def _step(self) -> Reported | None:
        name, plan = self._release.name, self._release.health
        if self._book is None:
            self._book = BreakerBook(self._control_dsn)
        book = self._book
        target = self._known_target(book)
        if target is None or not self._may_sample(book, target):
            return None
        baseline = book.baseline(name, target)
        admitted = {
            breaker for breaker in book.not_closed(name, target) if book.admit(name, target, breaker, self.holder, plan)
        }
        samples = [
            replace(sample, probe=sample.breaker in admitted)
            for sample in take_samples(self._target_dsn, target, self._release, baseline)
        ]
        if all(sample.verdict == "no data" for sample in samples):
            self._target = None  # it may be another server by now
        reported = book.report(name, target, self.holder, samples, plan)
        for change in reported.changed:
            self._say(f"breaker {change.breaker} is {change.state}: {change.reason}")
        return reported

    def _may_sample(self, book: BreakerBook, target: str) -> bool:
        name, plan = self._release.name, self._release.health
        mine = book.become_sampler(name, target, self.holder, plan)
        if not mine:
            self._say(f"{name}: another process samples {target}")
        elif self._sampled != target:
            self._say(f"{name}: sampling {target} every {plan.every_s:g} s")
        self._sampled = target if mine else None
        return mine

    def _known_target(self, book: BreakerBook) -> str | None:
        """Asked for until it answers; a target that was there before and is away now has its name from then."""
        if self._target is None:
            try:
                self._target = identify_target(self._target_dsn, self._release.health)
            except (psycopg.Error, ComportaError) as error:
                self._say(_words(error))
                return book.target(self._release.name)
        return self._target

    def _forget_book(self) -> None:
        if self._book is not None:
            self._book.close()
        self._book = None
        self._sampled = None

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say_to(text)


@contextmanager
def monitoring(settings: Settings, release: Release, say: Say = lambda _: None) -> Iterator[Monitor]:
    """See to it that samples are taken while the body runs: in a thread, whenever no other process does.

    Never raises for a sick target. At the end it waits for a look that is under way as long as one query may take, no longer.
    """
    ending = threading.Event()
    monitor = Monitor(settings.require("control"), settings.require("target"), release, say=say)

    def look_on() -> None:
        with monitor:
            monitor.run(ending)

    thread = threading.Thread(target=look_on, name="health monitor", daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        ending.set()
        thread.join(timeout=1.0 + release.health.timeout_ms / 1000)


def watch(settings: Settings, ending: threading.Event, say: Say) -> None:
    """Sample the release of the settings until ``ending`` is set. Its file is read again when it changes, unless it is refused."""
    release = _release(settings)
    while not ending.is_set():
        read = _version(settings)
        with Monitor(settings.require("control"), settings.require("target"), release, say=say) as monitor:
            monitor.run(ending, lambda: _version(settings) != read)  # noqa: B023 - it is over before the next turn
        if not ending.is_set():
            try:
                release = _release(settings)
                say(f"{settings.release} was read again")
            except ComportaError as error:
                say(f"{error.message}; the release as it was before is watched on")


def _release(settings: Settings) -> Release:
    return load_release(settings.release_path, settings.home / "sql")


def _version(settings: Settings) -> int | None:
    try:
        return settings.release_path.stat().st_mtime_ns
    except OSError:
        return None


def _words(error: psycopg.Error | ComportaError) -> str:
    return error.message if isinstance(error, ComportaError) else " ".join(str(error).split())
