"""The tasks of ``daily_sync``, each one step of ``comporta.sync`` for this run; the questions are sensors beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from comporta.errors import ComportaError, UnreachableServer
from comporta.orchestration.assets import DAILY_SYNC
from comporta.orchestration.connections import settings_from_airflow
from comporta.orchestration.gate_sensor import TRIES, GoNoGoSensor, ReadinessSensor
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address

if TYPE_CHECKING:
    from comporta.gates.policy import GatesFile
    from comporta.ledger import Ledger
    from comporta.release.model import Release
    from comporta.settings import Settings

MINUTES = "write_minutes"
RETRIES = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """What every step of this run works with."""

    run_id: str
    started: datetime
    actor: str
    settings: Settings
    file: GatesFile
    release: Release
    ledger: Ledger


@contextmanager
def _run() -> Iterator[_Run]:
    """This DAG run. A server that is away is tried again; what a person must put right is not."""
    # The DAG processor reads this module again and again: what reads SQL is loaded in the task only.
    from comporta.gates.policy import policy_of
    from comporta.ledger import Ledger
    from comporta.release.model import load_release

    context: Any = get_current_context()
    run = context["dag_run"]
    try:
        settings = settings_from_airflow()
        release = load_release(settings.release_path, settings.home / "sql")
        with Ledger(settings.require("control")) as ledger:
            actor = f"airflow:{getattr(run, 'triggering_user_name', None) or 'scheduler'}"
            yield _Run(run.run_id, run.run_after, actor, settings, policy_of(settings), release, ledger)
    except UnreachableServer:
        raise
    except ComportaError as error:
        raise AirflowFailException(str(error)) from error


@task(retries=RETRIES)
def open_sync() -> None:
    """Record that the sync begins and whom it asks. Touches the ledger only."""
    from comporta.sync import record

    with _run() as run:
        at = record.now(run.ledger).isoformat()
        owners = run.file.readiness.owners
        record.opened(run.ledger, run.run_id, feature=run.release.name, actor=run.actor, at=at, owners=owners)
        log.info("Asks %s, who have %s min", ", ".join(owners), run.file.readiness.sla_min)


def collect_readiness(owners: Iterable[str]) -> Any:
    """Ask every owner, side by side; each has the time of the gates file, and silence is an answer."""
    return ReadinessSensor.partial(
        task_id="collect_readiness",
        map_index_template="{{ task.role }}",
        retries=TRIES,  # the sensor's own default does not reach a mapped task
        doc_md="Asks one owner for Ready or Blocker. Waits without a worker; touches the ledger only.",
    ).expand(role=list(owners))


@task(trigger_rule="all_done", retries=RETRIES)
def check_blockers(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Check the release's list by machine, add the owners' answers, and record what is in the way. Reads all servers.

    An owner whose question could not even be put counts as silent: no data is not good news.
    """
    from comporta.sync import record
    from comporta.sync.checklist import Facts, check
    from comporta.sync.model import Answer, blockers

    with _run() as run:
        given = {each.owner: each for each in map(Answer.parse, answers)}
        said = [given.get(owner, Answer(owner, "silent", "was not asked")) for owner in run.file.readiness.owners]
        now = record.now(run.ledger)
        previous = record.previous_blockers(run.ledger, run.run_id, run.release.name)
        items = check(Facts(run.settings, run.file, run.ledger, now, said, previous))
        found = blockers(said, items, previous, now)
        record.checked(
            run.ledger,
            run.run_id,
            feature=run.release.name,
            actor=run.actor,
            at=now.isoformat(),
            answers=said,
            items=items,
            blockers=found,
        )
    for each in found:
        log.warning("Blocker of %s since %s: %s", each.owner, each.since[:16], each.what)
    return {"ready": [each.owner for each in said if each.status == "ready"], "blockers": len(found)}


def write_agenda() -> ReportOperator:
    """The page on which the gates are decided."""
    return ReportOperator(
        task_id="write_agenda",
        retries=RETRIES,
        python_callable=_write,
        op_kwargs={"kind": "agenda"},
        doc_md="Writes the agenda under `archives/<date>/`: what is to be decided, on what evidence, and what is in the way.",
    )


def gate(name: str) -> GoNoGoSensor:
    """One gate of the sync. Its decision is used by the DAG that it lets through; its No-Go spares the minutes."""
    return GoNoGoSensor(
        task_id=name,
        gate=name,
        consume=False,
        spare=(MINUTES,),
        doc_md="Waits for Go or No-Go of the people whom `config/gates.yaml` names. Touches the ledger only.",
    )


def write_minutes() -> ReportOperator:
    """Who, what, blockers, decisions, next; written whatever was decided. The post sends them, and the asset tells others."""
    return ReportOperator(
        task_id=MINUTES,
        retries=RETRIES,
        python_callable=_write,
        op_kwargs={"kind": "minutes"},
        trigger_rule="all_done",
        outlets=[DAILY_SYNC],
        doc_md="Writes the minutes under `archives/<date>/`, whatever was decided; the link *Report* opens them.",
    )


def _write(kind: Literal["agenda", "minutes"]) -> str:
    from comporta.capacity.execution_plan import execution_plan
    from comporta.gates.book import GateBook
    from comporta.reports.folder import RunFolder
    from comporta.reports.page import digest_of
    from comporta.sync import minutes, page, record

    context: Any = get_current_context()
    with _run() as run, GateBook(run.settings.require("control")) as book:
        sync = record.read(run.ledger, run.run_id)
        gates = book.list(asker_prefix=f"{record.WORKFLOW}/{run.run_id}/")
        data = minutes.compose(
            kind,
            sync,
            gates,
            run.file,
            title=run.release.title,
            date=f"{run.started:%Y-%m-%d}",
            plan=execution_plan(run.release),
        )
        folder = RunFolder.make(run.settings.archives_path, record.WORKFLOW, run.run_id, run.started)
        written = page.write(folder, data, record.now(run.ledger))
        report = str(written.html.relative_to(run.settings.archives_path))
        if kind == "minutes":
            brief = minutes.for_mail(data)
            record.written(
                run.ledger,
                run.run_id,
                feature=run.release.name,
                actor=run.actor,
                report=report,
                digest=digest_of({"page": written.digest, "mail": brief}),
                minutes=brief,
            )
    log.info("%s Report: %s", data["sentence"], report_address(report))
    context["ti"].xcom_push(key=REPORT_KEY, value=report)
    if kind == "minutes":
        context["outlet_events"][DAILY_SYNC].extra = {
            "report": report,
            "digest": written.digest,
            "verdict": data["verdict"],
        }
    return report
