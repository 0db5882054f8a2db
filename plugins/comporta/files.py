"""The project's YAML files: each has a model that refuses the unknown, and is refused by the names of all that is wrong in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from comporta.errors import ConfigurationError


class Strict(BaseModel):
    """A part of a file: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Strict)


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


def read_file(path: Path, model: type[M]) -> M:
    """Read ``path`` into ``model``; ConfigurationError names the file and everything in it that is unknown, missing or wrong."""
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
        return model.model_validate(content)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {_reason(item['type'], item['msg'])}"
            for item in error.errors()
        ]
        raise refused(path, found) from error


def refused(path: Path, found: Sequence[str]) -> ConfigurationError:
    """The error for a file of which ``found`` is wrong, a line each."""
    return ConfigurationError(
        f"{path}: {len(found)} setting(s) refused\n  " + "\n  ".join(found),
        remedy="Correct the keys named above; nothing was contacted.",
    )


def _reason(kind: str, message: str) -> str:
    return "unknown key" if kind == "extra_forbidden" else message
