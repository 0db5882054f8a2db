"""STAGE 3, rollback validation: every change of a release is applied and rolled back under every scenario, and compared.

A proof compares the whole catalogue by fingerprint, every row that nobody wrote meanwhile by checksum, and every write
that was acknowledged meanwhile by its log. Airflow runs a proof a task, the command line one after the other (or one on
each shadow server at a time). The target is only read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from comporta.demo.record import merge
from comporta.demo.traffic import Traffic
from comporta.errors import ComportaError, ConfigurationError, UnsafeTarget
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.postgres.connection import connect, describe, identify, with_database
from comporta.postgres.script import Script
from comporta.proof import fingerprint
from comporta.release.model import Change, ProofPlan, Release, load_release
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report
from comporta.settings import Settings
from comporta.shadow.clone import Shadow, target_digest
from comporta.shadow.images import Images, Layer
from comporta.shadow.lease import lease
from comporta.validation.evidence import Evidence, compare_rows, summarise, whole_checksums
from comporta.validation.faults import FaultNotPossible
from comporta.validation.model import (
    ORDER,
    Proof,
    Subject,
    Verdict,
    order_subjects,
    owed,
    script_digests,
    standard_subjects,
)
from comporta.validation.report import write_proof_report
from comporta.validation.scenarios import Scenario, load_scenarios
from comporta.validation.state import State, take_state
from comporta.validation.trial import Step, Trial, TrialFailed, TrialImpossible

STAGE = "stage3"
WORKFLOW = "rollback_validation"
SHOWN = 5
SECOND_OPINION = (
    "pg_dump --schema-only gives another text than before, and the fingerprint finds no difference: "
    "grants or options in another order, or something that the fingerprint does not see."
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One proof to be made."""

    subject: Subject
    scenario: Scenario

    def __str__(self) -> str:
        return f"{self.subject.name} · {self.scenario.name}"


@dataclass
class Validation:
    """One run over a release. ``tasks`` are all proofs that it owes; what is missing at the end is no good news."""

    release: Release
    plan: ProofPlan
    tasks: tuple[Task, ...]
    run_id: str
    started: datetime
    target_dsn: str
    control_dsn: str
    shadow_dsns: tuple[str, ...]
    folder: RunFolder
    archives: Path
    ledger: Ledger | None
    actor: str
    say: Say
    fresh_clone: bool = False
    _whole: dict[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict, repr=False)
    _recording: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def prepare(self) -> None:
        """Look at the target, and see to it that every shadow has a golden copy of it; both repeatable."""
        for dsn in self.shadow_dsns:
            Shadow(self.target_dsn, dsn).check()
            self._refuse_control_on(dsn)
        with connect(self.target_dsn, name="comporta/fingerprint") as target:
            seen = fingerprint.take(target)
        digest = seen.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)
        facts = self.folder.write("target_fingerprint", seen.as_json()).relative_to(self.archives)
        self.folder.write("target", {"digest": digest, "facts": str(facts), "target": describe(self.target_dsn)})
        self._record(
            EventType.VALIDATION_STARTED,
            None,
            {"proofs": [str(task) for task in self.tasks], "fingerprint": digest, "facts": str(facts)},
        )
        for dsn in self.shadow_dsns:
            with self._lease([dsn]):
                self._ensure_golden(Shadow(self.target_dsn, dsn), digest, again=self.fresh_clone)

    def run_all(self, on_proof: Callable[[Proof], None] = lambda _: None) -> tuple[Report, str]:
        """Prepare, make every proof, as many side by side as there are shadows, and write the report."""
        self.prepare()
        if len(self.shadow_dsns) == 1:  # in this thread, so that Ctrl-C ends the proof under way
            for task in self.tasks:
                on_proof(self.prove(task))
            return self.report()
        pool = ThreadPoolExecutor(len(self.shadow_dsns))
        try:
            for made in as_completed([pool.submit(self.prove, task) for task in self.tasks]):
                on_proof(made.result())
        finally:
            pool.shutdown(cancel_futures=True)
        return self.report()

    def task(self, subject: str, scenario: str) -> Task:
        """The task of that name; ConfigurationError when this run does not owe it."""
        for task in self.tasks:
            if (task.subject.name, task.scenario.name) == (subject, scenario):
                return task
        raise ConfigurationError(
            f"no proof {subject} · {scenario} in this run: it has {', '.join(map(str, self.tasks))}"
        )

    def layers(self, names: Sequence[str]) -> tuple[Layer, ...]:
        """The changes of that name as an image has them."""
        return tuple(Layer(name, self.release.change(name).apply) for name in names)

    def prove(self, task: Task) -> Proof:
        """Make one proof on a shadow of its own and record it; what keeps it from being made makes it ``no data``."""
        with self._lease(self.shadow_dsns) as dsn:
            self.say(f"{task}: {task.scenario.sentence}")
            started = time.time()
            try:
                proof = self._prove_on(Shadow(self.target_dsn, dsn), task)
            except ComportaError as error:
                proof = self._unmade(task, error.message, started)
            except psycopg.Error as error:
                proof = self._unmade(task, " ".join(str(error).split()), started)
        self.folder.write(_file_of(task), proof.to_dict())
        payload = {
            "verdict": proof.verdict,
            "seconds": round(proof.seconds, 3),
            "conditions": self.plan.conditions,
            **ledger_payload(proof),
        }
        self._record(EventType.PROOF_RECORDED, f"{proof.subject}/{proof.scenario}", payload)
        self.say(f"{task}: {proof.verdict} ({proof.seconds:.1f} s)" + "".join(f"\n  {each}" for each in proof.reasons))
        return proof

    def proofs(self) -> list[Proof]:
        """Those made so far, in the order of the tasks."""
        files = (_file_of(task) for task in self.tasks)
        return [Proof.from_dict(self.folder.read(name)) for name in files if self.folder.has(name)]

    def report(self) -> tuple[Report, str]:
        """Write the report of whatever was proved, and say the verdict over all: pass only when every proof holds."""
        proofs = self.proofs()
        report, verdict = write_proof_report(
            self.folder.path,
            proofs,
            board={task.subject.name: task.subject.title for task in self.tasks if task.scenario.name != ORDER},
            scenarios={
                task.scenario.name: task.scenario.sentence for task in self.tasks if task.scenario.name != ORDER
            },
            expected=[(task.subject.name, task.scenario.name) for task in self.tasks],
            name=self.release.name,
            title=self.release.title,
            run_id=self.run_id,
            started=self.started,
            target=describe(self.target_dsn),
            now=datetime.now(UTC),
        )
        held = sum(proof.holds for proof in proofs)
        self._record(
            EventType.VALIDATION_FINISHED,
            None,
            {
                "verdict": verdict,
                "held": held,
                "proofs": len(self.tasks),
                "report": str(report.html.relative_to(self.archives)),
                "digest": report.digest,
            },
        )
        return report, verdict

    # -- one proof ---------------------------------------------------------------------------------------------------

    def _prove_on(self, shadow: Shadow, task: Task) -> Proof:
        started = time.time()
        images, owner = Images(shadow, self.release.support), f"{STAGE}/{self.run_id}/{task}"
        target = target_digest(self.target_dsn)
        self._ensure_golden(shadow, target)
        reference = self._reference(images, task.subject, owner)
        base = self.layers(task.subject.base)
        dsn = images.reset(base, owner, self.say)
        before = take_state(dsn, task.subject.backward)
        trial = self._trial(task.subject, dsn, shadow, reference or before)
        source = self._source(images, task)
        evidence = self._run(task.scenario, trial, with_database(shadow.shadow_dsn, source))
        after = take_state(dsn, task.subject.backward)
        schema, facts = self._keep(after)
        self._judge(trial, after, exactly=not task.scenario.writes)
        return Proof(
            subject=task.subject.name,
            title=task.subject.title,
            scenario=task.scenario.name,
            verdict=evidence.verdict(trial),
            reasons=(*trial.reasons, *evidence.reasons),
            scripts=script_digests(self.release, task.subject),
            target=target,
            before=before.digest,
            applied=trial.applied.digest if trial.applied else "",
            after=after.digest,
            schema_after=schema,
            facts_after=facts,
            checksums_before=evidence.before,
            checksums_after=evidence.after,
            started=started,
            seconds=time.time() - started,
            phases=tuple(trial.phases),
            faults=tuple(trial.faults),
            differences=tuple(trial.differences),
            lost_writes=evidence.lost,
            conflicts=tuple(trial.conflicts),
            notes=tuple(trial.notes),
            felt=evidence.felt,
            shadow=describe(dsn),
            rows=evidence.rows,
        )

    def _keep(self, state: State) -> tuple[str, str]:
        """Digest and file of a catalogue as one compares it with another server's; proofs that end alike share one file."""
        digest = state.fingerprint.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)
        name = f"catalogue_{digest[:16]}"
        if not self.folder.has(name):
            self.folder.write(name, state.fingerprint.as_json())
        return digest, str((self.folder.path / f"{name}.json").relative_to(self.archives))

    def _refuse_control_on(self, shadow_dsn: str) -> None:
        with (
            connect(self.control_dsn, name="comporta/validation") as control,
            connect(with_database(shadow_dsn, "postgres"), name="comporta/validation") as shadow,
        ):
            if identify(control).system_identifier == identify(shadow).system_identifier:
                raise UnsafeTarget(
                    f"the control database is on the shadow server {describe(shadow_dsn)}, which proofs crash on purpose",
                    remedy="Give the control database, or the shadow, a server of its own. Nothing was changed.",
                )

    def _unmade(self, task: Task, why: str, started: float) -> Proof:
        return Proof(
            subject=task.subject.name,
            title=task.subject.title,
            scenario=task.scenario.name,
            verdict=Verdict.NO_DATA,
            reasons=(f"the proof could not be made: {why}",),
            scripts=script_digests(self.release, task.subject),
            target="",
            before="",
            applied="",
            after="",
            checksums_before={},
            checksums_after={},
            started=started,
            seconds=time.time() - started,
        )

    def _run(self, scenario: Scenario, trial: Trial, source: str) -> Evidence:
        """Let the scenario make its trouble beside the traffic, then look at every row of what it started from."""
        reads = self.plan.reads_per_s
        writes = self.plan.writes_per_s if scenario.writes else 0
        impossible = False
        with ExitStack() as stack:
            traffic = stack.enter_context(Traffic(trial.dsn, reads, writes)) if reads + writes else None
            try:
                scenario.run(trial)
            except TrialFailed as failed:
                trial.reasons.append(failed.message)
            except (TrialImpossible, FaultNotPossible) as failed:
                impossible = True
                trial.reasons.append(failed.message)
            record = traffic.stop() if traffic else None
        written = merge([*([record] if record else []), *trial.late])
        whole = self._whole_of(source)
        try:
            evidence = compare_rows(source, trial.dsn, written, whole=whole)
        except psycopg.Error as error:  # a table that is gone, or that is no longer what it was
            evidence = Evidence(
                whole, {}, (f"the rows cannot be compared: {error.diag.message_primary or error}",), (), 0
            )
        return replace(evidence, impossible=impossible, felt=summarise(written, trial, excuse=scenario.crashes))

    def _judge(self, trial: Trial, after: State, *, exactly: bool) -> None:
        found = trial.expected.differences(after, exactly=exactly)
        if not found and trial.expected.second_opinion != after.second_opinion:
            trial.notes.append(SECOND_OPINION)
        if found:
            trial.differences += found
            trial.reasons.append(f"{len(found)} difference(s) in the catalogue, such as: {'; '.join(found[:SHOWN])}")

    def _trial(self, subject: Subject, dsn: str, shadow: Shadow, expected: State) -> Trial:
        change = self.release.change
        return Trial(
            dsn=dsn,
            admin_dsn=with_database(shadow.shadow_dsn, "postgres"),
            forward=tuple(Step(name, "apply", change(name).apply) for name in subject.forward),
            verifications=tuple(Step(name, "verify", change(name).verify) for name in subject.forward),
            backward=tuple(Step(name, "rollback", change(name).rollback) for name in subject.backward),
            expected=expected,
            tables=tuple(dict.fromkeys(table for name in subject.backward for table in change(name).tables)),
            plan=self.plan,
            say=self.say,
        )

    def _source(self, images: Images, task: Task) -> str:
        """The database whose rows must be found again: where nobody writes, also in tables that changes made for themselves."""
        reference = self.layers(task.subject.reference)
        exact = not task.scenario.writes and images.has(reference)
        return images.name(reference) if exact else images.shadow.golden

    def _reference(self, images: Images, subject: Subject, owner: str) -> State | None:
        """What the catalogue must be like afterwards; None where that is what it is like before."""
        if subject.reference == subject.base:
            return None
        name = images.name(self.layers(subject.reference)).replace(images.prefix, "reference_")
        if self.folder.has(name):
            return State.from_json(self.folder.read(name))
        taken = take_state(images.build(self.layers(subject.reference), owner, self.say), subject.backward)
        self.folder.write(name, taken.as_json())
        return taken

    def _ensure_golden(self, shadow: Shadow, digest: str, *, again: bool = False) -> None:
        if again or not shadow.has_golden() or shadow.golden_source() != digest:
            shadow.copy_target(self.say)
            self._whole.clear()
        bases = {subject.base for subject, _ in owed(self.release)}
        Images(shadow, self.release.support).drop_others(map(self.layers, bases))

    def _whole_of(self, source: str) -> Mapping[str, Sequence[Any]]:
        """Checksums of the golden copy or of an image, summed up once: they stay as they are."""
        if source not in self._whole:
            self._whole[source] = whole_checksums(source)
        return self._whole[source]

    @contextmanager
    def _lease(self, shadows: Sequence[str]) -> Iterator[str]:
        with lease(self.control_dsn, shadows, self.say) as dsn:
            yield dsn

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
        with self._recording:  # a ledger serves one thread at a time
            self.ledger.append(f"{WORKFLOW}/{self.run_id}", [event])


def ledger_payload(proof: Proof) -> dict[str, Any]:
    """What the ledger keeps of a proof: everything that says what was proved, on what, and under which trouble."""
    whole = proof.to_dict()
    digests = ("scripts", "target", "before", "applied", "after", "schema_after", "checksums_before", "checksums_after")
    kept = (*digests, "facts_after", "shadow", "rows")
    return {
        **{name: whole[name] for name in kept},
        "reasons": list(proof.reasons[:20]),
        "differences": list(proof.differences[:50]),
        "lost_writes": list(proof.lost_writes[:50]),
        "conflicts": list(proof.conflicts[:20]),
        "faults": [asdict(fault) for fault in proof.faults],
        "writes_followed": proof.felt.acknowledged_writes,
        "failed_operations": proof.felt.failed,
        "longest_stall_s": proof.felt.longest_stall_s,
        "durations": {f"{phase.change} {phase.role}": phase.seconds for phase in proof.phases if phase.error is None},
    }


@contextmanager
def open_validation(
    settings: Settings,
    *,
    run_id: str,
    started: datetime,
    actor: str,
    say: Say,
    only: Sequence[str] | None = None,
    scenarios: Sequence[str] | None = None,
    orders: bool | None = None,
    rollback: Path | None = None,
    fresh_clone: bool = False,
    record: bool = True,
    rates: Mapping[str, int | None] | None = None,
) -> Iterator[Validation]:
    """Build a validation of the release, or of some changes under some scenarios, with everything that it talks to.

    ``rollback`` proves another script in place of the release's, for the one change in ``only``. ``orders`` adds the
    dependency orders; by default they belong to a validation of the whole release.
    """
    release = load_release(settings.release_path, settings.home / "sql")
    if rollback is not None:
        release = _with_rollback(release, only or (), rollback)
    plan = release.proof.model_copy(update={name: rate for name, rate in (rates or {}).items() if rate is not None})
    whole = not only and not scenarios
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(settings.require("control"))) if record else None
        yield Validation(
            release=release,
            plan=plan,
            tasks=_tasks(release, plan, only, scenarios, plan.orders and whole if orders is None else orders),
            run_id=run_id,
            started=started,
            target_dsn=settings.require("target"),
            control_dsn=settings.require("control"),
            shadow_dsns=settings.shadows(),
            folder=RunFolder.make(settings.archives_path, STAGE, run_id, started),
            archives=settings.archives_path,
            ledger=ledger,
            actor=actor,
            say=say,
            fresh_clone=fresh_clone,
        )


def _tasks(
    release: Release, plan: ProofPlan, only: Sequence[str] | None, names: Sequence[str] | None, orders: bool
) -> tuple[Task, ...]:
    wanted = [release.change(name).name for name in only] if only else [change.name for change in release.changes]
    scenarios = load_scenarios([name for name in names if name != ORDER] if names else plan.scenarios)
    tasks = [Task(s, scenario) for s in standard_subjects(release) if s.name in wanted for scenario in scenarios]
    if orders or ORDER in (names or ()):
        (order,) = load_scenarios([ORDER])
        tasks += [Task(s, order) for s in order_subjects(release) if not only or set(wanted) & {s.name.split()[0]}]
    return tuple(tasks)


def _with_rollback(release: Release, only: Sequence[str], file: Path) -> Release:
    if len(only) != 1:
        raise ConfigurationError(
            f"{file} can stand in for the rollback of one change: expected one change, found {len(only)}",
            remedy="Name it: comporta prove OPT3 --rollback FILE.sql",
        )
    changed: Change = replace(release.change(only[0]), rollback=Script.read(file))
    return replace(release, changes=tuple(changed if each.name == changed.name else each for each in release.changes))


def _file_of(task: Task) -> str:
    return "proof_" + "".join(
        c if c.isalnum() or c == "_" else "-" for c in f"{task.subject.name}_{task.scenario.name}"
    )
