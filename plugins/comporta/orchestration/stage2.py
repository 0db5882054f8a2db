"""The tasks of ``stage2_dry_run``: each calls one step of ``comporta.dryrun.rehearsal`` with this run's folder and ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from comporta.orchestration.assets import DRY_RUN
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address
from comporta.orchestration.stage_run import stage_run

if TYPE_CHECKING:
    from comporta.dryrun.rehearsal import Rehearsal

log = logging.getLogger(__name__)


@contextmanager
def _rehearsal() -> Iterator[Rehearsal]:
    # The DAG processor reads this module again and again: what draws plots and parses SQL is loaded in the task only.
    from comporta.dryrun.rehearsal import open_rehearsal

    with stage_run(open_rehearsal, "keep_clone") as rehearsal:
        yield rehearsal


@task
def preflight() -> None:
    """Read the target's catalogues: long transactions, invalid indexes, disk, extensions, drift. Writes nothing."""
    with _rehearsal() as rehearsal:
        rehearsal.check()


@task
def clone_shadow() -> None:
    """Copy the target to the shadow server and prove that the copy is faithful. Reads one snapshot of the target."""
    with _rehearsal() as rehearsal:
        rehearsal.clone()


@task
def apply(change: str) -> None:
    """Apply the change on the clone, statement by statement, under live traffic. Touches the shadow only."""
    with _rehearsal() as rehearsal:
        rehearsal.apply(change)


@task
def verify(change: str) -> None:
    """Run the change's own verification on the clone. Touches the shadow only."""
    with _rehearsal() as rehearsal:
        rehearsal.verify(change)


@task
def measure(change: str) -> str:
    """Compare queries, plans, sizes and locks with those before the change, and name the hazards. Reads the shadow."""
    with _rehearsal() as rehearsal:
        return rehearsal.measure(change)


def report() -> ReportOperator:
    """Write the report, also of a run that stopped; fail unless every change passed. Emits the asset dry_run."""
    return ReportOperator(
        task_id="report",
        python_callable=_write_report,
        trigger_rule="all_done",
        outlets=[DRY_RUN],
        doc_md="Writes one HTML and one JSON file under `archives/<date>/`; the link *Report* opens the page.",
    )


def _write_report() -> str:
    context: Any = get_current_context()
    with _rehearsal() as rehearsal:
        written, verdict = rehearsal.report()
        page = str(written.html.relative_to(rehearsal.archives))
    log.info("The verdict is %s. Report: %s", verdict, report_address(page))
    context["ti"].xcom_push(key=REPORT_KEY, value=page)
    context["outlet_events"][DRY_RUN].extra = {"report": page, "digest": written.digest, "verdict": verdict}
    if verdict == "stop":
        raise AirflowFailException(f"The verdict is stop. The reasons are in {written.html}")
    return page
