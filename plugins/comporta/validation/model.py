"""What is proved and what a proof says: plain facts that go into the ledger, the run's folder and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from pydantic import TypeAdapter

from comporta.release.model import Release

# The key of the support scripts among those of the changes.
SUPPORT = "support"


class Verdict(StrEnum):
    """``no data`` is no good news: what could not be tried is not proved."""

    HOLDS = "holds"
    FAILS = "fails"
    NO_DATA = "no data"


@dataclass(frozen=True)
class Subject:
    """What is proved: on a catalogue where ``base`` stands, ``forward`` is applied and ``backward`` is rolled back, each in
    that order; the catalogue must then be what it is where ``reference`` stands."""

    name: str
    title: str
    base: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    reference: tuple[str, ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """Every change whose scripts run for this proof."""
        return tuple(dict.fromkeys((*self.base, *self.forward, *self.backward, *self.reference)))


@dataclass(frozen=True)
class Phase:
    """One run of one script: ``started`` in epoch seconds; ``error`` is None when it came to its end."""

    change: str
    role: str
    started: float
    seconds: float
    statements_run: int
    statements: int
    error: str | None = None
    longest_wait_caused_s: float | None = None

    @property
    def ended(self) -> float:
        """Epoch seconds."""
        return self.started + self.seconds


@dataclass(frozen=True)
class Fault:
    """Trouble that was made: what, where in which script, when (epoch seconds), and what came of it."""

    kind: str
    where: str
    at: float
    outcome: str


@dataclass(frozen=True)
class Felt:
    """What traffic felt: counts of operations, and the longest that one took, in seconds, while scripts ran.

    ``excused`` are failures that the injected fault explains (a crashed server answers nobody).
    """

    reads: int = 0
    writes: int = 0
    acknowledged_writes: int = 0
    unanswered_writes: int = 0
    failed: int = 0
    excused: int = 0
    longest_stall_s: float = 0.0
    longest_stall_kind: str = ""
    stalls: tuple[tuple[float, float], ...] = ()
    """(epoch seconds, longest latency in s) for each second of the proof, for the timeline."""


@dataclass(frozen=True)
class Proof:
    """The result of one subject under one scenario; ``key`` is its place on the board.

    ``scripts`` has the sha256 of every script that ran, by change and role, and of the support scripts by file name.
    ``target``, ``before``, ``applied`` and ``after`` are digests of fingerprints (sequence positions left out);
    ``schema_after`` is that of ``after`` without the server's roles, as one compares it with another server's, and
    ``facts_after`` the file under archives/ with its facts;
    ``checksums_before`` and ``checksums_after`` are {table: [rows, digest]} of the rows that no late write touched.
    """

    subject: str
    title: str
    scenario: str
    verdict: Verdict
    reasons: tuple[str, ...]
    scripts: Mapping[str, Mapping[str, str]]
    target: str
    before: str
    applied: str
    after: str
    checksums_before: Mapping[str, Sequence[Any]]
    checksums_after: Mapping[str, Sequence[Any]]
    started: float
    seconds: float
    phases: tuple[Phase, ...] = ()
    faults: tuple[Fault, ...] = ()
    differences: tuple[str, ...] = ()
    lost_writes: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    felt: Felt = field(default_factory=Felt)
    shadow: str = ""
    rows: int = 0
    schema_after: str = ""
    facts_after: str = ""

    @property
    def key(self) -> str:
        """``OPT3 · killed``, as task labels and messages name it."""
        return f"{self.subject} · {self.scenario}"

    @property
    def holds(self) -> bool:
        """True only for a proof that ran to its end and found nothing."""
        return self.verdict == Verdict.HOLDS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote."""
        proof: Self = TypeAdapter(cls).validate_python(dict(record))
        return proof


# The scenario name of the dependency orders.
ORDER = "order"


def owed(release: Release) -> tuple[tuple[Subject, str], ...]:
    """Subject and scenario name of every proof that the release owes, in the order of the board."""
    standard = [(subject, scenario) for subject in standard_subjects(release) for scenario in release.proof.scenarios]
    orders = order_subjects(release) if release.proof.orders else ()
    return (*standard, *((subject, ORDER) for subject in orders))


def script_digests(release: Release, subject: Subject) -> dict[str, dict[str, str]]:
    """sha256 of every script that a proof of ``subject`` runs, by change and role, and of the support scripts by file name."""
    scripts = {name: release.change(name).digests for name in subject.changes}
    return scripts | {SUPPORT: {script.path.name: script.sha256 for script in release.support}}


def standard_subjects(release: Release) -> tuple[Subject, ...]:
    """Each change alone, on what it requires: the rows of the board."""
    return tuple(
        Subject(change.name, change.title, base := required(release, change.name), (change.name,), (change.name,), base)
        for change in release.changes
    )


def order_subjects(release: Release) -> tuple[Subject, ...]:
    """The orders of rolling back that a release allows: each change with its dependants on it, alone and among the others.

    A change goes after everything that stands on it, and whatever does not stand on it stays in place.
    """
    everything = tuple(change.name for change in release.changes)
    subjects = []
    for change in release.changes:
        dependants = tuple(each.name for each in release.dependants(change.name))
        if dependants:
            family = {*required(release, change.name), change.name, *dependants}
            standing = tuple(name for name in everything if name in family)
            on_it = f"{change.name} with {', '.join(reversed(dependants))} on it"
            subjects.append(_leaving(on_it, change.name, standing, dependants))
        subjects.append(_leaving(f"{change.name} out of all", change.name, everything, dependants))
    return tuple(subjects)


def required(release: Release, name: str) -> tuple[str, ...]:
    """Everything that ``name`` requires, directly or not, in the order in which it is applied."""
    wanted = {name}
    for change in reversed(release.changes):
        if change.name in wanted:
            wanted.update(change.requires)
    return tuple(change.name for change in release.changes if change.name in wanted - {name})


def _leaving(label: str, name: str, standing: tuple[str, ...], dependants: tuple[str, ...]) -> Subject:
    backward = (*dependants, name)
    left = tuple(each for each in standing if each not in backward)
    gone = " then ".join(backward)
    title = f"{gone} rolled back" + (f", {', '.join(left)} left in place" if left else ", nothing else in place")
    return Subject(label, title, standing, (), backward, left)
