"""Where each change stands on the target, folded from the ledger: what is applied, how far, by which run, and armed
for whom.

Pure: the same events give the same board. Whether the target agrees is asked elsewhere
(``comporta.rollout.expected``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from comporta.ledger.event import Event, EventType


class State(StrEnum):
    """How far a change is; all but the first and the last are (at least in part) on the target."""

    ABSENT = "not applied"
    APPLYING = "half applied"
    APPLIED = "applied"
    VERIFIED = "verified"
    VERIFY_FAILED = "does not verify"
    WATCHING = "being watched"
    WATCH_FAILED = "unwell"
    IN_PLACE = "in place"
    ROLLING_BACK = "half rolled back"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Seen:
    """A fingerprint on record: its digest (without sequence positions and roles), and the file under archives/ with
    its facts."""

    digest: str
    facts: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Self | None:
        """From an event's payload; None where there is none."""
        return cls(str(raw["digest"]), str(raw.get("facts") or "")) if raw else None

    def as_json(self) -> dict[str, str]:
        """As the payload of an event has it."""
        return {"digest": self.digest, "facts": self.facts}


@dataclass(frozen=True)
class Armed:
    """The rollback waits for a person: since which event, for which forward event, and how often its task had been cleared by
    then."""

    event: int
    forward: int
    cycle: int


@dataclass(frozen=True)
class Standing:
    """One change. ``forward`` is the id of the last event that carried it forward; ``run`` is the run that did.

    ``before`` and ``after`` are the target as the apply found and left it. ``because`` says why it is as it is,
    where that is not plain: an error, who rolled it back. ``by_itself``: it was rolled back, or is being, without a
    person asking.
    """

    change: str
    state: State = State.ABSENT
    event: int = 0
    forward: int = 0
    run: str = ""
    actor: str = ""
    at: datetime | None = None
    armed: Armed | None = None
    before: Seen | None = None
    after: Seen | None = None
    because: str = ""
    by_itself: bool = False

    @property
    def on_target(self) -> bool:
        """Whether something of it is, or may be, on the target."""
        return self.state not in (State.ABSENT, State.ROLLED_BACK)

    @property
    def whole(self) -> bool:
        """Whether all of it is on the target, well or not."""
        return self.on_target and self.state not in (State.APPLYING, State.ROLLING_BACK)


@dataclass(frozen=True)
class Board:
    """All changes of a release on one target, in the order of the release.

    ``base`` is the target without any of them, ``last`` as it was after the last script that came to its end.
    """

    standings: Mapping[str, Standing]
    base: Seen | None = None
    last: Seen | None = None
    event: int = 0

    @classmethod
    def fold(cls, events: Iterable[Event], changes: Sequence[str], target: str) -> Self:
        """The board after ``events`` (oldest first) about ``target``, whoever wrote them."""
        board = cls({name: Standing(name) for name in changes})
        for event in events:
            if event.payload.get("target") == target:
                board = board.after(event)
        return board

    def __getitem__(self, change: str) -> Standing:
        return self.standings[change]

    @property
    def standing(self) -> tuple[str, ...]:
        """The changes of which something is on the target, in the order of the release."""
        return tuple(name for name, each in self.standings.items() if each.on_target)

    @property
    def settled(self) -> bool:
        """Whether no change is half-way."""
        return all(each.whole or not each.on_target for each in self.standings.values())

    def after(self, event: Event) -> Self:
        """The board after one more event; what it does not know leaves it as it is."""
        seen = Seen.parse(event.payload.get("fingerprint"))
        board = replace(self, event=event.id)
        if event.event_type == EventType.ROLLOUT_PREFLIGHTED and not self.standing and seen:
            return replace(board, base=seen, last=seen)
        step = _STEPS.get(event.event_type)
        former = self.standings.get(str(event.phase))
        if step is None or former is None:
            return board
        if event.event_type == EventType.ROLLOUT_APPLY_STARTED and not self.standing and seen:
            board = replace(board, base=seen)
        if event.event_type in _ENDS and seen:
            board = replace(board, last=seen)
        now = replace(step(former, event), event=event.id, at=event.timestamp, actor=event.actor)
        return replace(board, standings={**self.standings, now.change: now})


_ENDS = frozenset({EventType.ROLLOUT_APPLY_FINISHED, EventType.ROLLBACK_FINISHED, EventType.ROLLOUT_CHANGE_FOUND})


def _forward(former: Standing, event: Event, state: State, **more: Any) -> Standing:
    because = str(event.payload.get("error") or "; ".join(event.payload.get("reasons") or ()))
    return replace(former, state=state, forward=event.id, because=because, by_itself=False, **more)


def _apply_started(former: Standing, event: Event) -> Standing:
    # An apply that is taken up again: the target as it was before the first statement is what a rollback restores.
    seen = former.before if former.on_target else Seen.parse(event.payload.get("fingerprint"))
    return _forward(former, event, State.APPLYING, run=str(event.payload.get("run")), before=seen, after=None)


def _apply_finished(former: Standing, event: Event) -> Standing:
    run = str(event.payload.get("run"))
    if event.payload.get("already"):
        return _forward(former, event, former.state, run=run)
    return _forward(former, event, State.APPLIED, run=run, after=Seen.parse(event.payload.get("fingerprint")))


def _refused(former: Standing, event: Event) -> Standing:
    # Somebody had it applied again, in vain: what stands has to be armed anew, for it was not its rollback that they meant.
    return replace(former, forward=event.id) if former.state == State.IN_PLACE else former


def _rollback_started(former: Standing, event: Event) -> Standing:
    payload = event.payload
    return replace(
        former,
        state=State.ROLLING_BACK,
        because=str(payload.get("because") or ""),
        by_itself=payload.get("why") == "automatic",
    )


def _found(former: Standing, event: Event) -> Standing:
    because = str(event.payload.get("explains") or "")
    if event.payload.get("found") == "absent":
        return replace(former, state=State.ROLLED_BACK, because=because, by_itself=False, armed=None)
    return replace(former, state=State.IN_PLACE, forward=event.id, because=because, by_itself=False)


_STEPS: Mapping[str, Callable[[Standing, Event], Standing]] = {
    EventType.ROLLOUT_REFUSED: _refused,
    EventType.ROLLOUT_APPLY_STARTED: _apply_started,
    EventType.ROLLOUT_APPLY_FINISHED: _apply_finished,
    EventType.ROLLOUT_APPLY_FAILED: lambda former, event: _forward(former, event, State.APPLYING),
    EventType.ROLLOUT_VERIFY_PASSED: lambda former, event: _forward(former, event, State.VERIFIED),
    EventType.ROLLOUT_VERIFY_FAILED: lambda former, event: _forward(former, event, State.VERIFY_FAILED),
    EventType.ROLLOUT_WATCH_STARTED: lambda former, event: _forward(former, event, State.WATCHING),
    EventType.ROLLOUT_WATCH_PASSED: lambda former, event: _forward(former, event, State.IN_PLACE),
    EventType.ROLLOUT_WATCH_FAILED: lambda former, event: _forward(former, event, State.WATCH_FAILED),
    EventType.ROLLBACK_ARMED: lambda former, event: replace(
        former, armed=Armed(event.id, int(event.payload["forward"]), int(event.payload["cycle"]))
    ),
    EventType.ROLLBACK_STARTED: _rollback_started,
    EventType.ROLLBACK_FAILED: lambda former, _: replace(former, state=State.ROLLING_BACK),
    EventType.ROLLBACK_FINISHED: lambda former, _: replace(former, state=State.ROLLED_BACK, armed=None),
    EventType.ROLLOUT_CHANGE_FOUND: _found,
}
