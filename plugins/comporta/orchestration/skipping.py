"""Skipping what stands behind a gate that did not open."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_KEY, XCOM_SKIPMIXIN_SKIPPED
from airflow.sdk.execution_time.comms import SkipDownstreamTasks


def skip_everything_behind(context: Any, *, spare: Collection[str], log: logging.Logger) -> None:
    """Skip every task behind this one, whatever its trigger rule; tasks in ``spare`` decide by their own.

    A task directly behind that somebody clears alone is skipped again, as long as this task's answer stands.
    """
    # The comms exist in a running task only.
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    behind = [task.task_id for task in context["task"].get_flat_relatives(upstream=False)]
    skipped = sorted(set(behind) - set(spare))
    if not skipped:
        return
    log.info("Nothing behind the gate runs: %s", ", ".join(skipped))
    context["ti"].xcom_push(key=XCOM_SKIPMIXIN_KEY, value={XCOM_SKIPMIXIN_SKIPPED: skipped})
    SUPERVISOR_COMMS.send(msg=SkipDownstreamTasks(tasks=skipped))
