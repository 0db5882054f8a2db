"""The release: an ordered set of changes with their dependencies and budgets, read from ``config/release.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from comporta.errors import ConfigurationError
from comporta.files import Strict, read_file
from comporta.postgres.script import Script
from comporta.release.capacity import CapacityPlan
from comporta.release.health import HealthPlan

Milliseconds = Annotated[int, Field(gt=0)]


class Budget(Strict):
    """What a change may cost while people use the target."""

    longest_stall_ms: Milliseconds = 200
    longest_exclusive_lock_ms: Milliseconds = 50
    lock_timeout_ms: Milliseconds = 2000
    index_timeout_s: Annotated[int, Field(gt=0)] = 3600


class BudgetOverride(Strict):
    """The parts of the budget in which one change differs from its release."""

    longest_stall_ms: Milliseconds | None = None
    longest_exclusive_lock_ms: Milliseconds | None = None
    lock_timeout_ms: Milliseconds | None = None
    index_timeout_s: Annotated[int, Field(gt=0)] | None = None


class DryRunPlan(Strict):
    """How STAGE 2 loads the clone, and which of the catalogue's own queries it times before and after each change."""

    reads_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    writes_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    settle_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    queries: dict[str, str] = Field(default_factory=dict)


class ProofPlan(Strict):
    """How STAGE 3 proves each rollback: under which scenarios, under how much traffic, and with what in its way.

    ``longest_wait_ms`` is the longest that the rollback may make others queue while readers hold it up for ``obstacle_s``.
    """

    scenarios: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...] = ("restore",)
    orders: bool = True
    reads_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    writes_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    obstacle_s: Annotated[float, Field(gt=0, le=600)] = 6.0
    longest_wait_ms: Milliseconds = 500

    @property
    def conditions(self) -> dict[str, float]:
        """What a proof was made under, by name: less than the release asks for is another proof."""
        return {name: getattr(self, name) for name in ("reads_per_s", "writes_per_s", "obstacle_s", "longest_wait_ms")}


class RolloutPlan(Strict):
    """How long a change stands under the breakers in production before the next one is applied."""

    soak_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0


class _ChangeEntry(Strict):
    stem: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    title: str
    requires: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    accepts: dict[Annotated[str, Field(pattern=r"^[A-Z]\d\d$")], Annotated[str, Field(min_length=10)]] = Field(
        default_factory=dict
    )
    budget: BudgetOverride = BudgetOverride()


class _ReleaseFile(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    author: str
    due: date | None = None
    changes: dict[str, _ChangeEntry] = Field(min_length=1)
    budget: Budget = Budget()
    dry_run: DryRunPlan = DryRunPlan()
    proof: ProofPlan = ProofPlan()
    rollout: RolloutPlan = RolloutPlan()
    health: HealthPlan = HealthPlan()
    capacity: CapacityPlan = CapacityPlan()

    @model_validator(mode="after")
    def _canaries_are_known(self) -> Self:
        self.health.canary_queries(self.dry_run.queries)
        return self


@dataclass(frozen=True)
class Change:
    """One optimization: three scripts with one stem. ``accepts``: hazard code -> why a warning of it is as it should be."""

    name: str
    stem: str
    title: str
    requires: tuple[str, ...]
    tables: tuple[str, ...]
    accepts: dict[str, str]
    budget: Budget
    apply: Script
    verify: Script
    rollback: Script

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the three scripts; a proof is bound to them."""
        return {"apply": self.apply.sha256, "verify": self.verify.sha256, "rollback": self.rollback.sha256}


@dataclass(frozen=True)
class Release:
    """The changes in the order in which they are applied: every change stands after those that it requires.

    ``due`` is the day of the rollout, where one is set.
    """

    name: str
    title: str
    author: str
    changes: tuple[Change, ...]
    support: tuple[Script, ...]
    dry_run: DryRunPlan
    proof: ProofPlan
    rollout: RolloutPlan
    due: date | None = None
    health: HealthPlan = field(default_factory=HealthPlan)
    capacity: CapacityPlan = field(default_factory=CapacityPlan)

    def change(self, name: str) -> Change:
        """The change called ``name``; ConfigurationError lists the known names."""
        for change in self.changes:
            if change.name == name:
                return change
        known = ", ".join(change.name for change in self.changes)
        raise ConfigurationError(f"no change {name!r} in release {self.name}: it has {known}")

    @property
    def canaries(self) -> dict[str, str]:
        """The queries by which the health of the target is told, by name."""
        return self.health.canary_queries(self.dry_run.queries)

    def dependants(self, name: str) -> tuple[Change, ...]:
        """Everything that requires ``name``, directly or not, in the order in which it must be rolled back."""
        needed = {self.change(name).name}
        for change in self.changes:
            if needed.intersection(change.requires):
                needed.add(change.name)
        return tuple(change for change in reversed(self.changes) if change.name in needed and change.name != name)


def load_release(path: Path, sql: Path) -> Release:
    """Read ``path`` and every script under ``sql``; ConfigurationError or ScriptError names what is wrong and where."""
    entry = read_file(path, _ReleaseFile)
    _check_dependencies(entry, path)
    missing = [
        f"{name}: {file}"
        for name, change in entry.changes.items()
        for file in _files(change, sql)
        if not file.is_file()
    ]
    if missing:
        raise ConfigurationError(
            f"{path}: {len(missing)} script(s) missing\n  " + "\n  ".join(missing),
            remedy="Each change needs sql/apply/<stem>.sql, sql/verify/<stem>.sql and sql/rollback/ROLLBACK_<stem>.sql.",
        )
    return Release(
        name=entry.name,
        title=entry.title,
        author=entry.author,
        changes=tuple(_change(name, entry, sql) for name in entry.changes),
        support=tuple(Script.read(file) for file in sorted((sql / "support").glob("*.sql"))),
        dry_run=entry.dry_run,
        proof=entry.proof,
        rollout=entry.rollout,
        due=entry.due,
        health=entry.health,
        capacity=entry.capacity,
    )


def _check_dependencies(entry: _ReleaseFile, path: Path) -> None:
    for name, change in entry.changes.items():
        for needed in change.requires:
            if needed not in entry.changes:
                raise ConfigurationError(f"{path}: {name} requires {needed}, which is not in the release")
    try:
        list(TopologicalSorter({name: change.requires for name, change in entry.changes.items()}).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigurationError(
            f"{path}: the changes require each other in a circle: {circle}", remedy="Remove one of these dependencies."
        ) from error
    seen: set[str] = set()
    for name, change in entry.changes.items():
        late = [needed for needed in change.requires if needed not in seen]
        if late:
            raise ConfigurationError(
                f"{path}: {name} stands before {', '.join(late)}, which it requires",
                remedy="List a change after those that it requires: the list is the order of the rollout.",
            )
        seen.add(name)


def _files(change: _ChangeEntry, sql: Path) -> tuple[Path, Path, Path]:
    return (
        sql / "apply" / f"{change.stem}.sql",
        sql / "verify" / f"{change.stem}.sql",
        sql / "rollback" / f"ROLLBACK_{change.stem}.sql",
    )


def _change(name: str, entry: _ReleaseFile, sql: Path) -> Change:
    change = entry.changes[name]
    apply, verify, rollback = (Script.read(file) for file in _files(change, sql))
    return Change(
        name=name,
        stem=change.stem,
        title=change.title,
        requires=change.requires,
        tables=change.tables,
        accepts=change.accepts,
        budget=entry.budget.model_copy(update=change.budget.model_dump(exclude_none=True)),
        apply=apply,
        verify=verify,
        rollback=rollback,
    )
