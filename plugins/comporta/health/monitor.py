"""Who looks: one process at a time samples the target of a release, and probes what is half-open."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from comporta.errors import ComportaError
from comporta.health.baseline import Baseline
from comporta.health.book import BreakerBook, Reported
from comporta.health.target import identify_target, measure_baseline, take_samples
from comporta.release.model import Release
from comporta.settings import Settings

Say = Callable[[str], None]


def holder_name() -> str:
    """A name for this process, or this part of it, that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Monitor:
    """Looks at a target again and again, while it holds the lease to; otherwise it waits for that lease.

    A target that is sick or absent is no data, and a control database that is away is told of and tried again: ``step`` raises for
    neither. ``first_baseline``: the name under which to take a baseline when a target has none at all.
    """

    def __init__(
        self,
        control_dsn: str,
        target_dsn: str,
        release: Release,
        *,
        say: Say = lambda _: None,
        holder: str | None = None,
        first_baseline: str | None = None,
    ) -> None:
        self._control_dsn = control_dsn
        self._target_dsn = target_dsn
        self._release = release
        self._say_to = say
        self._said = ""
        self._first_baseline = first_baseline
        self.holder = holder or holder_name()
        self._book: BreakerBook | None = None
        self._target: str | None = None
        self._sampling = False

    def run(self, ending: threading.Event) -> None:
        """Look every ``every_s`` seconds until ``ending`` is set; then let another process look at once."""
        try:
            while not ending.is_set():
                self.step()
                ending.wait(self._release.health.every_s)
        finally:
            self.close()

    def step(self) -> Reported | None:
        """One look, reported; None when another process samples, or nothing could be reported."""
        try:
            return self._step()
        except (psycopg.Error, ComportaError) as error:
            self._say(
                f"not sampled: {error.message if isinstance(error, ComportaError) else ' '.join(str(error).split())}"
            )
            self._forget_book()
            return None

    def close(self) -> None:
        """End sampling and close the connection."""
        try:
            if self._book is not None and self._target is not None:
                self._book.stop_sampling(self._release.name, self._target, self.holder)
        except (psycopg.Error, ComportaError):
            pass  # the lease ends by itself
        self._forget_book()

    def _step(self) -> Reported | None:
        name, plan = self._release.name, self._release.health
        if self._book is None:
            self._book = BreakerBook(self._control_dsn)
        book = self._book
        target = self._known_target(book)
        if target is None:
            return None
        if not book.become_sampler(name, target, self.holder, plan):
            if self._sampling:
                self._say("another process samples now")
            self._sampling = False
            return None
        if not self._sampling:
            self._say(f"sampling {target} for {name} every {plan.every_s:g} s")
            self._sampling = True
        baseline = book.baseline(name, target) or self._begin(book)
        admitted = {
            breaker for breaker in book.not_closed(name, target) if book.admit(name, target, breaker, self.holder, plan)
        }
        samples = [
            replace(sample, probe=True) if sample.breaker in admitted else sample
            for sample in take_samples(self._target_dsn, target, self._release, baseline)
        ]
        reported = book.report(name, target, self.holder, samples, plan)
        for change in reported.changed:
            self._say(f"breaker {change.breaker} is {change.state}: {change.reason}")
        return reported

    def _known_target(self, book: BreakerBook) -> str | None:
        """Asked once; a target that was there before and is away now has its name from then."""
        if self._target is None:
            try:
                self._target = identify_target(self._target_dsn, self._release.health)
            except (psycopg.Error, ComportaError) as error:
                self._say(str(error))
                return book.target(self._release.name)
        return self._target

    def _begin(self, book: BreakerBook) -> Baseline | None:
        if self._first_baseline is None:
            return None
        try:
            taken = measure_baseline(self._target_dsn, self._release, self._say)
        except (psycopg.Error, ComportaError):
            return None  # the samples of this look say why
        book.record_baseline(self._release.name, taken, actor=self._first_baseline)
        return taken

    def _forget_book(self) -> None:
        if self._book is not None:
            self._book.close()
        self._book = None
        self._sampling = False

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say_to(text)


@contextmanager
def monitoring(settings: Settings, release: Release, say: Say = lambda _: None) -> Iterator[Monitor]:
    """See to it that samples are taken while the body runs: in a thread, whenever no other process does.

    Never raises for a sick target.
    """
    monitor = Monitor(settings.require("control"), settings.require("target"), release, say=say)
    ending = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(ending,), name="health monitor", daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        ending.set()
        thread.join(timeout=release.health.stale_s)
