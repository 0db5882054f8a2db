"""The health of a release's target: signals, breakers, the baseline, and the process that looks.

``look`` says how the target is, ``monitoring`` sees to it that somebody looks, ``take_baseline`` says what is normal, ``hold`` and
``release_hold`` are for people.
"""

from __future__ import annotations

from comporta.health.baseline import Baseline, CanaryBaseline
from comporta.health.book import BreakerBook, Reported, StoredSample
from comporta.health.errors import HealthError, NotHeld, UnknownBreaker
from comporta.health.monitor import Monitor, Say, monitoring, watch
from comporta.health.status import BreakerStatus, Health, Hold
from comporta.health.target import identify_target, measure_baseline
from comporta.release.health import EVERYTHING
from comporta.release.model import Release
from comporta.settings import Settings

__all__ = [
    "EVERYTHING",
    "Baseline",
    "BreakerBook",
    "BreakerStatus",
    "CanaryBaseline",
    "Health",
    "HealthError",
    "Hold",
    "Monitor",
    "NotHeld",
    "Reported",
    "StoredSample",
    "UnknownBreaker",
    "ensure_baseline",
    "hold",
    "look",
    "monitoring",
    "release_hold",
    "take_baseline",
    "watch",
]


def look(source: Settings | str, release: Release) -> Health:
    """How the target of ``release`` is, from the settings or a control DSN. Only the control database is read."""
    with BreakerBook(_control(source)) as book:
        return book.look(release.name, release.health)


def take_baseline(settings: Settings, release: Release, *, actor: str, say: Say = lambda _: None) -> Baseline:
    """Measure what is normal now and record it: limits are relative to it from now on. UnreachableServer without a target."""
    taken = measure_baseline(settings.require("target"), release, say)
    with BreakerBook(settings.require("control")) as book:
        book.record_baseline(release.name, taken, actor=actor)
    return taken


def ensure_baseline(settings: Settings, release: Release, *, actor: str, say: Say = lambda _: None) -> Baseline | None:
    """Take a baseline when the target has none yet; None when it has one."""
    target = identify_target(settings.require("target"), release.health)
    with BreakerBook(settings.require("control")) as book:
        if book.baseline(release.name, target) is not None:
            return None
    return take_baseline(settings, release, actor=actor, say=say)


def hold(source: Settings | str, release: Release, *, actor: str, reason: str, breaker: str = EVERYTHING) -> None:
    """A person holds a breaker open, or all of them, until a person releases it.

    UnknownBreaker lists those there are; HealthError when there is no reason.
    """
    names = (EVERYTHING, *release.health.signals.names)
    if breaker not in names:
        raise UnknownBreaker(breaker, names)
    with BreakerBook(_control(source)) as book:
        book.hold(release.name, breaker, actor=actor, reason=reason)


def release_hold(
    source: Settings | str, release: Release, *, actor: str, reason: str, breaker: str = EVERYTHING
) -> tuple[str, ...]:
    """A person ends every hold on a breaker, or on all of them; whose they were. NotHeld when there is none."""
    with BreakerBook(_control(source)) as book:
        return book.release(release.name, breaker, actor=actor, reason=reason)


def _control(source: Settings | str) -> str:
    return source if isinstance(source, str) else source.require("control")
