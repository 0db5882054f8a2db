"""What tests of breakers share: a control database whose clock a test sets, samples, and one call for each verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from tests.postgres.gate_desk import CLOCK

from comporta.health import BreakerBook, BreakerStatus, Health, Reported
from comporta.health.sample import Sample, Verdict
from comporta.ledger import PROJECTIONS, Event, Ledger, migrate
from comporta.release.health import HealthPlan

RELEASE, TARGET = "catalogue", "4711/gis"
PLAN = HealthPlan(
    every_s=1, window_s=20, min_samples=4, bad_rate=0.5, slow_rate=0.5, open_s=30, probes=2, stale_s=10, timeout_ms=100
)


def sample(verdict: Verdict = "ok", breaker: str = "latency", **more: Any) -> Sample:
    return Sample(breaker=breaker, verdict=verdict, why=more.pop("why", f"it was {verdict}"), **more)


@dataclass
class HealthDesk:
    """The breakers of one control database; ``dsn`` is the owner's."""

    book: BreakerBook
    owner: psycopg.Connection
    dsn: str
    plan: HealthPlan = PLAN

    def pass_time(self, seconds: float) -> None:
        self.owner.execute("update public.test_clock set now = now + make_interval(secs => %s)", [seconds])

    def report(self, *samples: Sample, holder: str = "one") -> Reported:
        return self.book.report(RELEASE, TARGET, holder, samples, self.plan)

    def see(self, *verdicts: Verdict, breaker: str = "latency", every_s: float = 1, **more: Any) -> Reported | None:
        """A sample of each verdict, a look apart; what came of the last."""
        reported = None
        for verdict in verdicts:
            self.pass_time(every_s)
            reported = self.report(sample(verdict, breaker, **more))
        return reported

    def admit(self, holder: str = "one", breaker: str = "latency") -> bool:
        return self.book.admit(RELEASE, TARGET, breaker, holder, self.plan)

    def probe(self, verdict: Verdict, holder: str = "one", breaker: str = "latency") -> str:
        """Ask to probe, report it, and say where the breaker stands."""
        assert self.admit(holder, breaker)
        self.report(sample(verdict, breaker, probe=True), holder=holder)
        return self.position(breaker)

    def open(self, breaker: str = "latency") -> None:
        """Bad samples until it opens, and then as long as it takes until it may be probed."""
        self.see(*["bad"] * self.plan.min_samples, breaker=breaker)  # type: ignore[list-item]
        assert self.position(breaker) == "open"

    def half_open(self, breaker: str = "latency") -> None:
        self.open(breaker)
        self.pass_time(self.plan.open_s)

    def look(self) -> Health:
        return self.book.look(RELEASE, self.plan)

    def status(self, breaker: str = "latency") -> BreakerStatus:
        (found,) = (each for each in self.look().breakers if each.name == breaker)
        return found

    def position(self, breaker: str = "latency") -> str:
        return self.status(breaker).position

    def events(self) -> list[Event]:
        with Ledger(self.dsn) as ledger:
            return ledger.read(f"health/{RELEASE}")

    def event_types(self) -> list[str]:
        return [event.event_type for event in self.events()]

    def differences(self) -> list[str]:
        """Where a projection is not what the events add up to."""
        with Ledger(self.dsn) as ledger:
            return [str(each) for projection in PROJECTIONS for each in ledger.differences(projection)]


@contextmanager
def open_desk(control: str) -> Iterator[HealthDesk]:
    """A migrated control database whose clock stands at 2026-11-24 10:00 UTC until a test moves it; "one" samples."""
    with psycopg.connect(control, autocommit=True) as owner:
        migrate(owner)
        owner.execute(CLOCK)
        with BreakerBook(control) as book:
            assert book.become_sampler(RELEASE, TARGET, "one", PLAN)
            yield HealthDesk(book, owner, control)
