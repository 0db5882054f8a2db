"""What STAGE 3 proved about a set of changes: the fingerprint that their clone had, beside which that of the target
is put."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from comporta.ledger.event import Event, EventType
from comporta.release.model import Release
from comporta.validation import model
from comporta.validation.model import Verdict, script_digests


@dataclass(frozen=True)
class Proven:
    """``key`` names the proof, ``digest`` is that of the catalogue which it left, without what is a server's own."""

    key: str
    digest: str


def proven_without(events: Iterable[Event], release: Release, left: Collection[str], base: str) -> Proven | None:
    """The newest proof that holds, of the scripts of now, on a target that had the digest ``base``, whose rollback
    left exactly the changes ``left`` in place; None when there is none."""
    wanted = {
        f"{subject.name}/{scenario}": (f"{subject.name} · {scenario}", script_digests(release, subject))
        for subject, scenario in model.owed(release)
        if set(subject.reference) == set(left)
    }
    found = None
    for event in events:
        if event.event_type != EventType.PROOF_RECORDED or event.feature != release.name:
            continue
        key, scripts = wanted.get(str(event.phase), ("", None))
        payload = event.payload
        if scripts is None or payload.get("scripts") != scripts or payload.get("verdict") != Verdict.HOLDS:
            continue
        if payload.get("target") == base and payload.get("schema_after"):
            found = Proven(key, str(payload["schema_after"]))
    return found
