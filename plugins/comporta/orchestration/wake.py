"""Wakes the tasks whose gates were decided on the Gates page, as Airflow does for an answer under Required Actions.

Only a saving of time: a task that is not woken here is woken by its trigger, a second later, and one that is woken for nothing
reads the ledger and waits again. A task that parked less than 3 s ago is left to its trigger (see ``early_answers``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import handle_event_submit
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy import select

from comporta.gates import Gate
from comporta.orchestration.early_answers import Parked
from comporta.orchestration.gate_trigger import GateTrigger

log = logging.getLogger(__name__)


def wake(gates: Iterable[Gate]) -> None:
    """Resume the task of each gate that is decided; never raises."""
    for gate in gates:
        if gate.state in ("go", "no_go"):
            try:
                _resume(gate.asked_by)
            except Exception:
                log.exception("the task of gate %s is left to its trigger", gate.gate)


def _resume(asked_by: Mapping[str, Any]) -> None:
    asked = (
        select(TaskInstance)
        .where(
            TaskInstance.dag_id == asked_by["dag_id"],
            TaskInstance.run_id == asked_by["run_id"],
            TaskInstance.task_id == asked_by["task_id"],
            TaskInstance.map_index == asked_by["map_index"],
        )
        .with_for_update(of=TaskInstance, skip_locked=True)
    )
    with create_session() as session:
        task = session.scalar(asked)
        if task is None or task.state != "deferred":
            return
        if Parked(task.state, task.updated_at).settles_in_s(datetime.now(UTC)) == 0.0:
            event = TriggerEvent({"source": GateTrigger.SOURCE})  # type: ignore[no-untyped-call]
            handle_event_submit(event, task_instance=task, session=session)
