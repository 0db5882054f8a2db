"""What a decision rests on, collected anew each time that it matters: when a gate opens, is looked at, is voted on, and is used.

Each kind of evidence is a function from the settings to one ``EvidenceItem``; its digest covers all that a person would want to
know to have changed, and nothing that changes by itself. A server that cannot be reached is no evidence: UnreachableServer passes
through, and nobody's vote is counted against a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comporta.gates.book import GateBook
from comporta.gates.gate import EvidenceItem, Gate, Kind, evidence_digest
from comporta.gates.policy import EvidenceName, GatePlan, GatesFile
from comporta.ledger import Event, EventType, Ledger
from comporta.postgres.connection import connect, describe
from comporta.proof import fingerprint
from comporta.release.model import Release, load_release
from comporta.reports.page import digest_of
from comporta.settings import Settings

if TYPE_CHECKING:
    from comporta.sync.standing import Standing


@dataclass(frozen=True)
class Evidence:
    """The items that a gate rests on, and what blocks a Go."""

    items: tuple[EvidenceItem, ...]
    blockers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The same digest as the database's."""
        return evidence_digest(self.items, self.blockers)


@dataclass(frozen=True)
class Sources:
    """What evidence is read from."""

    settings: Settings
    release: Release
    ledger: Ledger


class Collector:
    """One look at everything that gates rest on: what several gates share is read once. Nothing is written."""

    def __init__(self, settings: Settings, file: GatesFile) -> None:
        self._settings = settings
        self._file = file
        self._release = load_release(settings.release_path, settings.home / "sql")
        self._items: dict[EvidenceName, EvidenceItem] = {}
        self._standing: Standing | None = None

    def of(self, name: str, kind: Kind, asked_by: Mapping[str, Any]) -> Evidence:
        """What the gate of that name rests on now: its evidence, and what blocks a Go. A Ready rests on scripts and target."""
        if kind == "readiness":
            return Evidence(self._collect(("scripts", "target")))
        plan = self._file.plan(name)
        return Evidence(self._collect(plan.evidence), self._blockers(plan, asked_by))

    def _collect(self, names: Iterable[EvidenceName]) -> tuple[EvidenceItem, ...]:
        missing = [name for name in names if name not in self._items]
        if missing:
            with Ledger(self._settings.require("control")) as ledger:
                sources = Sources(self._settings, self._release, ledger)
                self._items |= {name: _KINDS[name](sources) for name in missing}
        return tuple(self._items[name] for name in names)

    def _blockers(self, plan: GatePlan, asked_by: Mapping[str, Any]) -> tuple[str, ...]:
        # The checklist reads proofs, which parses SQL: loaded by those who need it.
        from comporta.sync.standing import Standing

        if self._standing is None:
            self._standing = Standing(self._settings, self._file)
        return self._standing.in_the_way(plan, asked_by)


def renew(settings: Settings, file: GatesFile, book: GateBook, gates: Iterable[Gate], *, actor: str) -> list[Gate]:
    """Tell each gate that may still be decided what its evidence is now, so that nobody answers what is not so any more."""
    collector = Collector(settings, file)

    def of_now(gate: Gate) -> Gate:
        if gate.state not in ("open", "go") or gate.consumed_by is not None:
            return gate
        found = collector.of(gate.name, gate.kind, gate.asked_by)
        if found.digest == gate.evidence_digest:
            return gate
        return book.renew(gate.gate, found.items, found.blockers, actor=actor)

    return [of_now(gate) for gate in gates]


def _scripts(sources: Sources) -> EvidenceItem:
    release = sources.release
    digests = {change.name: change.digests for change in release.changes}
    support = {script.path.name: script.sha256 for script in release.support}
    count = 3 * len(digests) + len(support)
    return EvidenceItem(
        "scripts",
        f"Scripts of {release.name}",
        digest_of({"changes": digests, "support": support}),
        detail=f"{count} scripts: {', '.join(digests)}",
    )


def _target(sources: Sources) -> EvidenceItem:
    dsn = sources.settings.require("target")
    with connect(dsn, name="comporta/fingerprint", statement_timeout_ms=30_000) as conn:
        found = fingerprint.take(conn)
    digest = found.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)
    return EvidenceItem("target", "Schema of the target", digest, detail=f"{describe(dsn)}, {len(found.facts)} objects")


def _dry_run(sources: Sources) -> EvidenceItem:
    return _report(sources, "dry_run", "STAGE 2, dry run", EventType.DRY_RUN_FINISHED)


def _rollback_proofs(sources: Sources) -> EvidenceItem:
    # What reads proofs parses SQL: loaded by those who need it.
    from comporta.validation.validity import validity_now

    statuses = validity_now(sources.settings)
    valid = sum(each.valid for each in statuses)
    report = _report(sources, "rollback_proofs", "STAGE 3, rollback proofs", EventType.VALIDATION_FINISHED)
    states = [[each.subject, each.scenario, each.state, each.run] for each in statuses]
    return EvidenceItem(
        report.name,
        report.title,
        digest_of({"report": report.digest, "proofs": states}),
        report.link,
        f"{valid} of {len(statuses)} proofs are valid now",
    )


def _drills(sources: Sources) -> EvidenceItem:
    found = [event for event in sources.ledger.current_state("drill/") if event.event_type == EventType.DRILL_FINISHED]
    verdicts = {
        event.feature: str(event.payload.get("verdict")) for event in sorted(found, key=lambda each: each.feature)
    }
    told = ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items()) or "none was run"
    return EvidenceItem("drills", "Failover drills", digest_of({"drills": verdicts}), detail=told)


def _capacity(sources: Sources) -> EvidenceItem:
    return _report(sources, "capacity", "STAGE 4, capacity plan", EventType.CAPACITY_PLANNED)


def _backtest(sources: Sources) -> EvidenceItem:
    return _of_detector(sources, "backtest", "Backtest of the detector", EventType.BACKTEST_FINISHED)


def _detector_checks(sources: Sources) -> EvidenceItem:
    return _of_detector(sources, "detector_checks", "Tests, types, coverage", EventType.BACKTEST_VALIDATED)


def _of_detector(sources: Sources, name: str, title: str, event_type: EventType) -> EvidenceItem:
    """The last of a run of the DAG over the settings in use: neither a try at the terminal nor what tuning chose stands for it."""
    of_the_dag = (
        event
        for event in reversed(sources.ledger.latest(50, event_type=event_type))
        if event.stream.startswith("backtest/")
        and not event.actor.startswith("cli:")
        and not event.payload.get("tuned")
    )
    event = next(of_the_dag, None)
    return _told(event, name, title)


def _report(sources: Sources, name: str, title: str, event_type: EventType) -> EvidenceItem:
    """The last report of a stage; where there is none, that is what the digest says."""
    return _told(_last(sources, event_type), name, title)


def _told(event: Event | None, name: str, title: str) -> EvidenceItem:
    if event is None:
        return EvidenceItem(name, title, digest_of({"report": None}), detail="no report")
    payload = event.payload
    verdict = f"verdict {payload.get('verdict')}, {event.timestamp:%Y-%m-%d %H:%M} UTC"
    return EvidenceItem(
        name, title, digest_of({"report": payload, "run": event.stream}), payload.get("report"), verdict
    )


def _last(sources: Sources, event_type: EventType) -> Event | None:
    of_release = (
        event
        for event in reversed(sources.ledger.latest(50, event_type=event_type))
        if event.feature == sources.release.name
    )
    return next(of_release, None)


_KINDS: Mapping[EvidenceName, Callable[[Sources], EvidenceItem]] = {
    "scripts": _scripts,
    "target": _target,
    "dry_run": _dry_run,
    "rollback_proofs": _rollback_proofs,
    "drills": _drills,
    "capacity": _capacity,
    "backtest": _backtest,
    "detector_checks": _detector_checks,
}
