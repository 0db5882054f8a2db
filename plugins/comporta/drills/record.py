"""Results of drills in the ledger: stream ``drill/<name>``, one event for each drill that ran to a result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from comporta.drills.model import Drill, DrillResult, Outcome, Verdict
from comporta.drills.objectives import Objective
from comporta.ledger import EventType, Ledger, NewEvent


@dataclass(frozen=True)
class LastDrill:
    """The newest result of one drill, as it was judged then."""

    at: datetime
    result: DrillResult
    verdict: Verdict
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"at": self.at.isoformat(), "verdict": self.verdict, "why": self.why, **self.result.to_dict()}


def record(ledger: Ledger, drill: Drill, result: DrillResult, objective: Objective, actor: str) -> None:
    """Append the result with the objective that it was held against; what could not run is no event: nothing happened."""
    if result.outcome == Outcome.NOT_INSTALLED:
        return
    verdict, why = result.judge(objective)
    event = NewEvent(
        event_type=EventType.DRILL_FINISHED,
        feature=drill.component,
        workflow="drill",
        actor=actor,
        payload={"objective": objective.model_dump(), "verdict": verdict, "why": why, "result": result.to_dict()},
    )
    ledger.append(_stream(drill.name), [event])


def last(ledger: Ledger, name: str) -> LastDrill | None:
    """The newest recorded result of a drill, None when it has never run."""
    events = ledger.latest(1, stream=_stream(name), event_type=EventType.DRILL_FINISHED)
    if not events:
        return None
    payload = events[0].payload
    return LastDrill(
        events[0].timestamp, DrillResult.from_dict(payload["result"]), Verdict(payload["verdict"]), payload["why"]
    )


def _stream(name: str) -> str:
    return f"drill/{name}"
