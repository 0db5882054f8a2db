"""A mail that is owed to one person about one event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Notice(StrEnum):
    """What a mail tells. All but the last are occasions of the escalation matrix in ``config/gates.yaml``."""

    OPENED = "opened"
    REMINDER = "reminder"
    DECIDED = "decided"
    NO_GO = "no_go"
    EXPIRED = "expired"
    BLOCKER = "blocker"
    WITHDRAWN = "withdrawn"
    EVIDENCE_CHANGED = "evidence_changed"
    MINUTES = "minutes"
    ROLLOUT_STOPPED = "rollout_stopped"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    BREAKER_OPENED = "breaker_opened"
    BREAKER_HELD = "breaker_held"
    DRIFTED = "drifted"
    ROLLOUT_FINISHED = "rollout_finished"
    UNREACHED = "unreached"


class MailState(StrEnum):
    """``failed``: refused, or given up; ``comporta mail retry`` makes it waiting again."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True)
class Letter:
    """Subject and body; both bodies say the same."""

    subject: str
    plain: str
    html: str


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One row of ``comporta.mail``."""

    id: int
    event: int
    recipient: str
    address: str
    notice: str
    feature: str
    gate: int | None
    message_id: str
    subject: str
    plain: str
    html: str
    state: str
    tries: int
    said: str
    created_at: datetime
    next_due: datetime
    settled_at: datetime | None
