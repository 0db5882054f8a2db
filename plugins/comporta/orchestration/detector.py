"""The tasks of ``detector_backtest``: each is one step of ``comporta.detector.run`` with this run's folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from comporta.orchestration.gate_sensor import TRIES, GoNoGoSensor
from comporta.orchestration.report_link import REPORT_KEY, ReportOperator, report_address
from comporta.orchestration.stage_run import stage_run

if TYPE_CHECKING:
    from comporta.detector.run import Backtest
    from comporta.detector.validation import Validation
    from comporta.reports.page import Report

VERDICT_GATE, SIGN_OFF_GATE = "detector_verdict", "detector_signoff"
TUNE_TASKS = 8
OPTIONS = ("file", "tz", "symbol", "adjustment", "synthetic")
log = logging.getLogger(__name__)


@contextmanager
def _run() -> Iterator[Backtest]:
    # The DAG processor reads this module again and again: what computes is loaded in the task only.
    from comporta.detector.run import configured_source, open_backtest

    @contextmanager
    def opened(settings: Any, *, run_id: str, started: Any, actor: str, say: Any, **options: Any) -> Iterator[Backtest]:
        source = configured_source(settings, **options)
        told = {"run_id": run_id, "started": started, "actor": actor, "say": say}
        with open_backtest(settings, source=source, **told) as run:
            yield run

    with stage_run(opened, *OPTIONS) as run:
        yield run


@task
def load() -> None:
    """Read the bars of the form, of COMPORTA_BARS, or synthetic ones where neither names a file. Touches files only."""
    with _run() as run:
        if run.source.synthetic:
            log.warning("No file of bars is configured: %s synthetic sessions stand in", run.source.synthetic)
        run.load()


@task
def quality() -> None:
    """Look for gaps, duplicates, impossible prices, rolls, closed days. Nothing is mended. Touches files only."""
    with _run() as run:
        run.quality()


@task
def run() -> None:
    """Let the detector see bar after bar; fail when a guard finds that it saw more than that. Touches files only."""
    with _run() as backtest:
        backtest.run()


@task
def score() -> None:
    """Tell with hindsight what there was to be detected, and how much of it was. Touches files only."""
    with _run() as run:
        run.score()


@task
def gates() -> None:
    """Trade the alerts, hold all against baselines and nulls, judge the three gates. Touches files only."""
    with _run() as run:
        for name, gate in run.gates()["gates"].items():
            log.info("%s: %s. %s", name, gate["verdict"], gate["reason"])


@task
def benchmark() -> None:
    """Time the live part in a fresh process, and weigh it. Touches files only."""
    with _run() as run:
        run.benchmark()


def report() -> ReportOperator:
    """Write the page and record the verdict; what it means for the run is the next task's."""
    return ReportOperator(
        task_id="report",
        python_callable=_write_report,
        doc_md="Writes one HTML and one JSON file under `archives/<date>/`; the link *Report* opens the page.",
    )


def _write_report() -> str:
    with _run() as run:
        return _told(run, *run.report())


@task.branch
def decide() -> str | list[str]:
    """PASS goes on to the final validation, FAIL to tuning; too few events go to people at once. Touches nothing."""
    with _run() as run:
        verdict = run.result()["verdict"]
    log.info("The verdict is %s", verdict)
    if verdict == "PASS":
        return ["run_tests", "check_types"]
    return "tune" if verdict == "FAIL" else VERDICT_GATE


@task(map_index_template="part {{ task.op_kwargs['shard'] + 1 }}")
def tune(shard: int) -> None:
    """Try one part of the grid of `config/detector-tuning.yaml` on every split of the walk-forward. Touches files only."""
    with _run() as run, _skipped_when_too_few():
        log.info("%s settings tried", run.tune(shard, TUNE_TASKS))


@task
def choose() -> None:
    """Add up all parts: what was chosen, what is left of it out of sample, beside the settings in use. Touches files only."""
    with _run() as run, _skipped_when_too_few():
        log.info("%s", run.choose()["advice"])


def run_again() -> ReportOperator:
    """The whole backtest once more with what tuning chose, on a page of its own."""
    return ReportOperator(
        task_id="run_again",
        python_callable=_run_again,
        doc_md="Runs all steps with the settings that tuning chose, and writes a second page. Touches files only.",
    )


def _run_again() -> str:
    with _run() as run:
        return _told(run, *run.again(log.info))


def ask_verdict() -> GoNoGoSensor:
    """Accept, adjust or re-architect: people decide about a detector that does not pass."""
    return GoNoGoSensor(
        task_id=VERDICT_GATE,
        gate=VERDICT_GATE,
        retries=TRIES,
        trigger_rule="none_failed",
        doc_md=(
            "Go accepts the detector as it is; No-Go says in its reason whether to adjust or to re-architect, and ends the run. "
            "Touches the ledger only."
        ),
    )


@task(trigger_rule="none_failed_min_one_success")
def run_tests() -> None:
    """Run the tests of the detector in a process of their own, and count the lines they reach. Touches files only."""
    with _validation() as validation:
        log.info("%s", validation.tests()["said"])


@task(trigger_rule="none_failed_min_one_success")
def check_types() -> None:
    """`mypy --strict` over the package. Touches files only."""
    with _validation() as validation:
        log.info("%s", validation.types()["said"])


@task
def check_coverage() -> None:
    """Fail unless the tests reach more than 80 % of the detector. Touches files only."""
    with _validation() as validation:
        log.info("%s %% of the lines were reached", validation.coverage()["percent"])


@task
def record_checks() -> None:
    """Record what the checks found: the sign-off rests on it. Touches the ledger."""
    from comporta.detector.run import record
    from comporta.detector.validation import Validation
    from comporta.ledger import EventType

    with _run() as run:
        found = Validation(run.home, run.folder).evidence()
        payload = {"verdict": "pass" if all(each["passed"] for each in found.values()) else "stop", "checks": found}
        record(run.ledger, run.run_id, run.actor, EventType.BACKTEST_VALIDATED, None, payload)


def ask_sign_off() -> GoNoGoSensor:
    """The last word is a person's."""
    return GoNoGoSensor(
        task_id=SIGN_OFF_GATE,
        gate=SIGN_OFF_GATE,
        retries=TRIES,
        doc_md="Waits for the sign-off that `config/gates.yaml` names, on gates, tests, types, coverage. Touches the ledger only.",
    )


@contextmanager
def _validation() -> Iterator[Validation]:
    from comporta.detector.validation import Validation

    with _run() as run:
        yield Validation(run.home, run.folder)


@contextmanager
def _skipped_when_too_few() -> Iterator[None]:
    """Too few sessions for a walk-forward are no fault of anybody: people decide without it."""
    from comporta.detector.tuning import TooFewSessions

    try:
        yield
    except TooFewSessions as error:
        raise AirflowSkipException(str(error)) from error


def _told(run: Backtest, written: Report, verdict: str) -> str:
    context: Any = get_current_context()
    page = run.place(written.html)
    log.info("The verdict is %s. Report: %s", verdict, report_address(page))
    context["ti"].xcom_push(key=REPORT_KEY, value=page)
    return page
