"""The recovery objectives of ``config/drills.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from comporta.errors import ConfigurationError
from comporta.files import Strict, read_file, refused


class Objective(Strict):
    """What a recovery may cost: seconds until normal work (RTO), and what may be missing afterwards (RPO)."""

    recovery_s: Annotated[float, Field(gt=0)]
    lost: Annotated[int, Field(ge=0)]


class DrillPlan(Strict):
    """The file: an objective for each drill, and how fast a copy of a server may be read."""

    objectives: Mapping[str, Objective]
    backup_rate_mb_per_s: Annotated[int, Field(ge=1, le=1024)] = 200

    def of(self, name: str) -> Objective:
        """The objective of one drill; ConfigurationError when it has none: a drill without one proves nothing."""
        try:
            return self.objectives[name]
        except KeyError:
            raise ConfigurationError(
                f'config/drills.yaml: no objective for the drill "{name}"',
                remedy=f"Add it under objectives: {name}: {{recovery_s: 60, lost: 0}}",
            ) from None


def load_plan(path: Path, drills: tuple[str, ...]) -> DrillPlan:
    """Read ``path``; ConfigurationError names every key that is unknown, missing or wrong. ``drills`` are those there are."""
    plan = read_file(path, DrillPlan)
    if unknown := sorted(plan.objectives.keys() - set(drills)):
        raise refused(path, [f"objectives.{name}: no such drill" for name in unknown])
    for name in drills:
        plan.of(name)
    return plan
