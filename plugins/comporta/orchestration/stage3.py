"""The tasks of ``stage3_rollback_validation``: each is one step of ``comporta.validation.runner`` with this run's folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from comporta.orchestration.assets import ROLLBACK_PROOFS
from comporta.orchestration.connections import settings_from_airflow
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address
from comporta.orchestration.stage_run import give_way_to_a_dry_run, stage_run

if TYPE_CHECKING:
    from comporta.validation.runner import Validation

log = logging.getLogger(__name__)


@contextmanager
def _validation() -> Iterator[Validation]:
    # The DAG processor reads this module again and again: what draws plots and parses SQL is loaded in the task only.
    from comporta.validation.runner import open_validation

    with stage_run(open_validation, "fresh_clone") as validation:
        yield validation


@task
def prepare() -> None:
    """Look at the target, and copy it to each shadow where no copy of exactly this target waits. Reads the target once."""
    give_way_to_a_dry_run(log)
    with _validation() as validation:
        log.info("Reads the target %s. Touches the golden copy on %s.", *_places(validation))
        validation.prepare()


@task(map_index_template="{{ task.op_kwargs['change'] }} · {{ task.op_kwargs['scenario'] }}")
def prove_rollback(change: str, scenario: str) -> None:
    """Apply the change on a clone, roll it back under the scenario's trouble, and compare everything. Touches a shadow."""
    _prove(change, scenario)


@task(map_index_template="{{ task.op_kwargs['order'] }}")
def prove_order(order: str) -> None:
    """Roll a change back together with all that stands on it, and compare what is left. Touches a shadow."""
    from comporta.validation.model import ORDER

    _prove(order, ORDER)


def _prove(subject: str, scenario: str) -> None:
    give_way_to_a_dry_run(log)
    with _validation() as validation:
        log.info("Reads the target %s. Touches a clone of it on %s.", *_places(validation))
        proof = validation.prove(validation.task(subject, scenario))
    if not proof.holds:
        raise AirflowFailException(f"{proof.key}: {proof.verdict}\n" + "\n".join(proof.reasons))


def report() -> ReportOperator:
    """Write the report, also of a run that stopped; fail unless all proofs hold and are valid. Emits rollback_proofs."""
    return ReportOperator(
        task_id="report",
        python_callable=_write_report,
        trigger_rule="all_done",
        outlets=[ROLLBACK_PROOFS],
        doc_md="Writes one HTML and one JSON file under `archives/<date>/`; the link *Report* opens the page.",
    )


def _write_report() -> str:
    from comporta.validation.validity import validity_now

    context: Any = get_current_context()
    with _validation() as validation:
        log.info("Reads the records of this run and the target. Touches files under %s.", validation.folder.path)
        written, verdict = validation.report()
        page = str(written.html.relative_to(validation.archives))
        statuses = validity_now(settings_from_airflow())
    log.info("The verdict is %s. Report: %s", verdict, report_address(page))
    context["ti"].xcom_push(key=REPORT_KEY, value=page)
    context["outlet_events"][ROLLBACK_PROOFS].extra = {"report": page, "digest": written.digest, "verdict": verdict}
    if verdict != "pass":
        raise AirflowFailException(
            f"The verdict is {verdict}: not every proof holds. The reasons are in {written.html}"
        )
    # A run that was cleared in part may hold proofs of scripts, or of a target, as they were before.
    if stale := [f"{each.subject} · {each.scenario}: {'; '.join(each.reasons)}" for each in statuses if not each.valid]:
        raise AirflowFailException(f"{len(stale)} proof(s) held and are not valid now\n" + "\n".join(stale))
    return page


def _places(validation: Validation) -> tuple[str, str]:
    from comporta.postgres.connection import describe

    return describe(validation.target_dsn), " or ".join(map(describe, validation.shadow_dsns))
