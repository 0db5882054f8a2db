"""Airflow's REST API as the starter uses it: health, sign-in, trigger a run, follow its tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from comporta.errors import ComportaError

HEALTHY = ("metadatabase", "scheduler", "dag_processor", "triggerer")
FINISHED_RUN = {"success", "failed"}


class AirflowNotReady(ComportaError):
    """Airflow did not become healthy, or does not know the DAG, within the time given."""


@dataclass(frozen=True)
class TaskState:
    """A task of a run as the API reports it; ``seconds`` is None until it has ended."""

    task_id: str
    map_index: int
    state: str
    seconds: float | None
    try_number: int

    @property
    def label(self) -> str:
        """Task id, with its index when it is mapped."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class Airflow:
    """A client of one Airflow web server; times out instead of hanging."""

    def __init__(self, address: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self._clock = clock
        self._client = httpx.Client(base_url=address, timeout=20.0, trust_env=False)

    def unhealthy(self) -> list[str]:
        """Names of the components that are not healthy; ``web server`` when nothing answers."""
        try:
            answer = self._client.get("/api/v2/monitor/health", timeout=5.0)
            answer.raise_for_status()
            health = answer.json()
        except (httpx.HTTPError, ValueError):
            return ["web server"]
        return [name for name in HEALTHY if (health.get(name) or {}).get("status") != "healthy"]

    def wait_until_healthy(self, *, within_s: float, on_change: Callable[[list[str]], None] = lambda _: None) -> None:
        """Return when all components are healthy; AirflowNotReady names those that are not when the time is over."""
        deadline, last = self._clock() + within_s, None
        while missing := self.unhealthy():
            if missing != last:
                on_change(missing)
                last = missing
            if self._clock() > deadline:
                raise AirflowNotReady(
                    f"Airflow is not healthy after {within_s:.0f} s: {', '.join(missing)}",
                    remedy="The logs are in .comporta/logs; `make stop`, then `make run` starts anew.",
                )
            time.sleep(0.25)

    def sign_in(self, user: str, password: str) -> None:
        """Get a token for all further calls."""
        answer = self._client.post("/auth/token", json={"username": user, "password": password})
        answer.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def wait_for_dag(self, dag_id: str, *, within_s: float) -> None:
        """Return when the DAG is known; AirflowNotReady with the import errors when the time is over."""
        deadline = self._clock() + within_s
        while self._client.get(f"/api/v2/dags/{dag_id}").status_code != httpx.codes.OK:
            if self._clock() > deadline:
                errors = self._get("/api/v2/importErrors").get("import_errors", [])
                shown = "\n".join(f"{error['filename']}: {error['stack_trace']}" for error in errors)
                raise AirflowNotReady(
                    f"Airflow does not know the DAG {dag_id} after {within_s:.0f} s\n{shown}".rstrip(),
                    remedy="See .comporta/logs/dag-processor.log.",
                )
            time.sleep(0.25)

    def ensure_pools(self, pools: Mapping[str, Mapping[str, Any]]) -> None:
        """Make or adjust pools; a task that names a pool that is not there is never scheduled, without an error."""
        for name, pool in pools.items():
            wanted = {"name": name, **pool}
            answer = self._client.post("/api/v2/pools", json=wanted)
            if answer.status_code == httpx.codes.CONFLICT:
                answer = self._client.patch(f"/api/v2/pools/{name}", json={"pool": name, **pool})
            answer.raise_for_status()

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG's runs."""
        self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run now and return its id."""
        answer = self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}})
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def unfinished_run(self, dag_id: str) -> str | None:
        """The id of a run that is queued or runs, None when there is none."""
        runs = self._get(f"/api/v2/dags/{dag_id}/dagRuns?state=queued&state=running&order_by=-run_after&limit=1")
        return str(runs["dag_runs"][0]["dag_run_id"]) if runs["dag_runs"] else None

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run, such as ``running``."""
        return str(self._get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Tasks of a run, in the order that they started in; those that did not start come last."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100&offset={len(found)}")
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                break
        found.sort(key=lambda task: (task["start_date"] is None, task["start_date"] or "", task["task_id"]))
        return [
            TaskState(
                task_id=task["task_id"],
                map_index=task["map_index"],
                state=task["state"] or "waiting",
                seconds=_seconds(task),
                try_number=task["try_number"],
            )
            for task in found
        ]

    def follow(self, dag_id: str, run_id: str, *, within_s: float, idle_s: float = 120.0) -> Iterator[TaskState]:
        """Yield each change of a task until the run has ended.

        AirflowNotReady when it has not ended in time, or nothing ran and nothing changed for ``idle_s``.
        """
        seen: dict[str, tuple[str, int]] = {}
        deadline = self._clock() + within_s
        moved = self._clock()
        while True:
            finished = self.run_state(dag_id, run_id) in FINISHED_RUN
            tasks = self.tasks(dag_id, run_id)
            for task in tasks:
                if task.state == "running":
                    moved = self._clock()
                if seen.get(task.label) != (task.state, task.try_number):
                    seen[task.label] = (task.state, task.try_number)
                    moved = self._clock()
                    yield task
            if finished:
                return
            if self._clock() - moved > idle_s:
                waiting = next((task.label for task in tasks if task.state in {"scheduled", "queued"}), "the next task")
                raise AirflowNotReady(
                    f"nothing has run for {idle_s:.0f} s in {run_id}: {waiting} does not start",
                    remedy="See .comporta/logs/scheduler.log: a missing pool, or a scheduler that fails.",
                )
            if self._clock() > deadline:
                raise AirflowNotReady(
                    f"the run {run_id} of {dag_id} has not ended after {within_s / 60:.0f} min",
                    remedy=f"It goes on: follow it at {self.run_page(dag_id, run_id)}.",
                )
            time.sleep(0.5)

    def why_failed(self, dag_id: str, run_id: str) -> list[str]:
        """One line for each failed task of a run: its name and the last error in its log."""
        failed = [task for task in self.tasks(dag_id, run_id) if task.state == "failed"]
        return [f"{task.label}: {self._last_error(dag_id, run_id, task)}" for task in failed]

    def _last_error(self, dag_id: str, run_id: str, task: TaskState) -> str:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
        answer = self._client.get(
            path, params={"map_index": task.map_index, "full_content": "true"}, headers={"Accept": "application/json"}
        )
        if answer.status_code != httpx.codes.OK:
            return f"its log cannot be read (HTTP {answer.status_code})"
        entries = [entry for entry in answer.json().get("content", []) if isinstance(entry, dict)]
        details = [entry["error_detail"] for entry in entries if entry.get("error_detail")]
        if details:
            return str(details[-1][-1]["exc_value"])
        errors = [str(entry["event"]) for entry in entries if entry.get("level") in {"error", "critical"}]
        return errors[-1] if errors else "its log names no error"

    def run_page(self, dag_id: str, run_id: str) -> str:
        """Address of a run in the web UI."""
        return f"{self.address}/dags/{dag_id}/runs/{run_id}"

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._client.get(path)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body


def _seconds(task: dict[str, Any]) -> float | None:
    if not task["start_date"] or not task["end_date"]:
        return None
    return (datetime.fromisoformat(task["end_date"]) - datetime.fromisoformat(task["start_date"])).total_seconds()
