"""The kinds of trouble that a rollback is proved under, one module each.

A module's first line says what it does, in one sentence that people read on the board; its function ``run`` drives a
``Trial``. ``WRITES = False`` leaves live traffic at reading; ``CRASHES = True`` excuses operations that a crashed server
did not answer. A new scenario is one file here and its name in ``config/release.yaml``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from comporta.errors import ConfigurationError
from comporta.validation.trial import Trial


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble: ``run`` makes it and raises TrialFailed where the rollback does not stand it."""

    name: str
    sentence: str
    run: Callable[[Trial], None]
    writes: bool = True
    crashes: bool = False


def known_scenarios() -> tuple[str, ...]:
    """Names of the modules in this folder."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def load_scenarios(names: Sequence[str]) -> tuple[Scenario, ...]:
    """The named scenarios in that order; ConfigurationError names the one that is not there."""
    unknown = [name for name in names if name not in known_scenarios()]
    if unknown:
        raise ConfigurationError(
            f"no scenario {', '.join(unknown)}: there are {', '.join(known_scenarios())}",
            remedy="Correct the name, or add plugins/comporta/validation/scenarios/<name>.py.",
        )
    return tuple(_load(name) for name in names)


def _load(name: str) -> Scenario:
    module = import_module(f"{__name__}.{name}")
    sentence = (module.__doc__ or name).strip().splitlines()[0]
    return Scenario(name, sentence, module.run, getattr(module, "WRITES", True), getattr(module, "CRASHES", False))
