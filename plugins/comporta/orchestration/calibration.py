"""The task of ``capacity_calibration``: hold STAGE 4's forecast against production, when a look is due."""

from __future__ import annotations

import logging

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from comporta.orchestration.connections import settings_from_airflow

log = logging.getLogger(__name__)


@task
def compare_with_production() -> dict[str, float | None]:
    """Compare rows, bytes, growth, latency, refresh and connections with what was forecast. Reads the target, writes the ledger."""
    from comporta.capacity.calibration import CalibrationError, calibrate_when_due
    from comporta.release.model import load_release

    settings = settings_from_airflow()
    release = load_release(settings.release_path, settings.home / "sql")
    try:
        made = calibrate_when_due(settings, release, actor="airflow:scheduler")
    except CalibrationError as error:
        raise AirflowSkipException(error.message) from error
    for item in made.items:
        log.info("%s: predicted %s (80 %% interval %s), found %s, error %s", *item.cells())
    log.info(made.sentence)
    return {item.what: item.error for item in made.items}
