"""Applied, verified and rolled back while people read: schema, data and sequence positions are exactly as before."""

from __future__ import annotations

from comporta.validation.trial import Trial

WRITES = False  # so that not even a sequence may have moved


def run(trial: Trial) -> None:
    trial.apply()
    trial.rollback()
