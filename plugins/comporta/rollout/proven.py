"""What STAGE 3 proved about sets of changes: the catalogue that their clones had, beside which that of the target is put."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comporta.ledger.event import Event, EventType
from comporta.release.model import Release
from comporta.rollout.standing import Seen
from comporta.validation import model
from comporta.validation.model import Verdict, script_digests


@dataclass(frozen=True)
class Proven:
    """``key`` names the proof, ``seen`` is the catalogue that it left, without what is a server's own."""

    key: str
    seen: Seen


def proven_sets(events: Iterable[Event], release: Release, base: str) -> Mapping[frozenset[str], Proven]:
    """By the changes that a rollback left in place: the newest proof that holds, of the scripts of now, made on a target whose
    catalogue had the digest ``base``."""
    owed = {f"{subject.name}/{scenario}": subject for subject, scenario in model.owed(release)}
    scripts = {subject.name: script_digests(release, subject) for subject in owed.values()}
    found = {}
    for event in events:
        subject, payload = owed.get(str(event.phase)), event.payload
        if subject is None or event.event_type != EventType.PROOF_RECORDED or event.feature != release.name:
            continue
        holds = payload.get("verdict") == Verdict.HOLDS and payload.get("scripts") == scripts[subject.name]
        if holds and payload.get("target") == base and payload.get("schema_after"):
            seen = Seen(str(payload["schema_after"]), str(payload.get("facts_after") or ""))
            found[frozenset(subject.reference)] = Proven(str(event.phase).replace("/", " · "), seen)
    return found
