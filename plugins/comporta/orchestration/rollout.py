"""The tasks of ``rollout`` and ``rollback``: each is one step of ``comporta.rollout.engine`` on the target.

The steps that run a script are PostgresOperators: they end their statement when the task is killed, and are tried
again where that may help. Whatever Airflow believes of a task, marked by hand or not, the engine asks the ledger
and the target.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from comporta.errors import ComportaError
from comporta.orchestration.connections import settings_from_airflow
from comporta.orchestration.gate_sensor import GoNoGoSensor
from comporta.orchestration.postgres_operator import PostgresOperator
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address
from comporta.orchestration.run_note import add_note, note_task
from comporta.orchestration.wiring import ChangeOutline

if TYPE_CHECKING:
    from comporta.postgres.stopping import StopSwitch
    from comporta.rollout.engine import Rollout

GATE_TASK = "gate"
RETRIES = 2
STEPS = ("apply", "verify", "watch", "rollback")

log = logging.getLogger(__name__)


@contextmanager
def rollout_of(context: Any, stop: StopSwitch | None = None) -> Iterator[Rollout]:
    """The rollout of this DAG run. What may pass by itself is tried again, everything else fails the task at once."""
    # The DAG processor reads this module again and again: what parses SQL and draws plots is loaded in the task only.
    from comporta.postgres.execution import may_pass
    from comporta.rollout.engine import open_rollout

    run = context["dag_run"]
    try:
        with open_rollout(
            settings_from_airflow(),
            run=f"{run.dag_id}/{run.run_id}",
            started=run.run_after,
            actor=f"airflow:{run.triggering_user_name or 'scheduler'}",
            say=log.info,
            stop=stop,
        ) as opened:
            yield opened
    except ComportaError as error:
        if may_pass(error):
            raise
        raise AirflowFailException(str(error)) from error


@task(retries=RETRIES)
def preflight() -> None:
    """Is everything proved, unchanged and well? Reads the target, the ledger and the disk; notes the backup point."""
    with rollout_of(get_current_context()) as rollout:
        rollout.preflight()


def gate() -> GoNoGoSensor:
    """Uses the Go of the daily sync where one is in force; else puts the question itself."""
    return GoNoGoSensor(
        task_id=GATE_TASK,
        gate="rollout",
        accepts_of="daily_sync",
        doc_md="Waits for the Go of the people whom `config/gates.yaml` names; a Go of the daily sync that is in force is used. "
        "Touches the ledger only.",
    )


class ChangeOperator(PostgresOperator):
    """One step of one change on the target: apply, verify or rollback; which script it runs shows as its ``sql``."""

    step: ClassVar[str] = ""

    def __init__(self, *, change: ChangeOutline, **kwargs: Any) -> None:
        self.change = change.name
        super().__init__(task_id=self.step, sql=change.script(self.step), retries=RETRIES, **kwargs)

    def run(self, context: Any) -> Any:
        """Do the step, under the rollout's claim, time-outs and records; the note on the task says what came of it."""
        with rollout_of(context, self.stop) as rollout, _noted(context) as note:
            note.append(self._do(context, rollout))

    def _do(self, context: Any, rollout: Rollout) -> str:
        raise NotImplementedError


class ApplyChange(ChangeOperator):
    """Applies the change, under the Go that the gate of this run was given."""

    step = "apply"

    def _do(self, context: Any, rollout: Rollout) -> str:
        from comporta.rollout.go import Go

        answer = context["ti"].xcom_pull(task_ids=GATE_TASK) or {}
        return rollout.apply(self.change, Go(rollout.settings.require("control"), answer.get("gate"), rollout.run))


class VerifyChange(ChangeOperator):
    """Runs the change's own verification, three times before it counts as failed."""

    step = "verify"

    def _do(self, context: Any, rollout: Rollout) -> str:  # noqa: ARG002 - as the others
        return rollout.verify(self.change)


class RollBackChange(ChangeOperator):
    """Armed, it waits for a person to clear it; after a failure it rolls back by itself. Dependants go first."""

    step = "rollback"

    def _do(self, context: Any, rollout: Rollout) -> str:
        ti = context["ti"]
        decision = rollout.rollback_if_due(self.change, cycle=ti.max_tries - (self.retries or 0))
        log.info("%s", decision.because)
        if decision.kind != "roll back":
            _note(context, decision.because)
            raise AirflowSkipException(decision.because)
        add_note(ti.dag_id, ti.run_id, f"{self.change} rolled back: {decision.because}", log=log)
        if wrong := rollout.not_restored(self.change):
            _note(context, wrong[-1])
            raise AirflowFailException("\n".join(wrong))
        return f"rolled back: {decision.because}"


class WatchChange(BaseOperator):
    """Lets a change stand under the breakers for a while. Reads the health of the target; runs no script."""

    def __init__(self, *, change: ChangeOutline, **kwargs: Any) -> None:
        self.change = change.name
        super().__init__(task_id="watch", retries=RETRIES, retry_delay=timedelta(seconds=5), **kwargs)

    def execute(self, context: Any) -> None:
        """Watch to the end, or until the target was unwell three times in a row."""
        with rollout_of(context) as rollout, _noted(context) as note:
            note.append(rollout.watch(self.change))


def carry(change: ChangeOutline) -> tuple[ApplyChange, WatchChange, RollBackChange]:
    """The tasks of one change: what the next one waits for is the second; what the outcome waits for, the third."""
    apply = ApplyChange(
        change=change,
        doc_md=f"Applies {change.name} ({change.title}) to the **target**, statement by statement, under the breakers. "
        "Refused before the first statement unless proofs, fingerprint, Go and health are as they must be.",
    )
    verify = VerifyChange(
        change=change, doc_md=f"Runs the verification of {change.name} on the **target**; changes nothing."
    )
    watch = WatchChange(
        change=change,
        doc_md=f"Watches the health of the **target** while {change.name} stands; changes nothing.",
    )
    rollback = RollBackChange(
        change=change,
        trigger_rule="all_done",
        task_display_name=f"{change.name}.rollback · clear me to roll back",
        doc_md=f"**Clear this task to roll {change.name} back** on the target, first what stands on it. Skipped means armed. "
        "Rolls back by itself when a step before it failed.",
    )
    apply >> verify >> watch >> rollback
    [apply, verify] >> rollback
    return apply, watch, rollback


def outcome() -> ReportOperator:
    """The report, and a red run when anything failed or was rolled back by itself."""
    return ReportOperator(
        task_id="outcome",
        python_callable=_outcome,
        trigger_rule="all_done",
        retries=RETRIES,
        doc_md="Writes the report under `archives/<date>/`, and fails when a change is not as it should be. Reads the target.",
    )


def _outcome() -> str:
    context: Any = get_current_context()
    with rollout_of(context) as rollout:
        report, verdict = rollout.outcome()
        page = str(report.html.relative_to(rollout.settings.archives_path))
    log.info("The verdict is %s. Report: %s", verdict, report_address(page))
    context["ti"].xcom_push(key=REPORT_KEY, value=page)
    if verdict == "stop":
        raise AirflowFailException(f"The verdict is stop. The reasons are in {report.html}")
    return page


class RollBackOnRequest(PostgresOperator):
    """The DAG ``rollback``: the change and the reason come from the form."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(sql=[], retries=RETRIES, **kwargs)

    def run(self, context: Any) -> list[str]:
        """Roll back; what is not on the target needs none."""
        change, why = context["params"]["change"], context["params"]["why"]
        if not change or not why.strip():
            raise AirflowFailException("Expected a change and a reason, found none: start the DAG again with both.")
        who = context["dag_run"].triggering_user_name or "somebody"
        with rollout_of(context, self.stop) as rollout:
            gone = rollout.roll_back(change, why="asked", because=f"{who}: {why}")
            wrong = rollout.not_restored(change)
        _note(context, f"rolled back: {', '.join(gone) or 'nothing'}")
        if wrong:
            raise AirflowFailException("\n".join(wrong))
        if not gone:
            raise AirflowSkipException(f"{change} is not on the target: there is nothing to roll back")
        return list(gone)


@contextmanager
def _noted(context: Any) -> Iterator[list[str]]:
    """Put what the block appends, or the first line of its failure, on the task: the grid alone tells the story."""
    told: list[str] = []
    try:
        yield told
    except ComportaError as error:
        told.append(error.message.splitlines()[0])
        raise
    finally:
        if told:
            _note(context, told[-1])


def _note(context: Any, text: str) -> None:
    ti = context["ti"]
    note_task(ti.dag_id, ti.run_id, ti.task_id, text, log=log)
