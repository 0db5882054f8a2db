"""One run of STAGE 4: look at the target, climb the ladder, fit, forecast, report. Each step may run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from comporta.capacity.calibration import last_calibration
from comporta.capacity.climber import Climber, Objection, weighted
from comporta.capacity.forecast import forecast
from comporta.capacity.ladder import Climb, owed, states_of
from comporta.capacity.measures.mix import recorded_mix
from comporta.capacity.measures.target import disk_of, target_facts
from comporta.capacity.model import Forecast, Measured, Mix, RungResult, Scenario, TargetFacts
from comporta.capacity.models import Fitted, fit
from comporta.capacity.report import as_answers, write_capacity_report
from comporta.errors import ConfigurationError
from comporta.health import BreakerBook, ensure_baseline, look, monitoring
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.postgres.connection import describe
from comporta.postgres.script import Script
from comporta.release.capacity import CapacityPlan, LadderPlan
from comporta.release.model import Release, load_release
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report, digest_of
from comporta.settings import Settings
from comporta.shadow.clone import Shadow, target_digest
from comporta.shadow.images import Images
from comporta.shadow.lease import lease

STAGE = "stage4"
WORKFLOW = "capacity"
BEGUN, TARGET, MIX, COPY, MODELS, FORECAST, FINISHED = (
    "begun",
    "target",
    "mix",
    "copy",
    "models",
    "forecast",
    "finished",
)
Say = Callable[[str], None]


@dataclass
class CapacityRun:
    """One run over a release. ``ladder`` is the plan's whole ladder, or its quick one."""

    settings: Settings
    release: Release
    ladder: LadderPlan
    quick: bool
    run_id: str
    started: datetime
    folder: RunFolder
    ledger: Ledger | None
    actor: str
    say: Say
    fresh_clone: bool = False
    _last_fit: tuple[Measured, Fitted] | None = field(default=None, init=False, repr=False)

    @property
    def plan(self) -> CapacityPlan:
        """The plan of the release."""
        return self.release.capacity

    @property
    def target_dsn(self) -> str:
        """The target, which is only read."""
        return self.settings.require("target")

    @property
    def shadow_dsn(self) -> str:
        """All rungs are climbed on the first shadow server: what is measured on two servers does not compare."""
        return self.settings.shadows()[0]

    @property
    def climb(self) -> Climb:
        """What was measured so far."""
        return Climb(self.folder, self.plan, self.ladder, states_of(self.release))

    # -- the steps ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Look at the target and its recorded load, and see to it that the shadow has a golden copy of it; repeatable."""
        shadow = Shadow(self.target_dsn, self.shadow_dsn)
        shadow.check()
        if not self.folder.has(BEGUN):
            begun = {
                "identity": run_identity(self.release, self.ladder, self.target_dsn),
                "quick": self.quick,
                "run_id": self.run_id,
                "started": self.started.isoformat(),
                "target": describe(self.target_dsn),
            }
            self.folder.write(BEGUN, begun)
            every = owed(self.ladder, states_of(self.release))
            self._record(EventType.CAPACITY_STARTED, None, {**begun, "rungs": len(every)})
        if not self.folder.has(MIX):
            folder = self.settings.home / "sql" / "capacity" / "load"
            mix = recorded_mix(self.target_dsn, folder, self.plan.shares, own_queries=self._own_queries)
            self.folder.write(MIX, mix.to_dict())
            self.say(_of_the_mix(mix))
        if not self.folder.has(TARGET):
            facts = target_facts(
                self.target_dsn,
                self.shadow_dsn,
                self.plan,
                own_queries=self._own_queries,
                connections_seen=self._connections_seen(),
            )
            self.folder.write(TARGET, facts.to_dict())
        ensure_baseline(self.settings, self.release, actor=self.actor, say=self.say)
        with self._lease():
            self._ensure_golden(shadow, again=self.fresh_clone)

    def climb_size(self, size: float, on_rung: Callable[[RungResult], None] = lambda _: None) -> None:
        """Measure what is missing at ``size``, watched by the target's breakers; LadderStopped when one is open."""
        if size not in self.ladder.sizes:
            raise ConfigurationError(f"the ladder has no size {size:g}: it has {list(self.ladder.sizes)}")
        with self._lease() as dsn, monitoring(self.settings, self.release, self.say):
            shadow = Shadow(self.target_dsn, dsn)
            self._ensure_golden(shadow)
            self._check_copy(shadow)
            climber = self.climber(shadow, size)
            for result in climber.size(size):
                self._record_rung(result)
                on_rung(result)

    def climber(self, shadow: Shadow, size: float) -> Climber:
        """What brings a clone on ``shadow`` to the states of a size; the load is that which ``prepare`` found."""
        sql = self.settings.home / "sql" / "capacity"
        return Climber(
            climb=self.climb,
            release=self.release,
            images=Images(shadow, self.release.support),
            growth=Script.read(sql / "grow.sql"),
            scripts=weighted(sql / "load", Mix.from_dict(self.folder.read(MIX))),
            owner=f"{STAGE}/{self.run_id}/{size:g}x",
            breaker=lambda: self._objection(shadow),
            say=self.say,
        )

    def fit(self) -> Fitted:
        """Fit every model to what was measured, and write how each did on what it had not seen."""
        fitted = self._fitted(self.measured())
        self.folder.write(MODELS, [report.to_dict() for report in fitted.reports])
        unused = [report.subject for report in fitted.reports if not report.used]
        self.say(f"{len(fitted.reports)} models, not used: {', '.join(unused) or 'none'}")
        return fitted

    def forecast(self, scenario: Scenario | None = None, *, keep: bool = True) -> Forecast:
        """What is to come, under the plan's own scenario or another one (which is not kept)."""
        measured = self.measured()
        scenario = scenario or Scenario(until=self.plan.until)
        made = forecast(measured, self._fitted(measured), self.plan, scenario, self.today)
        if keep:
            self.folder.write(FORECAST, made.to_dict())
        return made

    def report(self) -> tuple[Report, str]:
        """Write the report of whatever was measured, record the plan in the ledger, and say the verdict."""
        measured, made = self.measured(), Forecast.from_dict(self.folder.read(FORECAST))
        fitted = self._fitted(measured)
        doubled = forecast(measured, fitted, self.plan, Scenario(growth=2, until=self.plan.until), self.today)
        report, verdict = write_capacity_report(
            self.folder.path,
            measured,
            fitted.reports,
            made,
            doubled,
            last_calibration(self.settings.require("control"), self.release.name) if self.ledger else None,
            name=self.release.name,
            title=self.release.title,
            run_id=self.run_id,
            started=self.started,
            target=describe(self.target_dsn),
            plan=self.plan,
            stopped=self.climb.stops(),
            now=datetime.now(UTC),
        )
        payload = {
            "verdict": verdict,
            "digest": report.digest,
            "report": str(report.html.relative_to(self.settings.archives_path)),
            "folder": str(self.folder.path.relative_to(self.settings.archives_path)),
            "quick": self.quick,
            "rungs": len(measured.rungs),
            "scripts": _scripts(self.release),
            "answers": as_answers(made),
        }
        self._record(EventType.CAPACITY_PLANNED, None, payload)
        self.folder.write(FINISHED, {"verdict": verdict, "digest": report.digest})
        return report, verdict

    def run_all(self, on_rung: Callable[[RungResult], None] = lambda _: None) -> tuple[Report, str]:
        """Every step in its order."""
        self.prepare()
        for size in self.ladder.sizes:
            self.climb_size(size, on_rung)
        self.fit()
        self.forecast()
        return self.report()

    # -- what they share ---------------------------------------------------------------------------------------------

    @property
    def today(self) -> date:
        """The day from which the forecast looks ahead: that of the look at the target."""
        return TargetFacts.from_dict(self.folder.read(TARGET)).at.date()

    def measured(self) -> Measured:
        """All that was measured so far; ConfigurationError names the step that has not run."""
        climb = self.climb
        rungs = climb.results()
        if not rungs:
            raise ConfigurationError(
                f"{self.folder.path} has no rung: nothing was measured",
                remedy="Climb the ladder first (in Airflow: clear the task load_ladder).",
            )
        return Measured(
            states=climb.states,
            target=TargetFacts.from_dict(self.folder.read(TARGET)),
            mix=Mix.from_dict(self.folder.read(MIX)),
            rungs=rungs,
            facts=climb.facts(),
        )

    def _fitted(self, measured: Measured) -> Fitted:
        """The models of what was measured: fitted once by a process, though each step may be one of its own."""
        if self._last_fit is None or self._last_fit[0] != measured:
            self._last_fit = (measured, fit(measured, self.plan))
        return self._last_fit[1]

    def _ensure_golden(self, shadow: Shadow, *, again: bool = False) -> None:
        begun = bool(self.climb.results())  # a run under way ends on the copy that it began on
        if not shadow.has_golden() or (not begun and (again or self._is_other(shadow))):
            shadow.copy_target(self.say)

    @property
    def _own_queries(self) -> tuple[str, ...]:
        """What Comporta itself sends to the target under an application's role."""
        return (*self.release.canaries.values(), *self.release.dry_run.queries.values())

    def _connections_seen(self) -> list[int]:
        with BreakerBook(self.settings.require("control")) as book:
            samples = book.samples(self.release.name)
        return [int(each.detail["used"]) for each in samples if each.breaker == "connections" and "used" in each.detail]

    def _check_copy(self, shadow: Shadow) -> None:
        """Rungs on two copies of the target do not compare: a run ends on the one that it began on."""
        found = {"copy": Images(shadow, self.release.support).name(())}
        if not self.folder.has(COPY):
            self.folder.write(COPY, found)
        elif self.folder.read(COPY) != found:
            raise ConfigurationError(
                f"the copy of the target that this run began on is gone from {describe(shadow.shadow_dsn)}: another stage "
                "made a new one, or a support script changed",
                remedy="Begin anew: comporta capacity --fresh (in Airflow: a new run). What was measured stays in the archives.",
            )

    def _is_other(self, shadow: Shadow) -> bool:
        """True when the golden copy is of another schema than the target has now. A run under way keeps the copy it began on."""
        return shadow.golden_source() != target_digest(self.target_dsn)

    def _objection(self, shadow: Shadow) -> Objection | None:
        """A person's hold, an open breaker of the target, or no room on the shadow: only the second may pass."""
        health = look(self.settings, self.release)
        stops = [str(hold) for hold in health.holds if hold.breaker not in {each.name for each in health.breakers}]
        stops += [f"{each.name}: {each.why}" for each in health.breakers if each.state == "bad"]
        if stops:
            return Objection("; ".join(stops), passes=not health.holds)
        full = self._no_room(shadow)
        return Objection(full, passes=False) if full else None

    def _no_room(self, shadow: Shadow) -> str | None:
        """Why the shadow has no room for more; None when it has, or does not tell."""
        with shadow.maintenance() as conn:
            free, whole, _ = disk_of(conn)
        wanted = self.plan.stop.free_share
        if free is None or not whole or free / whole >= wanted:
            return None
        return f"{free / whole:.1%} of the shadow's disk is free, and the plan stops below {wanted:.0%}"

    @contextmanager
    def _lease(self) -> Iterator[str]:
        with lease(self.settings.require("control"), [self.shadow_dsn], self.say) as dsn:
            yield dsn

    def _record_rung(self, result: RungResult) -> None:
        payload = {
            "throughput_per_s": result.throughput_per_s,
            "p95_ms": result.latency.p95_ms,
            "failed": result.failed,
            "transactions": result.transactions,
            "rows": result.rows,
            "wal_bytes": result.wal_bytes,
            "stop": result.stop,
        }
        phase = f"{result.state}/{result.size:g}x/{result.clients}/{result.round}"
        self._record(EventType.RUNG_MEASURED, phase, payload)
        if result.stop:
            self._record(EventType.LADDER_STOPPED, phase, {"why": result.stop})

    def _record(self, event_type: EventType, phase: str | None, payload: Mapping[str, Any]) -> None:
        if self.ledger is None:
            return
        event = NewEvent(
            event_type=event_type,
            feature=self.release.name,
            workflow=STAGE,
            phase=phase,
            payload=payload,
            actor=self.actor,
        )
        self.ledger.append(f"{WORKFLOW}/{self.run_id}", [event])


def run_identity(release: Release, ladder: LadderPlan, target_dsn: str) -> str:
    """What a run that was cut short must have in common with the one that goes on: scripts, ladder, target."""
    support = [script.sha256 for script in release.support]
    return digest_of(
        {
            "scripts": _scripts(release),
            "support": support,
            "ladder": ladder.model_dump(mode="json"),
            "target": describe(target_dsn),
        }
    )


def _scripts(release: Release) -> dict[str, str]:
    return {change.name: change.digests["apply"] for change in release.changes}


def _of_the_mix(mix: Mix) -> str:
    if not mix.recorded:
        return "the target recorded no load: the shares of the release stand in (capacity.shares)"
    return (
        f"the load is {len(mix.transactions)} kinds of transactions, {mix.covered_calls:.0%} of the calls and "
        f"{mix.covered_time:.0%} of the time that pg_stat_statements recorded"
    )


@contextmanager
def open_capacity(
    settings: Settings,
    *,
    run_id: str,
    started: datetime,
    actor: str,
    say: Say,
    quick: bool = False,
    fresh_clone: bool = False,
    record: bool = True,
    ladder: Mapping[str, Any] | None = None,
) -> Iterator[CapacityRun]:
    """Build a run of STAGE 4 with everything that it talks to; the same ``run_id`` and ``started`` go on with the same run.

    ``ladder`` has what is other than in the release's ladder, by the names of ``LadderPlan``.
    """
    release = load_release(settings.release_path, settings.home / "sql")
    plan = release.capacity.quick if quick else release.capacity.ladder
    with ExitStack() as stack:
        yield CapacityRun(
            settings=settings,
            release=release,
            ladder=LadderPlan.model_validate(plan.model_dump() | dict(ladder or {})),
            quick=quick,
            run_id=run_id,
            started=started,
            folder=RunFolder.make(settings.archives_path, STAGE, run_id, started),
            ledger=stack.enter_context(Ledger(settings.require("control"))) if record else None,
            actor=actor,
            say=say,
            fresh_clone=fresh_clone,
        )


@dataclass(frozen=True)
class EarlierRun:
    """A run that is in the archives: how far it came, and what it was of."""

    run_id: str
    started: datetime
    quick: bool
    identity: str
    finished: bool


def earlier_runs(archives: Path) -> tuple[EarlierRun, ...]:
    """The runs of STAGE 4 in the archives, the newest first."""
    found = []
    for begun in archives.glob(f"*/{STAGE}-*/{BEGUN}.json"):
        folder = RunFolder(begun.parent)
        record = folder.read(BEGUN)
        found.append(
            EarlierRun(
                run_id=record["run_id"],
                started=datetime.fromisoformat(record["started"]),
                quick=record["quick"],
                identity=record["identity"],
                finished=folder.has(FINISHED),
            )
        )
    return tuple(sorted(found, key=lambda run: run.started, reverse=True))


def unfinished(settings: Settings, release: Release, *, quick: bool, within_s: float = 86_400.0) -> EarlierRun | None:
    """The newest run from the command line that was cut short within a day, with these scripts, ladder and target."""
    ladder = release.capacity.quick if quick else release.capacity.ladder
    wanted = run_identity(release, ladder, settings.require("target"))
    for run in earlier_runs(settings.archives_path):
        if (
            run.run_id.startswith("cli-")
            and run.identity == wanted
            and time.time() - run.started.timestamp() < within_s
        ):
            return None if run.finished else run
    return None
