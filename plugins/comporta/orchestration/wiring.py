"""What a DAG file needs to know while it is parsed: names. The release file is source beside the DAG, not a look-up."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from comporta.settings import project_root

SHADOW_POOL = "shadow"


@dataclass(frozen=True)
class ChangeOutline:
    """Name and title of a change, for task ids and tooltips."""

    name: str
    title: str


def change_outlines() -> tuple[ChangeOutline, ...]:
    """The changes of ``config/release.yaml`` in their order; the full, checked release is loaded inside the tasks."""
    content = yaml.safe_load((project_root() / "config" / "release.yaml").read_text(encoding="utf-8"))
    return tuple(ChangeOutline(name, entry["title"]) for name, entry in content["changes"].items())
