"""What a daily sync consists of: checklist items, answers of owners, blockers. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self

from comporta.gates import EvidenceItem

ItemState = Literal["ok", "blocker", "no_data"]
Status = Literal["ready", "blocker", "silent"]

STATUS_WORDS: Mapping[str, str] = {"ready": "Ready", "blocker": "Blocker", "silent": "Blocker (silent)"}


@dataclass(frozen=True)
class Finding:
    """What a check found. ``detail`` holds numbers and dates but no ages: it must not change while the facts do not.

    A gate's votes are bound to its blockers word by word, and "6 days ago" would be another blocker tomorrow.
    """

    state: ItemState
    detail: str
    evidence: EvidenceItem | None = None
    expires: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line of the release's checklist, checked by the machine at ``checked_at``; from ``expires`` on it must be checked again."""

    id: str
    title: str
    owner: str
    required: bool
    state: ItemState
    detail: str
    evidence: EvidenceItem | None
    checked_at: datetime
    expires: datetime | None = None

    @classmethod
    def of(cls, id: str, *, title: str, owner: str, required: bool, finding: Finding, at: datetime) -> Self:  # noqa: A002
        """The item with what was found; good news without evidence, or evidence that has expired, is no good news."""
        state, detail = finding.state, finding.detail
        if state == "ok" and finding.evidence is None:
            state, detail = "blocker", f"{detail}; there is no evidence of it"
        elif state == "ok" and finding.expires is not None and finding.expires <= at:
            state, detail = "blocker", f"{detail}; that expired at {finding.expires:%Y-%m-%d %H:%M} UTC"
        return cls(
            id=id,
            title=title,
            owner=owner,
            required=required,
            state=state,
            detail=detail,
            evidence=finding.evidence,
            checked_at=at,
            expires=finding.expires,
        )

    @property
    def blocks(self) -> bool:
        """True for a blocker, and for missing data where the item is required."""
        return self.state == "blocker" or (self.state == "no_data" and self.required)

    def as_json(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601 with their offset."""
        return asdict(self) | {
            "checked_at": self.checked_at.isoformat(),
            "expires": self.expires and self.expires.isoformat(),
            "blocks": self.blocks,
        }


@dataclass(frozen=True)
class Answer:
    """What an owner said, or that nothing was said in time."""

    owner: str
    status: Status
    reason: str = ""
    by: tuple[str, ...] = ()
    gate: int | None = None
    answered_at: str | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From what the sensor returns, or from the ledger; anything but Ready and Blocker is silence."""
        status = raw.get("status")
        by = raw.get("by") or ()
        return cls(
            owner=str(raw.get("role") or raw.get("owner")),
            status=status if status in ("ready", "blocker") else "silent",
            reason=str(raw.get("reason") or ""),
            by=(by,) if isinstance(by, str) else tuple(map(str, by)),
            gate=raw.get("gate"),
            answered_at=raw.get("answered_at"),
        )

    @property
    def word(self) -> str:
        """Ready, Blocker, or Blocker (silent)."""
        return STATUS_WORDS[self.status]

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``parse`` reads them back."""
        return asdict(self) | {"by": list(self.by)}


@dataclass(frozen=True)
class Blocker:
    """Something in the way of the release, whose it is, and since when the daily sync has said so without a break."""

    key: str
    owner: str
    what: str
    since: str
    syncs: int = 1

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From the ledger."""
        key, owner, what, since = (str(raw.get(name) or "") for name in ("key", "owner", "what", "since"))
        return cls(key, owner, what, since, int(raw.get("syncs") or 1))

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``parse`` reads them back."""
        return asdict(self)

    def age_s(self, at: datetime) -> float:
        """Seconds since it was first said; 0 for one whose first time cannot be read."""
        try:
            return max(0.0, (at - datetime.fromisoformat(self.since)).total_seconds())
        except ValueError:
            return 0.0


def blockers(
    answers: Sequence[Answer], items: Sequence[Item], previous: Sequence[Blocker], at: datetime
) -> tuple[Blocker, ...]:
    """What is in the way: owners who are not ready, and checklist items that block. Age goes on where it was there before."""
    found = [
        Blocker(f"owner/{each.owner}", each.owner, each.reason or "no answer is on record", at.isoformat())
        for each in answers
        if each.status != "ready"
    ]
    found += [
        Blocker(f"item/{each.id}", each.owner, f"{each.id}: {each.detail}", at.isoformat())
        for each in items
        if each.blocks
    ]
    former = {each.key: each for each in previous}
    return tuple(
        replace(each, since=former[each.key].since, syncs=former[each.key].syncs + 1) if each.key in former else each
        for each in found
    )
