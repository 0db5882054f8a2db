"""Airflow's scheduler is killed; the supervisor brings it back, and the tasks that ran are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from psycopg.rows import class_row
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from comporta.drills.model import CannotDrill, Context, Drill, DrillResult
from comporta.drills.supervised import find, kill_and_wait
from comporta.local import environment
from comporta.local.layout import Layout
from comporta.postgres.connection import connect
from comporta.postgres.queries import load

NAME = "scheduler"
_PATIENCE_S = 180.0
# Airflow gives a task that no longer reports 300 s before it acts.
_PATIENCE_WITH_TASKS_S = 400.0
_WILL_RUN = frozenset({None, "scheduled", "queued", "up_for_retry", "up_for_reschedule", "deferred", "restarting"})


@dataclass(frozen=True)
class Task:
    """A task instance of Airflow's metadata database; ``heartbeat`` is the last sign of life of its process."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    heartbeat: datetime | None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What stays the same over all tries."""
        return self.dag_id, self.run_id, self.task_id, self.map_index

    def __str__(self) -> str:
        index = "" if self.map_index < 0 else f"[{self.map_index}]"
        return f"{self.dag_id}/{self.run_id}/{self.task_id}{index}: {self.state}"


def survived(before: Task, now: Task | None, back_at: datetime) -> bool | None:
    """Whether a task that ran at the kill ended well or will run (again); None while that cannot be told."""
    if now is None:
        return False
    if now.state == "success" or now.state in _WILL_RUN:
        return True
    if now.state == "running":
        alive = now.try_number > before.try_number or (now.heartbeat is not None and now.heartbeat > back_at)
        return True if alive else None
    return False


def _run(context: Context) -> DrillResult:
    layout = Layout(context.settings.home)
    process = find(layout, NAME, how_found="`make status` shows which processes are supervised.")
    values = environment.read(layout.environment)
    address = values["AIRFLOW__API__BASE_URL"]
    metadata = values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("postgresql+psycopg://", "postgresql://", 1)
    if not _heartbeat(address):
        raise CannotDrill(f"the scheduler is not healthy at {address} before the drill", remedy="See `make status`.")
    running = [task for task in _tasks(metadata) if task.state == "running"]
    death = kill_and_wait(
        context, layout, NAME, process,
        lambda killed_at: (beat := _heartbeat(address)) is not None and beat.timestamp() > killed_at,
        patience_s=_PATIENCE_S,
    )  # fmt: skip
    lost: list[str] = []
    if running:
        with context.step(f"{len(running)} task(s) that ran are looked for"):
            lost = _lost(metadata, running, datetime.fromtimestamp(death.back_at, UTC))
    return context.recovered(
        NAME, seconds=death.seconds, lost=len(lost), tasks_that_ran=[str(task) for task in running], tasks_lost=lost
    )


def _heartbeat(address: str) -> datetime | None:
    """When the scheduler last reported, None unless it is healthy."""
    try:
        answer = httpx.get(f"{address}/api/v2/monitor/health", timeout=5.0, trust_env=False)
        found = answer.raise_for_status().json()["scheduler"]
        return datetime.fromisoformat(found["latest_scheduler_heartbeat"]) if found["status"] == "healthy" else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _tasks(metadata: str) -> list[Task]:
    with connect(metadata, name="comporta/drill") as conn, conn.cursor(row_factory=class_row(Task)) as cursor:
        return cursor.execute(load("comporta.drills", "tasks.sql")).fetchall()


def _lost(metadata: str, running: list[Task], back_at: datetime) -> list[str]:
    """Those of ``running`` that did not survive; one of which nothing can be told at the end of the patience is lost, too."""

    def fates() -> list[tuple[str, bool | None]]:
        now = {task.key: task for task in _tasks(metadata)}
        return [(str(now.get(task.key) or task), survived(task, now.get(task.key), back_at)) for task in running]

    last: list[tuple[str, bool | None]] = Retrying(
        stop=stop_after_delay(_PATIENCE_WITH_TASKS_S),
        wait=wait_fixed(1),
        retry=retry_if_result(lambda found: any(fate is None for _, fate in found)),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
    )(fates)
    return [label for label, fate in last if not fate]


DRILL = Drill(
    name=NAME,
    component="Airflow scheduler",
    summary="The scheduler is killed; the supervisor brings it back, and no running task is lost.",
    touches="Kills the scheduler of the local system of `make run`; running tasks may be interrupted.",
    lost_are="running tasks",
    run=_run,
)
