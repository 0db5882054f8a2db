"""What every stage's tasks do alike: open the stage for this DAG run, give way to another, turn our errors into Airflow's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from airflow.sdk import Param, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from comporta.errors import ComportaError
from comporta.orchestration.connections import settings_from_airflow

RATES = {"reads_per_s": "Reads per second", "writes_per_s": "Writes per second"}
DRY_RUN_DAG = "stage2_dry_run"
AGAIN_AFTER_S = 60
Stage = TypeVar("Stage")
log = logging.getLogger(__name__)


def rate_params() -> dict[str, Param]:
    """The fields of the trigger form for live traffic, which ``stage_run`` passes on."""
    help_text = "Live traffic on the clone; empty means as in config/release.yaml."
    return {
        name: Param(None, type=["null", "integer"], minimum=0, maximum=10_000, title=title, description=help_text)
        for name, title in RATES.items()
    }


@contextmanager
def stage_run(open_stage: Callable[..., AbstractContextManager[Stage]], *options: str) -> Iterator[Stage]:
    """The stage of this DAG run, with the trigger form's rates, where it has them, and further ``options`` by name.

    What a person must put right is not retried: the same input gives the same answer.
    """
    context: Any = get_current_context()
    run, params = context["dag_run"], context["params"]
    try:
        with open_stage(
            settings_from_airflow(),
            run_id=run.run_id,
            started=run.run_after,
            actor=f"airflow:{getattr(run, 'triggering_user_name', None) or 'scheduler'}",
            say=log.info,
            **({"rates": {name: params[name] for name in RATES}} if set(RATES) <= set(params) else {}),
            **{name: params[name] for name in options},
        ) as stage:
            yield stage
    except ComportaError as error:
        raise AirflowFailException(str(error)) from error


def give_way_to_a_dry_run(log: logging.Logger) -> None:
    """A dry run keeps its clone from one task to the next: nothing may take the shadow in between."""
    context: Any = get_current_context()
    if context["ti"].get_dr_count(DRY_RUN_DAG, states=["running"]):
        log.info(
            "%s is under way on the shadow: this task gives way, and looks again in %s s", DRY_RUN_DAG, AGAIN_AFTER_S
        )
        again = datetime.now(UTC) + timedelta(seconds=AGAIN_AFTER_S)
        raise AirflowRescheduleException(again)  # type: ignore[no-untyped-call]
