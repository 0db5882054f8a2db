"""Which recorded proofs are valid now: made with the scripts of today, on a target that is still as it was then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from comporta.errors import UnreachableServer
from comporta.ledger.event import Event, EventType
from comporta.ledger.store import Ledger
from comporta.postgres.connection import connect
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint, FingerprintError
from comporta.release.model import Release, load_release
from comporta.settings import Settings
from comporta.validation import model
from comporta.validation.model import SUPPORT, Subject, Verdict, script_digests

State = Literal["valid", "stale", "failed", "missing"]
Recorded = Callable[[str], Fingerprint | None]

_DIFFERENCES_SHOWN = 3
_REASONS_SHOWN = 3


@dataclass(frozen=True)
class ProofStatus:
    """Where one proof that the release owes stands. All but ``reasons`` speak of the record that decided, if there is one.

    ``run`` is its stream in the ledger, ``report`` the page of that run under ``archives/``.
    """

    subject: str
    scenario: str
    state: State
    reasons: tuple[str, ...] = ()
    recorded_at: datetime | None = None
    by: str = ""
    run: str = ""
    report: str | None = None

    @property
    def valid(self) -> bool:
        """True only for a proof that holds for the release and the target of this moment."""
        return self.state == "valid"

    def as_json(self) -> dict[str, Any]:
        """Plain values; the time in ISO 8601 with its offset."""
        return asdict(self) | {"recorded_at": self.recorded_at and self.recorded_at.isoformat()}


def owed(release: Release) -> list[tuple[str, str]]:
    """Subject and scenario of every proof that the release owes, in the order of the board."""
    return [(subject.name, scenario) for subject, scenario in model.owed(release)]


def validity(
    events: Iterable[Event],
    release: Release,
    target: Fingerprint | None,
    *,
    recorded: Recorded = lambda _: None,
    unreachable: str = "",
) -> list[ProofStatus]:
    """The state of every proof that the release owes, by what the ledger's ``events`` say, in any order.

    ``target`` is its fingerprint now; None, with the reason in ``unreachable``, leaves no proof valid. ``recorded`` reads
    the target's fingerprint as it was at the time of a proof, None where it is no longer kept.
    """
    records = _Records.of(events, release.name)
    digest = target.digest_without(*fingerprint.NOT_OF_THE_SCHEMA) if target else ""

    @cache
    def drift(then: str, facts: str | None) -> tuple[str, ...]:
        if target is None:
            return (f"the target cannot be reached: {unreachable}",)
        if then == digest:
            return ()
        return (_drifted(recorded(facts) if facts else None, then, target),)

    def since(record: Event) -> tuple[str, ...]:
        then = str(record.payload.get("target"))
        return drift(then, records.facts.get((record.stream, then)))

    return [
        _status(subject, scenario, records, script_digests(release, subject), release.proof.conditions, since)
        for subject, scenario in model.owed(release)
    ]


def validity_now(settings: Settings) -> list[ProofStatus]:
    """``validity`` by the ledger, the release and the target that ``settings`` name. The target is only read."""
    release = load_release(settings.release_path, settings.home / "sql")
    with Ledger(settings.require("control")) as ledger:
        events = list(recorded_proofs(ledger))
    target, unreachable = None, ""
    try:
        with connect(settings.require("target"), name="comporta/fingerprint") as conn:
            target = fingerprint.take(conn)
    except UnreachableServer as error:
        unreachable = error.message
    return validity(
        events, release, target, recorded=lambda path: _read(settings.archives_path / path), unreachable=unreachable
    )


@dataclass(frozen=True)
class _Records:
    """The events of one release: its proofs by phase, newest first; the file with the target's facts by stream and digest
    of the target (a run that was repeated in part looked at it more than once); the report's page by stream."""

    proofs: Mapping[str, Sequence[Event]]
    facts: Mapping[tuple[str, str], str]
    reports: Mapping[str, str]

    @classmethod
    def of(cls, events: Iterable[Event], release: str) -> _Records:
        proofs: dict[str, list[Event]] = {}
        facts: dict[tuple[str, str], str] = {}
        reports: dict[str, str] = {}
        for each in sorted(events, key=lambda each: -each.id):
            if each.feature != release:
                continue
            match each.event_type:
                case EventType.PROOF_RECORDED:
                    proofs.setdefault(str(each.phase), []).append(each)
                case EventType.VALIDATION_STARTED if "facts" in each.payload:
                    facts.setdefault((each.stream, str(each.payload.get("fingerprint"))), each.payload["facts"])
                case EventType.VALIDATION_FINISHED if "report" in each.payload:
                    reports.setdefault(each.stream, each.payload["report"])
        return cls(proofs, facts, reports)


def _status(
    subject: Subject,
    scenario: str,
    records: _Records,
    scripts: Mapping[str, Mapping[str, str]],
    conditions: Mapping[str, float],
    drift: Callable[[Event], Sequence[str]],
) -> ProofStatus:
    found = records.proofs.get(f"{subject.name}/{scenario}")
    if not found:
        return ProofStatus(subject.name, scenario, "missing", ("never proved",))
    same_scripts = [each for each in found if each.payload.get("scripts") == scripts]
    of_today = next((each for each in same_scripts if each.payload.get("conditions") == conditions), None)
    record = of_today or (same_scripts or found)[0]
    state: State
    reasons: Sequence[str]
    if not same_scripts:
        state, reasons = "stale", _changed(record.payload.get("scripts") or {}, scripts)
    elif of_today is None:
        state, reasons = "stale", _other_conditions(record.payload.get("conditions") or {}, conditions)
    elif record.payload.get("verdict") != Verdict.HOLDS:
        state, reasons = "failed", [_failure(record)]
    else:
        reasons = drift(record)
        state = "stale" if reasons else "valid"
    return ProofStatus(
        subject=subject.name,
        scenario=scenario,
        state=state,
        reasons=tuple(reasons),
        recorded_at=record.timestamp,
        by=record.actor,
        run=record.stream,
        report=records.reports.get(record.stream),
    )


def _changed(then: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    reasons = []
    for owner in dict.fromkeys((*now, *then)):
        if owner not in then:
            reasons.append(f"{owner} was no part of the proof")
        elif owner not in now:
            reasons.append(f"{owner} was part of the proof and is no longer")
        else:
            reasons += _changed_scripts(owner, then[owner], now[owner])
    return reasons


def _changed_scripts(owner: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*now, *then)):
        script = f"support script {name}" if owner == SUPPORT else f"the {name} script of {owner}"
        if name not in then:
            yield f"{script} is new"
        elif name not in now:
            yield f"{script} is gone"
        elif then[name] != now[name]:
            yield f"{script} changed since ({then[name][:6]}.. -> {now[name][:6]}..)"


def _other_conditions(then: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    return [
        f"made with {name} = {then.get(name, 'unknown')}; the release asks for {value}"
        for name, value in now.items()
        if then.get(name) != value
    ]


def _failure(record: Event) -> str:
    payload = record.payload
    found = [str(each) for each in payload.get("reasons") or ()]
    why = "; ".join(found[:_REASONS_SHOWN]) or "it gave no reason"
    if payload.get("verdict") == Verdict.NO_DATA:
        return f"the last proof could not be made: {why}"
    return f"the last proof failed: {why}"


def _drifted(then: Fingerprint | None, digest: str, now: Fingerprint) -> str:
    """``digest`` is what ``then`` must have: a file that was written anew since says nothing about the proof."""
    if then is None or then.digest_without(*fingerprint.NOT_OF_THE_SCHEMA) != digest:
        return "the target drifted: the digest of its fingerprint differs, and the fingerprint of then is not kept"
    found = fingerprint.diff(then, now, ignore=fingerprint.NOT_OF_THE_SCHEMA)
    more = len(found) - _DIFFERENCES_SHOWN
    shown = "; ".join(str(each) for each in found[:_DIFFERENCES_SHOWN])
    return f"the target drifted: {shown}" + (f"; and {more} more" if more > 0 else "")


def recorded_proofs(ledger: Ledger) -> Iterator[Event]:
    """Every event that says something about a proof."""
    for event_type in (EventType.VALIDATION_STARTED, EventType.PROOF_RECORDED, EventType.VALIDATION_FINISHED):
        yield from ledger.every(event_type=event_type)


def _read(file: Path) -> Fingerprint | None:
    """None for a file that is gone, or that is not what was written."""
    try:
        return Fingerprint.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, FingerprintError):
        return None
