"""Rolled back with everything that stands on it, dependants first, while people read and write; the rest stays in place."""

from __future__ import annotations

from comporta.validation.trial import Trial


def run(trial: Trial) -> None:
    trial.apply()
    trial.rollback()
