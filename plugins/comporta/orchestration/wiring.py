"""What a DAG file needs to know while it is parsed: names. The files of ``config/`` are source beside the DAG, not a look-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from comporta.settings import project_root

SHADOW_POOL = "shadow"


@dataclass(frozen=True)
class ChangeOutline:
    """Name, title and stem of a change, for task ids, tooltips and the names of its scripts."""

    name: str
    title: str
    stem: str

    def script(self, step: str) -> str:
        """The file of apply, verify or rollback, as the project's folders have it."""
        return f"sql/{step}/{'ROLLBACK_' if step == 'rollback' else ''}{self.stem}.sql"


def change_outlines() -> tuple[ChangeOutline, ...]:
    """The changes of ``config/release.yaml`` in their order; the full, checked release is loaded inside the tasks."""
    return tuple(ChangeOutline(name, entry["title"], entry["stem"]) for name, entry in _release()["changes"].items())


def scenario_names() -> tuple[str, ...]:
    """The scenarios that every rollback is proved under."""
    return tuple(_release().get("proof", {}).get("scenarios", ("restore",)))


def ladder_sizes() -> list[float]:
    """The sizes of STAGE 4's whole ladder, and of its quick one where it has others: times the rows of the target."""
    plan = _release().get("capacity", {})
    sizes = {size for form in ("ladder", "quick") for size in plan.get(form, {}).get("sizes", (1, 2, 4))}
    return sorted(sizes)


def order_names() -> tuple[str, ...]:
    """The subjects of ``validation.model.order_subjects`` by name; none where the release does without them."""
    content = _release()
    requires = {name: set(entry.get("requires", ())) for name, entry in content["changes"].items()}
    names: list[str] = []
    for change in requires if content.get("proof", {}).get("orders", True) else ():
        if dependants := _dependants(change, requires):
            names.append(f"{change} with {', '.join(dependants)} on it")
        names.append(f"{change} out of all")
    return tuple(names)


def _dependants(change: str, requires: Mapping[str, set[str]]) -> list[str]:
    """What stands on ``change``, directly or not, in the order of the release, which lists a change after its needs."""
    family = {change}
    for name, needed in requires.items():
        if needed & family:
            family.add(name)
    return [name for name in requires if name in family - {change}]


def readiness_owners() -> tuple[str, ...]:
    """The roles that the daily sync asks, in the order of ``config/gates.yaml``, which the tasks load in full."""
    return tuple(_file("gates.yaml")["readiness"]["owners"])


def sync_gates() -> tuple[str, ...]:
    """The gates that the daily sync puts, in their order."""
    return tuple(_file("gates.yaml")["daily_sync"]["gates"])


def _release() -> dict[str, Any]:
    return _file("release.yaml")


def _file(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((project_root() / "config" / name).read_text(encoding="utf-8"))
    return content
