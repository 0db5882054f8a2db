"""The release: an ordered set of changes with their dependencies and budgets, read from ``config/release.yaml``."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comporta.errors import ConfigurationError
from comporta.postgres.script import Script

Milliseconds = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(_Strict):
    """What a change may cost while people use the target."""

    longest_stall_ms: Milliseconds = 200
    longest_exclusive_lock_ms: Milliseconds = 50
    lock_timeout_ms: Milliseconds = 2000
    index_timeout_s: Annotated[int, Field(gt=0)] = 3600


class BudgetOverride(_Strict):
    """The parts of the budget in which one change differs from its release."""

    longest_stall_ms: Milliseconds | None = None
    longest_exclusive_lock_ms: Milliseconds | None = None
    lock_timeout_ms: Milliseconds | None = None
    index_timeout_s: Annotated[int, Field(gt=0)] | None = None


class DryRunPlan(_Strict):
    """How STAGE 2 loads the clone, and which of the catalogue's own queries it times before and after each change."""

    reads_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    writes_per_s: Annotated[int, Field(ge=0, le=10_000)] = 50
    settle_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    queries: dict[str, str] = {}


class ProofPlan(_Strict):
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


class _ChangeEntry(_Strict):
    stem: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    title: str
    requires: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    accepts: dict[Annotated[str, Field(pattern=r"^[A-Z]\d\d$")], Annotated[str, Field(min_length=10)]] = {}
    budget: BudgetOverride = BudgetOverride()


class _ReleaseFile(_Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    author: str
    changes: dict[str, _ChangeEntry] = Field(min_length=1)
    budget: Budget = Budget()
    dry_run: DryRunPlan = DryRunPlan()
    proof: ProofPlan = ProofPlan()


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
    """The changes in the order in which they are applied: every change stands after those that it requires."""

    name: str
    title: str
    author: str
    changes: tuple[Change, ...]
    support: tuple[Script, ...]
    dry_run: DryRunPlan
    proof: ProofPlan

    def change(self, name: str) -> Change:
        """The change called ``name``; ConfigurationError lists the known names."""
        for change in self.changes:
            if change.name == name:
                return change
        known = ", ".join(change.name for change in self.changes)
        raise ConfigurationError(f"no change {name!r} in release {self.name}: it has {known}")

    def dependants(self, name: str) -> tuple[Change, ...]:
        """Everything that requires ``name``, directly or not, in the order in which it must be rolled back."""
        needed = {self.change(name).name}
        for change in self.changes:
            if needed.intersection(change.requires):
                needed.add(change.name)
        return tuple(change for change in reversed(self.changes) if change.name in needed and change.name != name)


def load_release(path: Path, sql: Path) -> Release:
    """Read ``path`` and every script under ``sql``; ConfigurationError or ScriptError names what is wrong and where."""
    entry = _read_file(path)
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
    )


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error: elsewhere the later silently replaces the earlier."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read_file(path: Path) -> _ReleaseFile:
    try:
        with path.open(encoding="utf-8") as stream:
            content = _UniqueKeys(stream).get_single_data()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})", remedy="Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8", remedy="Save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}", remedy="Correct the file.") from error
    try:
        return _ReleaseFile.model_validate(content)
    except ValidationError as error:
        found = "\n  ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {_reason(item['type'], item['msg'])}"
            for item in error.errors()
        )
        raise ConfigurationError(
            f"{path}: {error.error_count()} setting(s) refused\n  {found}",
            remedy="Correct the keys named above; nothing was contacted.",
        ) from error


def _reason(kind: str, message: str) -> str:
    return "unknown key" if kind == "extra_forbidden" else message


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
