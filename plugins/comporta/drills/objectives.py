"""The recovery objectives of ``config/drills.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comporta.errors import ConfigurationError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Objective(_Strict):
    """What a recovery may cost: seconds until normal work (RTO), and what may be missing afterwards (RPO)."""

    recovery_s: Annotated[float, Field(gt=0)]
    lost: Annotated[int, Field(ge=0)]


class DrillPlan(_Strict):
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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})", remedy="Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}", remedy="Correct the file.") from error
    try:
        plan = DrillPlan.model_validate(content)
    except ValidationError as error:
        found = "\n  ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: "
            f"{'unknown key' if item['type'] == 'extra_forbidden' else item['msg']}"
            for item in error.errors()
        )
        raise _refused(path, error.error_count(), found) from error
    if unknown := sorted(plan.objectives.keys() - set(drills)):
        found = "\n  ".join(f"objectives.{name}: no such drill" for name in unknown)
        raise _refused(path, len(unknown), found)
    for name in drills:
        plan.of(name)
    return plan


def _refused(path: Path, count: int, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {count} setting(s) refused\n  {found}", remedy="Correct the keys named above; nothing was contacted."
    )
