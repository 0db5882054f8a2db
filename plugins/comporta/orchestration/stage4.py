"""The tasks of ``stage4_capacity_planning``: each is one step of ``comporta.capacity.runner`` with this run's folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from comporta.orchestration.assets import CAPACITY_PLAN
from comporta.orchestration.gate_sensor import TRIES, GoNoGoSensor
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address
from comporta.orchestration.stage_run import give_way_to_a_dry_run, stage_run
from comporta.orchestration.wiring import SHADOW_POOL

if TYPE_CHECKING:
    from comporta.capacity.runner import CapacityRun

GATE = "stage4"
log = logging.getLogger(__name__)


@contextmanager
def _run() -> Iterator[CapacityRun]:
    # The DAG processor reads this module again and again: what fits and draws is loaded in the task only.
    from comporta.capacity.runner import open_capacity

    with stage_run(open_capacity, "quick", "fresh_clone") as run:
        yield run


def wait_for_go() -> GoNoGoSensor:
    """The decision that the daily sync was given; nothing is asked here."""
    return GoNoGoSensor(
        task_id="wait_for_go",
        gate=GATE,
        opened_by="daily_sync",
        retries=TRIES,
        doc_md="Waits for the Go that the people of `config/gates.yaml` give in the daily sync. Touches the ledger only.",
    )


@task(pool=SHADOW_POOL)
def prepare() -> None:
    """Look at the target, its history and its recorded load; copy it where no copy waits. Reads the target, touches the shadow."""
    give_way_to_a_dry_run(log)
    with _run() as run:
        log.info("Reads the target %s. Touches the golden copy on %s.", *_places(run))
        run.prepare()


@task(pool=SHADOW_POOL, max_active_tis_per_dagrun=1, map_index_template="{{ task.op_kwargs['size'] }}x rows")
def load_ladder(size: float) -> None:
    """Climb the ladder at this many times the rows, before, through and after the release. Touches the shadow only.

    Rungs that stand are not measured again; an open breaker of the target ends the task, and clearing it goes on.
    """
    give_way_to_a_dry_run(log)
    with _run() as run:
        if size not in run.ladder.sizes:
            log.info("This run's ladder has no %sx, which the other one has: nothing to do", size)
            return
        log.info("Watches the target %s. Touches a clone of it on %s.", *_places(run))
        log.info("%s rung(s) are left over all sizes", run.climb.left())
        run.climb_size(size, lambda _: log.info("%s rung(s) left over all sizes", run.climb.left()))


@task
def fit() -> None:
    """Fit the models, and test each on the rung that it has not seen. Touches files only."""
    with _run() as run:
        run.fit()


@task
def forecast() -> None:
    """Say when disk, latency, connections and the rest reach their limits, as dates with intervals. Touches files only."""
    with _run() as run:
        for answer in run.forecast().answers:
            log.info("%s · %s: %s", answer.question, answer.subject, answer.text)


def report() -> ReportOperator:
    """Write the report; fail when an objective is not met now. Emits capacity_plan."""
    return ReportOperator(
        task_id="report",
        python_callable=_write_report,
        outlets=[CAPACITY_PLAN],
        doc_md="Writes one HTML and one JSON file under `archives/<date>/`; the link *Report* opens the page.",
    )


def _write_report() -> str:
    context: Any = get_current_context()
    with _run() as run:
        written, verdict = run.report()
        page = str(written.html.relative_to(run.settings.archives_path))
    log.info("The verdict is %s. Report: %s", verdict, report_address(page))
    context["ti"].xcom_push(key=REPORT_KEY, value=page)
    context["outlet_events"][CAPACITY_PLAN].extra = {"report": page, "digest": written.digest, "verdict": verdict}
    if verdict == "stop":
        raise AirflowFailException(f"The verdict is stop: an objective is not met. The reasons are in {written.html}")
    return page


def _places(run: CapacityRun) -> tuple[str, str]:
    from comporta.postgres.connection import describe

    return describe(run.target_dsn), describe(run.shadow_dsn)
