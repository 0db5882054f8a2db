"""Current state, folded in Python: the same answer as the SQL view ``comporta.current_state``, to check it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from comporta.ledger.event import Event


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """Where a stream stands: its last event, and the version that the next append expects."""

    stream: str
    version: int
    id: int
    feature: str
    workflow: str | None
    event_type: str
    phase: str | None
    payload: Mapping[str, Any] = field(hash=False)
    actor: str
    timestamp: datetime


def project(states: Mapping[str, StreamState], event: Event) -> Mapping[str, StreamState]:
    """A step for ``fold``: the state of each stream after ``event``."""
    return {
        **states,
        event.stream: StreamState(
            stream=event.stream,
            version=event.version,
            id=event.id,
            feature=event.feature,
            workflow=event.workflow,
            event_type=event.event_type,
            phase=event.phase,
            payload=event.payload,
            actor=event.actor,
            timestamp=event.timestamp,
        ),
    }
