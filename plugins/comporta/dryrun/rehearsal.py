"""STAGE 2, the dry run: each change is applied, verified and measured on a clone of the target, under live traffic.

Each public method is one step; Airflow runs a step a task, the command line runs them in a row. A step reads what the
earlier ones left in the run's folder, writes its own record there, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from comporta.demo.losses import lost_writes
from comporta.demo.record import TrafficRecord
from comporta.demo.traffic import Traffic
from comporta.dryrun import probes
from comporta.dryrun.hazards import Hazard, find_hazards, verdict
from comporta.dryrun.impact import felt_hazards, harm_hazards, summarise
from comporta.dryrun.measure import ScriptMeasurement, measure_script, relation_sizes
from comporta.dryrun.preflight import Finding, Recorded, preflight
from comporta.dryrun.report import write_dry_run_report
from comporta.errors import ComportaError
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.postgres.connection import connect, describe
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.proof import fingerprint
from comporta.release.model import Budget, DryRunPlan, Release, load_release
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report
from comporta.settings import Settings
from comporta.shadow.clone import Shadow
from comporta.shadow.lease import lease

STAGE = "stage2"
Say = Callable[[str], None]


class DryRunStopped(ComportaError):
    """A finding, a statement or a check says that the release must not go on; the target was only read."""


@dataclass(frozen=True)
class Candidate:
    """What is rehearsed: a change of the release, or any script, which has nothing to verify it."""

    name: str
    title: str
    apply: Script
    verify: Script | None
    budget: Budget
    accepts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the scripts that run."""
        return {"apply": self.apply.sha256} | ({"verify": self.verify.sha256} if self.verify else {})


@dataclass(frozen=True)
class Rehearsal:
    """One dry run. ``ledger`` is None only for a script of no release where there is no control database."""

    name: str
    run_id: str
    started: datetime
    candidates: tuple[Candidate, ...]
    support: tuple[Script, ...]
    plan: DryRunPlan
    shadow: Shadow
    folder: RunFolder
    archives: Path
    ledger: Ledger | None
    actor: str
    say: Say
    keep_clone: bool = False

    def run_all(self) -> tuple[Report, str]:
        """Every step in a row; a stop ends the row, and the report is written all the same.

        Any other ComportaError (a server away, a wrong setting) is recorded as the end of the run and raised.
        """
        try:
            self.check()
            self.clone()
            for candidate in self.candidates:
                self.apply(candidate.name)
                self.verify(candidate.name)
                self.measure(candidate.name)
        except DryRunStopped as stopped:
            self.say(f"stopped: {stopped}")
        except ComportaError as error:
            self._record(EventType.DRY_RUN_FINISHED, None, {"verdict": "stop", "error": error.message})
            raise
        return self.report()

    def check(self) -> list[Finding]:
        """Look over the target, read-only; a finding of severity ``stop`` raises DryRunStopped."""
        changes = {candidate.name: candidate.digests for candidate in self.candidates}
        self._record(EventType.DRY_RUN_STARTED, None, {"changes": changes, "target": describe(self.shadow.target_dsn)})
        self.say(f"preflight: reads the catalogues of {describe(self.shadow.target_dsn)}")
        self.shadow.check()
        with (
            connect(self.shadow.target_dsn, name="comporta/preflight", statement_timeout_ms=60_000) as target,
            connect(self.shadow.shadow_dsn, name="comporta/preflight") as server,
        ):
            found = preflight(target, shadow=server, now=self.started, recorded=self._last_seen())
            seen = fingerprint.take(target)
        # What changed since the last dry run is rehearsed by this one: people should know, and may go on.
        findings = [replace(each, severity="warn") if each.code == "drift" else each for each in found]
        for finding in findings:
            self.say(f"  {finding.severity}: {finding.object}: {finding.evidence}")
        stops = [finding for finding in findings if finding.severity == "stop"]
        self.folder.write("preflight", {"findings": [asdict(f) for f in findings], "fingerprint": seen.digest})
        facts = self.folder.write("target_fingerprint", seen.as_json()).relative_to(self.archives)
        self._record(
            EventType.PREFLIGHT_FINISHED,
            None,
            {"findings": len(findings), "stops": len(stops), "fingerprint": seen.digest, "facts": str(facts)},
        )
        if stops:
            raise DryRunStopped(
                f"preflight: {len(stops)} finding(s) stop the dry run\n  "
                + "\n  ".join(f"{f.object}: {f.evidence}" for f in stops),
                remedy="\n".join(sorted({f.cure for f in stops})),
            )
        return findings

    def clone(self) -> None:
        """Copy the target, prove that the copy is faithful, install the support schema, and take the baseline."""
        reused = self.keep_clone and self.shadow.has_golden()
        made = None if reused else self.shadow.copy_target(self.say)
        dsn = self.shadow.reset(owner=self._owner)
        with (
            connect(self.shadow.target_dsn, name="comporta/clone") as target,
            connect(dsn, name="comporta/clone") as copy,
        ):
            source, found = fingerprint.take(target), fingerprint.take(copy)
            # People go on using the target between the dump and this look, which moves its sequences.
            ignored = fingerprint.NOT_OF_THE_SCHEMA
            differences = [str(each) for each in fingerprint.diff(source, found, ignore=ignored)]
            for script in self.support:
                run_script(copy, script)
            measured = probes.probe_queries(copy, self.plan.queries)
            sizes = relation_sizes(copy)
        self.folder.write(
            "clone",
            {
                "made": asdict(made) if made else None,
                "differences": differences,
                "fingerprint": found.digest,
                "probes": [probe.to_dict() for probe in measured],
                "sizes": sizes,
            },
        )
        size = f"{made.bytes / 1e6:.0f} MB in {made.seconds:.1f} s" if made else "the golden copy was there"
        self.say(f"clone: {size}, {len(differences)} difference(s) from the target")
        self._record(
            EventType.CLONE_MADE,
            None,
            {"clone": asdict(made) if made else None, "fingerprint": found.digest, "differences": differences[:50]},
        )
        if differences:
            raise DryRunStopped(
                "the clone is not a faithful copy of the target\n  " + "\n  ".join(differences[:20]),
                remedy="Give the shadow the same extensions as the target, then clone again.",
            )

    def apply(self, name: str) -> None:
        """Apply one change on the clone under traffic, every statement measured; a failed statement raises."""
        self._run(name, "apply", self._candidate(name).apply, EventType.CHANGE_APPLIED)

    def verify(self, name: str) -> None:
        """Run the change's own verification on the clone; it fails when the change is absent or half there."""
        if script := self._candidate(name).verify:
            self._run(name, "verify", script, EventType.CHANGE_VERIFIED)

    def measure(self, name: str) -> str:
        """Compare the clone before and after one change and return the verdict: pass, warn or stop."""
        self.shadow.check_owner(self._owner)
        candidate = self._candidate(name)
        applied = self.folder.read(f"{name}_apply")
        with connect(self.shadow.clone_dsn, name="comporta/measure") as conn:
            conn.execute("analyze")
            measured = probes.probe_queries(conn, self.plan.queries)
            sizes = relation_sizes(conn)
        differences = [fingerprint.Difference(**each) for each in applied["differences"]]
        found = [
            *felt_hazards(applied, candidate.budget),
            *(harm_hazards(self.folder.read(f"{name}_verify")) if self.folder.has(f"{name}_verify") else ()),
            *find_hazards(candidate.apply, applied, candidate.budget, differences),
        ]
        hazards = [_accepted(hazard, candidate.accepts) for hazard in found]
        judged = verdict(hazards, applied)
        self.folder.write(
            f"{name}_measure",
            {
                "probes": [probe.to_dict() for probe in measured],
                "sizes": sizes,
                "hazards": [asdict(hazard) for hazard in hazards],
                "verdict": judged,
            },
        )
        for hazard in hazards:
            if hazard.severity != "note":
                self.say(f"  {hazard.severity}: {hazard.title}: {hazard.object}: {hazard.evidence}")
        self.say(f"{name}: {judged}")
        self._record(EventType.CHANGE_MEASURED, name, {"verdict": judged, "hazards": [h.code for h in hazards]})
        return judged

    def report(self) -> tuple[Report, str]:
        """Write the report from whatever the steps left, and say the verdict over all of them."""
        report, verdict = write_dry_run_report(
            self.folder,
            self.candidates,
            name=self.name,
            run_id=self.run_id,
            started=self.started,
            target=describe(self.shadow.target_dsn),
            plan=self.plan,
        )
        self._record(
            EventType.DRY_RUN_FINISHED,
            None,
            {"verdict": verdict, "report": str(report.html.relative_to(self.archives)), "digest": report.digest},
        )
        return report, verdict

    @property
    def _owner(self) -> str:
        return f"{STAGE}/{self.run_id}"

    def _candidate(self, name: str) -> Candidate:
        return next(candidate for candidate in self.candidates if candidate.name == name)

    def _run(self, name: str, role: str, script: Script, done: EventType) -> None:
        self.shadow.check_owner(self._owner)
        dsn = self.shadow.clone_dsn
        self.say(f"{name}: {role} {script.path.name} on {describe(dsn)}")
        before = self._fingerprint()
        measured, record = self._measure_beside_traffic(script, role)
        lost = [str(write) for write in lost_writes(dsn, record)]
        window = (measured.started_at, measured.started_at + measured.seconds)
        self.folder.write(
            f"{name}_{role}",
            {
                **measured.to_dict(),
                "traffic": summarise(record, window),
                "lost_writes": lost,
                "differences": [
                    asdict(each)
                    for each in fingerprint.diff(before, self._fingerprint(), ignore=[fingerprint.SEQUENCE_PROGRESS])
                ],
            },
        )
        payload = {
            "script": script.sha256,
            "seconds": measured.seconds,
            "lost_writes": len(lost),
            "disk_growth_peak_bytes": measured.disk_growth_peak_bytes,
            "database_bytes": measured.before.database_bytes,
        }
        if measured.ok:
            self._record(done, name, payload)
            return
        self._record(EventType.CHANGE_FAILED, name, {**payload, "role": role, "error": str(measured.error)})
        raise DryRunStopped(
            f"{name}: {role} failed\n{measured.error}", remedy="The clone keeps this state; the target was only read."
        )

    def _measure_beside_traffic(self, script: Script, role: str) -> tuple[ScriptMeasurement, TrafficRecord]:
        dsn, reads, writes = self.shadow.clone_dsn, self.plan.reads_per_s, self.plan.writes_per_s
        measure = partial(measure_script, script, dsn, role=role, on_event=lambda event: self.say(f"  {event}"))
        if reads + writes == 0:  # a target that is not the demo catalogue has no traffic profile
            measured = measure()
            return measured, TrafficRecord(measured.started_at, measured.started_at + measured.seconds, 0, 0, (), ())
        with Traffic(dsn, reads, writes) as traffic:
            sleep(self.plan.settle_s)
            measured = measure()
            sleep(self.plan.settle_s)
        return measured, traffic.stop()

    def _last_seen(self) -> Recorded | None:
        """The target as the last preflight of this release saw it; None when there was none, or its file is gone."""
        earlier = self.ledger.latest(20, event_type=EventType.PREFLIGHT_FINISHED) if self.ledger else []
        for event in reversed(earlier):
            file = self.archives / str(event.payload.get("facts", "none"))
            if event.feature == self.name and file.is_file():
                return Recorded(fingerprint.Fingerprint.from_json(file.read_text(encoding="utf-8")), event.timestamp)
        return None

    def _fingerprint(self) -> fingerprint.Fingerprint:
        with connect(self.shadow.clone_dsn, name="comporta/fingerprint") as conn:
            return fingerprint.take(conn)

    def _record(self, event_type: EventType, phase: str | None, payload: dict[str, Any]) -> None:
        if self.ledger is None:
            return
        event = NewEvent(
            event_type=event_type, feature=self.name, workflow=STAGE, phase=phase, payload=payload, actor=self.actor
        )
        self.ledger.append(f"dry_run/{self.run_id}", [event])


@contextmanager
def open_rehearsal(
    settings: Settings,
    *,
    run_id: str,
    started: datetime,
    actor: str,
    say: Say,
    file: Path | None = None,
    only: Sequence[str] | None = None,
    keep_clone: bool = False,
    record: bool = True,
    rates: Mapping[str, int | None] | None = None,
) -> Iterator[Rehearsal]:
    """Build a rehearsal of the release, of some of its changes, or of any one script, with everything it talks to.

    A release is always recorded in the ledger, unless ``record`` is False (a bench); a script where there is one.
    ``rates`` are the reads and writes per second of live traffic where they differ from the release's plan.
    """
    release = load_release(settings.release_path, settings.home / "sql")
    with ExitStack() as stack:
        ledger, shadow = None, settings.require("shadow")
        if record and (settings.control_dsn or not file):
            ledger = stack.enter_context(Ledger(settings.require("control")))
            shadow = stack.enter_context(lease(settings.require("control"), [shadow], say))
        yield Rehearsal(
            name=release.name if file is None else f"script:{file.name}",
            run_id=run_id,
            started=started,
            candidates=(_candidate_from(file),) if file else _candidates_of(release, only),
            support=release.support,
            plan=release.dry_run.model_copy(
                update={name: rate for name, rate in (rates or {}).items() if rate is not None}
            ),
            shadow=Shadow(settings.require("target"), shadow),
            folder=RunFolder.make(settings.archives_path, STAGE, run_id, started),
            archives=settings.archives_path,
            ledger=ledger,
            actor=actor,
            say=say,
            keep_clone=keep_clone,
        )


def _candidates_of(release: Release, only: Sequence[str] | None) -> tuple[Candidate, ...]:
    wanted = {change.name for change in release.changes}
    if only:
        wanted = {release.change(name).name for name in only}
        for change in reversed(release.changes):
            if change.name in wanted:
                wanted.update(change.requires)
    return tuple(
        Candidate(change.name, change.title, change.apply, change.verify, change.budget, change.accepts)
        for change in release.changes
        if change.name in wanted
    )


def _accepted(hazard: Hazard, accepts: Mapping[str, str]) -> Hazard:
    """A warning that the release accepts, with its reason, becomes a note; a stop is never accepted."""
    if hazard.severity != "warn" or hazard.code not in accepts:
        return hazard
    return replace(hazard, severity="note", cure=f"Accepted by the release: {accepts[hazard.code]}")


def _candidate_from(file: Path) -> Candidate:
    return Candidate(file.stem, f"Script {file.name}", Script.read(file), None, Budget())
