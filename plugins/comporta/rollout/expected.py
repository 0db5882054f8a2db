"""What the target must look like when certain changes stand on it, and which changes stand when it looks as it does.

Three records answer: what STAGE 3 proved on clones where exactly these changes stand; what the target itself looked like when they
last stood on it; and, where neither is on record, a calculation: the target without any change, and what the apply of each change
made of it. The calculation is right for changes that do not touch each other's objects, and is never the ground for calling a
rollback wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from comporta.ledger.event import Event, EventType
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Release
from comporta.rollout.proven import Proven
from comporta.rollout.standing import Board, Seen

# One property of one object, by kind, name and property.
Key = tuple[str, str, str]
Names = frozenset[str]
Recall = Callable[[Seen], Fingerprint | None]


@dataclass(frozen=True)
class Delta:
    """What one change made of the catalogue: the new value of each property that it touched, None for one that it took away."""

    values: Mapping[Key, str | None]

    @classmethod
    def between(cls, before: Fingerprint, after: Fingerprint) -> Delta:
        """What has to be done to ``before`` to get ``after``."""
        old, new = _flat(before), _flat(after)
        return cls({key: new.get(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)})


@dataclass(frozen=True)
class Comparison:
    """A target beside what it must be. ``restored`` is None where nothing on record says what that is; ``proof`` names the proof
    that was compared with, None where it was the target's own record."""

    restored: bool | None
    expected: str | None = None
    proof: str | None = None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """What is on record of a target, by the changes that stand."""

    board: Board
    recall: Recall
    proven: Mapping[Names, Proven] = field(default_factory=dict)
    seen: Mapping[Names, Seen] = field(default_factory=dict)

    def compare(self, names: Collection[str], found: Fingerprint) -> Comparison:
        """The target, on which these changes stand, beside what it must be."""
        digest, proven = schema_digest(found), self.proven.get(frozenset(names))
        known = [(proven.seen, proven.key)] if proven else []
        known += [(seen, None) for seen in [self.seen.get(frozenset(names))] if seen]  # type: ignore[misc]
        for seen, key in known:
            if seen.digest == digest:
                return Comparison(True, digest, key)
        if known:
            seen, key = known[0]
            facts = self.recall(seen)
            named = (
                differences(facts, found) if facts else ["which properties is not known: the facts are no longer kept"]
            )
            return Comparison(False, seen.digest, key, tuple(named))
        calculated = self.calculated(names)
        same = calculated is not None and schema_digest(calculated) == digest
        return Comparison(True, digest) if same else Comparison(None)

    def standing_in(self, found: Fingerprint, release: Release) -> tuple[str, ...] | None:
        """The changes that stand on a target which looks like ``found``: the set nearest to what the ledger says that explains
        everything, None when none does."""
        for names in _closed_sets(release, self.board.standing):
            if self.compare(names, found).restored:
                return names
        return None

    def calculated(self, names: Collection[str]) -> Fingerprint | None:
        """The target where exactly these changes stand; None where what one of them does is not on record."""
        base = self.recall(self.board.base) if self.board.base else None
        if base is None:
            return None
        facts = _flat(base)
        for name in (name for name in self.board.standings if name in names):
            delta = self._delta(name)
            if delta is None:
                return None
            facts.update({key: value for key, value in delta.values.items() if value is not None})
            for key in (key for key, value in delta.values.items() if value is None):
                facts.pop(key, None)
        return _nested(facts)

    def _delta(self, name: str) -> Delta | None:
        standing = self.board[name]
        before = self.recall(standing.before) if standing.before else None
        after = self.recall(standing.after) if standing.after else None
        return Delta.between(before, after) if before is not None and after is not None else None


def seen_sets(events: Iterable[Event], changes: Sequence[str], target: str) -> Mapping[Names, Seen]:
    """What the target looked like when certain changes stood on it and none was half-way: the newest look at each set.

    Looks since the changes last stood on the same base only: what was released before is another target.
    """
    board, found = Board.fold((), changes, target), {}
    for event in events:
        if event.payload.get("target") != target:
            continue
        former, board = board, board.after(event)
        if board.base is not None and (former.base is None or board.base.digest != former.base.digest):
            found = {frozenset[str](): board.base}
        trusted = event.event_type != EventType.ROLLBACK_FINISHED or event.payload.get("restored")
        if board.last is not None and board.last != former.last and board.settled and trusted:
            found[frozenset(board.standing)] = board.last
    return found


def schema_digest(found: Fingerprint) -> str:
    """The digest by which the target is compared with itself: without what moves while people use it, and what is its server's."""
    return found.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """What is not as expected, in sentences."""
    return [str(each) for each in fingerprint.diff(expected, found, ignore=fingerprint.NOT_OF_THE_SCHEMA)]


def _closed_sets(release: Release, believed: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Every set of changes that can stand together, those that differ least from ``believed`` first."""
    names = [change.name for change in release.changes]
    every = (each for count in range(len(names) + 1) for each in combinations(names, count))
    closed = [each for each in every if _is_closed(release, each)]
    yield from sorted(closed, key=lambda each: len(set(each) ^ set(believed)))


def _is_closed(release: Release, names: Sequence[str]) -> bool:
    return all(set(release.change(name).requires) <= set(names) for name in names)


def _flat(found: Fingerprint) -> dict[Key, str]:
    return {(kind, name, key): value for (kind, name), facts in found.facts.items() for key, value in facts.items()}


def _nested(facts: Mapping[Key, str]) -> Fingerprint:
    nested: dict[tuple[str, str], dict[str, str]] = {}
    for (kind, name, key), value in facts.items():
        nested.setdefault((kind, name), {})[key] = value
    return Fingerprint(nested)
