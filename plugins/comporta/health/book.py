"""The breakers in the control database: one function of the database behind each verb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from comporta.errors import UnreachableServer
from comporta.health.baseline import Baseline
from comporta.health.errors import HealthError, NotHeld
from comporta.health.sample import Sample
from comporta.health.status import Health, Hold, Standing, health_of
from comporta.ledger import Ledger
from comporta.postgres.queries import load
from comporta.release.health import HealthPlan


@dataclass(frozen=True)
class Change:
    """A breaker that came into another state, and why."""

    breaker: str
    state: str
    reason: str


@dataclass(frozen=True)
class Reported:
    """What came of a report: whether the reporter is the one that samples, which samples were taken, which breakers changed."""

    sampling: bool
    taken: tuple[str, ...]
    changed: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample as it is kept; ``bound`` is the limit that was in force."""

    id: int
    target: str
    breaker: str
    at: datetime
    verdict: str
    value: float | None
    bound: float | None
    runs: int
    slow: int
    why: str
    detail: Mapping[str, Any]
    probe: bool
    holder: str


class BreakerBook:
    """The breakers behind a connection string, or behind a connection in autocommit; one thread at a time.

    Given a connection string it signs in with the rights of ``comporta_app``. Every call is a transaction of its own.
    """

    def __init__(self, source: str | psycopg.Connection) -> None:
        self._ledger = Ledger(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection that this book opened; one that was handed in stays open."""
        self._ledger.close()

    # -- sampling ----------------------------------------------------------------------------------------------------

    def become_sampler(self, release: str, target: str, holder: str, plan: HealthPlan) -> bool:
        """Ask to be the one process that samples, for ``stale_s`` from now on; False while another one is."""
        return bool(self._call("sampler.sql", (release, target, holder, plan.stale_s)))

    def stop_sampling(self, release: str, target: str, holder: str) -> None:
        """Let another process sample at once."""
        self._call("sampler_ends.sql", (release, target, holder))

    def report(self, release: str, target: str, holder: str, samples: Sequence[Sample], plan: HealthPlan) -> Reported:
        """Report one look, all of it in one transaction; opens and closes breakers."""
        rules = {
            "window_s": plan.window_s,
            "min_samples": plan.min_samples,
            "bad_rate": plan.bad_rate,
            "slow_rate": plan.slow_rate,
            "probes": plan.probes,
            "keep_s": plan.keep_h * 3600,
            "lease_s": plan.stale_s,
        }
        found = self._call(
            "report.sql", (release, target, holder, Jsonb([each.as_json() for each in samples]), Jsonb(rules))
        )
        return Reported(found["sampling"], tuple(found["taken"]), tuple(Change(**each) for each in found["changed"]))

    def admit(self, release: str, target: str, breaker: str, holder: str, plan: HealthPlan) -> bool:
        """Ask to probe a breaker; True for one process at a time, until it reports or ``stale_s`` are over."""
        return bool(self._call("admit.sql", (release, target, breaker, holder, plan.open_s, plan.stale_s)))

    def not_closed(self, release: str, target: str) -> tuple[str, ...]:
        """The breakers that are open or half-open."""
        return tuple(self._call("not_closed.sql", (release, target)))

    # -- people ------------------------------------------------------------------------------------------------------

    def hold(self, release: str, breaker: str, *, actor: str, reason: str) -> None:
        """Hold a breaker open, or ``all``, until a person releases it; HealthError without a reason."""
        self._call("hold.sql", (release, breaker, actor, reason))

    def release(self, release: str, breaker: str, *, actor: str, reason: str) -> tuple[str, ...]:
        """End every hold on a breaker, or on ``all``, and return whose they were; NotHeld when there is none."""
        return tuple(self._call("release.sql", (release, breaker, actor, reason)))

    # -- baseline ----------------------------------------------------------------------------------------------------

    def record_baseline(self, release: str, baseline: Baseline, *, actor: str) -> int:
        """Record what limits are relative to from now on; the id of the event."""
        return int(self._call("baseline.sql", (release, actor, Jsonb(baseline.as_json()))))

    def baseline(self, release: str, target: str) -> Baseline | None:
        """The last baseline of a target; None when none was taken of it."""
        found = self._rows("last_baseline.sql", {"release": release, "target": target})
        return Baseline.parse(found[0]["payload"], found[0]["id"]) if found else None

    # -- looking at it -----------------------------------------------------------------------------------------------

    def target(self, release: str) -> str | None:
        """The target that was sampled, or had its baseline taken, last; None when none ever was."""
        row = self._call("last_target.sql", {"release": release})
        return str(row) if row else None

    def look(self, release: str, plan: HealthPlan) -> Health:
        """Where the breakers of a release stand, and what the last samples say. Reads the control database only."""
        names = list(plan.signals.names)
        values = {"release": release, "target": self.target(release), "names": names, "window_s": plan.window_s}
        rows = self._rows("standing.sql", values)
        holds = self._rows("holds.sql", {"release": release})
        return health_of(release, plan, [Standing(**row) for row in rows], [Hold(**row) for row in holds])

    def samples(
        self, release: str, *, since: datetime | None = None, until: datetime | None = None, target: str | None = None
    ) -> list[StoredSample]:
        """What was seen from ``since`` until ``until``, oldest first; samples are kept for ``keep_h`` hours."""
        values = {"release": release, "target": target, "since": since, "until": until}
        with _in_words(), self._ledger.connection.cursor(row_factory=class_row(StoredSample)) as cursor:
            return cursor.execute(load(__package__, "samples.sql"), values).fetchall()

    def _call(self, query: str, values: tuple[Any, ...] | Mapping[str, Any]) -> Any:
        with _in_words():
            row = self._ledger.connection.execute(load(__package__, query), values).fetchone()
        return row[0] if row else None

    def _rows(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        with _in_words(), self._ledger.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(load(__package__, query), values).fetchall()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        said, hint = error.diag.message_primary or " ".join(str(error).split()), error.diag.message_hint or ""
        match error.sqlstate:
            case "LG021":
                raise HealthError(f"{said}; nothing was recorded", remedy=hint) from error
            case "LG022":
                raise NotHeld(said, remedy=hint) from error
            case "42P01" | "42883" | "3F000":
                raise HealthError(
                    f"the control database has no breakers, or older ones: {said}",
                    remedy="Apply the migrations of sql/control: `make run` does, or comporta.ledger.migrate.",
                ) from error
            case None | str() if error.sqlstate is None or error.sqlstate.startswith(("08", "57")):
                raise UnreachableServer(
                    f"the control database went away: {said}", remedy="Start it, or correct its connection settings."
                ) from error
            case _:
                raise HealthError(f"the breakers refused: {said}; nothing was recorded", remedy=hint) from error
