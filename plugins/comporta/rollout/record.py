"""The record of a rollout, and the target beside it: what was done to it by whom, and whether it looks as the record says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import psycopg

from comporta.ledger import Event, EventType, Ledger, NewEvent
from comporta.postgres.connection import connect
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint, FingerprintError
from comporta.release.model import Release
from comporta.reports.folder import RunFolder
from comporta.rollout.clearing import CLEAR_ME, Clear
from comporta.rollout.expected import Comparison, Expectation, differences, schema_digest, seen_sets
from comporta.rollout.proven import proven_sets
from comporta.rollout.standing import Board, Seen, Standing
from comporta.rollout.target import Say, identity
from comporta.settings import Settings

WORKFLOW = "rollout"
FORWARD = ("apply", "verify", "watch")
SHOWN = 20


@dataclass(frozen=True)
class Looked:
    """The target beside its record: where the changes stand, and what cannot be explained (nothing: no drift)."""

    board: Board
    found: Fingerprint
    seen: Seen
    unexplained: tuple[str, ...] = ()


@dataclass
class Record:
    """Reads and writes for one run; all runs of a release write one stream, so that each sees what the others did."""

    settings: Settings
    release: Release
    run: str
    actor: str
    say: Say
    ledger: Ledger
    folder: RunFolder
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def stream(self) -> str:
        """Of the release, whichever run."""
        return f"{WORKFLOW}/{self.release.name}"

    @cached_property
    def target(self) -> str:
        """Which target the ledger speaks of."""
        with connect(self.settings.require("target"), name="comporta/look") as conn:
            return identity(conn)

    # -- the ledger --------------------------------------------------------------------------------------------------

    def append(self, event_type: EventType, phase: str, **payload: Any) -> None:
        """One more event of this run."""
        event = NewEvent(
            event_type=event_type,
            feature=self.release.name,
            workflow=WORKFLOW,
            phase=phase,
            payload={"run": self.run, "target": self.target, **payload},
            actor=self.actor,
        )
        with self._writing:  # a ledger serves one thread at a time
            self.ledger.append(self.stream, [event])

    def events(self, stream: str = "") -> Iterator[Event]:
        """Every event of a stream, by default that of the release, oldest first."""
        return self.ledger.every(stream=stream or self.stream)

    def latest(self, event_type: EventType, count: int = SHOWN) -> list[Event]:
        """The newest events of a type about this release, oldest first, of whichever run."""
        return self.ledger.latest(count, stream=self.stream, event_type=event_type)

    def board(self) -> Board:
        """Where the changes stand, by the ledger alone."""
        return Board.fold(self.events(), self._names, self.target)

    def standing(self, name: str) -> Standing:
        """Where one change stands; ConfigurationError when the release has none of that name."""
        return self.board()[self.release.change(name).name]

    def last_clear(self, name: str) -> Clear | None:
        """The last clear of this run's task ``<change>.rollback`` that the API server saw."""
        task, forward = f"{name}.rollback", {f"{name}.{step}" for step in FORWARD}
        for event in reversed(
            self.ledger.latest(SHOWN, stream=f"cleared/{self.run}", event_type=EventType.TASK_CLEARED)
        ):
            tasks, whole = set(event.payload.get("tasks") or ()), bool(event.payload.get("whole_run"))
            if whole or task in tasks:
                note = event.payload.get("note")
                # The dialog offers the note that the task has: that is ours, and nobody's reason.
                said = None if note == CLEAR_ME.format(change=name) else note
                return Clear(event.id, event.actor, said, not whole and not forward & tasks)
        return None

    # -- fingerprints ------------------------------------------------------------------------------------------------

    def keep(self, found: Fingerprint, name: str) -> Seen:
        """Write the facts of a fingerprint into the run's folder."""
        file = self.folder.write(f"{name}_{time.time_ns()}", found.as_json())
        return Seen(schema_digest(found), str(file.relative_to(self.settings.archives_path)))

    def recall(self, seen: Seen) -> Fingerprint | None:
        """The facts of a fingerprint on record; None when their file is gone, or is not what was recorded (without a digest, the
        caller sees to that)."""
        try:
            text = (self.settings.archives_path / seen.facts).read_text(encoding="utf-8")
            found = Fingerprint.from_json(json.loads(text))
        except (OSError, ValueError, KeyError, FingerprintError):
            return None
        return found if seen.digest in ("", schema_digest(found)) else None

    # -- the target beside them --------------------------------------------------------------------------------------

    def look(self, conn: psycopg.Connection) -> Looked:
        """Compare target and record, and put on record what somebody else did."""
        found, board = fingerprint.take(conn), self.board()
        kept = self.keep(found, "seen")
        # Where a script was cut, the target is in between, and no record says how that looks.
        if not board.settled or board.last is None or board.last.digest == kept.digest:
            return Looked(board, found, kept)
        names = self._expectation(board).standing_in(found, self.release)
        if names is None:
            told = self._differences(board, found)
            self._record_drift(told, kept)
            return Looked(board, found, kept, tuple(told))
        if set(names) != set(board.standing):
            self._explain(board, names, kept)
        return Looked(self.board(), found, kept)

    def compare(self, left: Sequence[str], found: Fingerprint, drift: Sequence[str]) -> Comparison:
        """A target on which the changes ``left`` stand beside what it must be; ``drift`` was there before, and is not held against
        what was done since."""
        comparison = self._expectation(self.board()).compare(left, found)
        if not drift or comparison.restored is not False:
            return comparison
        new = tuple(each for each in comparison.differences if each not in drift)
        return replace(comparison, restored=not new, differences=new)

    @property
    def _names(self) -> list[str]:
        return [change.name for change in self.release.changes]

    def _expectation(self, board: Board) -> Expectation:
        proofs = self.ledger.every(event_type=EventType.PROOF_RECORDED)
        return Expectation(
            board,
            self.recall,
            proven_sets(proofs, self.release, board.base.digest if board.base else ""),
            seen_sets(self.events(), self._names, self.target),
        )

    def _explain(self, board: Board, names: Sequence[str], seen: Seen) -> None:
        for name, standing in board.standings.items():
            if standing.on_target != (name in names):
                found = "in place" if name in names else "absent"
                self.say(f"{name} is {standing.state} by the ledger, and {found} on the target: done outside Comporta")
                self.append(
                    EventType.ROLLOUT_CHANGE_FOUND,
                    name,
                    found=found,
                    by="outside Comporta",
                    explains=f"the target looks exactly as it does where {', '.join(names) or 'no change'} stands",
                    fingerprint=seen.as_json(),
                )

    def _differences(self, board: Board, found: Fingerprint) -> list[str]:
        expected = self.recall(board.last) if board.last else None
        if expected is None:
            return ["the target's fingerprint is not the one on record, whose facts are no longer kept under archives/"]
        return differences(expected, found)

    def _record_drift(self, told: Sequence[str], seen: Seen) -> None:
        last = self.latest(EventType.ROLLOUT_DRIFTED, 1)
        if not last or last[0].payload["fingerprint"]["digest"] != seen.digest:
            self.append(EventType.ROLLOUT_DRIFTED, "drift", differences=list(told[:SHOWN]), fingerprint=seen.as_json())
