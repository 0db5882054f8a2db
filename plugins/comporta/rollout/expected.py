"""What the target must look like when certain changes stand on it, and which changes stand when it looks as it does.

Each apply left a fingerprint from before and after on record: the difference is what the change does. The target
without any change, and the differences of those that stand, in the order of the release, give what it must be now.
That is a calculation: what STAGE 3 proved for the same set of changes is compared beside it
(``comporta.rollout.proven``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Release
from comporta.rollout.standing import Board, Seen

# One property of one object, by kind, name and property.
Key = tuple[str, str, str]
Recall = Callable[[Seen], Fingerprint | None]


@dataclass(frozen=True)
class Delta:
    """What one change made of the catalogue: the new value of each property that it touched, None for one that it
    took away."""

    values: Mapping[Key, str | None]

    @classmethod
    def between(cls, before: Fingerprint, after: Fingerprint) -> Delta:
        """What has to be done to ``before`` to get ``after``."""
        old, new = _flat(before), _flat(after)
        return cls({key: new.get(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)})


@dataclass(frozen=True)
class Expectation:
    """The target by its record. ``deltas`` holds those changes whose two fingerprints are kept."""

    base: Fingerprint
    deltas: Mapping[str, Delta]

    @classmethod
    def recall(cls, board: Board, recall: Recall) -> Expectation | None:
        """From the fingerprints on record; None where that of the target without any change is not kept."""
        base = recall(board.base) if board.base else None
        if base is None:
            return None
        deltas = {}
        for name, standing in board.standings.items():
            before = recall(standing.before) if standing.before else None
            after = recall(standing.after) if standing.after else None
            if before is not None and after is not None:
                deltas[name] = Delta.between(before, after)
        return cls(base, deltas)

    def with_changes(self, names: Collection[str]) -> Fingerprint | None:
        """The target where exactly these changes stand; None where what one of them does is not on record."""
        if not set(names) <= self.deltas.keys():
            return None
        facts = _flat(self.base)
        for name, delta in self.deltas.items():
            if name in names:
                facts.update({key: value for key, value in delta.values.items() if value is not None})
                for key in (key for key, value in delta.values.items() if value is None):
                    facts.pop(key, None)
        return _nested(facts)

    def standing_in(self, found: Fingerprint, release: Release, believed: Collection[str]) -> tuple[str, ...] | None:
        """The changes that stand on a target which looks like ``found``: the set nearest to ``believed`` that explains
        everything, None when none does."""
        digest = schema_digest(found)
        for names in _closed_sets(release, believed):
            expected = self.with_changes(names)
            if expected is not None and schema_digest(expected) == digest:
                return names
        return None


def schema_digest(found: Fingerprint) -> str:
    """The digest by which the target is compared with itself: without what moves while people use it, and what is
    its server's."""
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
