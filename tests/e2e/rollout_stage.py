"""A real Airflow over real servers with the DAGs ``rollout`` and ``rollback``, and a release that is proved and watched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.postgres.conftest import Servers
from tests.postgres.rollout_ground import Ground, make_ground

from comporta.gates import GateBook
from comporta.health import monitoring
from comporta.ledger import Event, EventType
from comporta.local.cluster import CATALOGUE_DATABASE
from comporta.local.environment import uri
from comporta.local.private import PrivateAirflow, private_airflow

PROJECT = Path(__file__).resolve().parents[2]
LONG_S = 240.0


@dataclass
class Stage:
    """The two together."""

    airflow: PrivateAirflow
    ground: Ground
    since: int = 0

    def events(self, event_type: EventType) -> list[Event]:
        """What the rollout recorded since the test began."""
        return [event for event in self.ground.events(event_type) if event.id > self.since]

    def begin(self, login: str = "dba") -> str:
        """Start a rollout, give it its Go through REST as the PO, and return the run."""
        run_id = self.airflow.trigger("rollout", login=login)
        self.airflow.wait_for("rollout", run_id, "gate", "deferred", "success", within_s=LONG_S)
        self.approve()
        return run_id

    def approve(self) -> None:
        """The PO says Go to the gate that is open."""
        with GateBook(self.airflow.control) as book:
            (gate,) = book.list(states=("open",), name="rollout", limit=1)
            book.vote(gate.gate, "go", actor="po", reason="read it", digest=gate.digest, via="test")

    def clear(
        self, run_id: str, *tasks: str, login: str = "dba", downstream: bool = True, note: str = "why not"
    ) -> None:
        """Clear tasks as the web UI does, with what comes after them unless told otherwise."""
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(tasks),
            "include_downstream": downstream,
            "only_failed": False,
            "reset_dag_runs": True,
            "note": note,
        }
        with self.airflow.client(login) as client:
            client.post("/api/v2/dags/rollout/clearTaskInstances", json=body).raise_for_status()

    def mark(self, run_id: str, task: str, state: str, login: str = "dba") -> None:
        """Mark a task success or failed by hand."""
        with self.airflow.client(login) as client:
            path = f"/api/v2/dags/rollout/dagRuns/{run_id}/taskInstances/{task}"
            client.patch(path, json={"new_state": state}).raise_for_status()

    def note(self, run_id: str, task: str) -> str:
        """The note on a task."""
        with self.airflow.client() as client:
            path = f"/api/v2/dags/rollout/dagRuns/{run_id}/taskInstances/{task}"
            return str(client.get(path).raise_for_status().json().get("note") or "")

    def log(self, run_id: str, task: str, try_number: int = 1) -> str:
        """What a task said."""
        with self.airflow.client() as client:
            path = f"/api/v2/dags/rollout/dagRuns/{run_id}/taskInstances/{task}/logs/{try_number}"
            answer = client.get(path, params={"full_content": "true"}, headers={"Accept": "application/json"})
            return "\n".join(str(each.get("event")) for each in answer.json()["content"] if isinstance(each, dict))


@contextmanager
def rollout_stage(
    servers: Servers, folder: Path, *, tiny: bool, scripts: dict[str, str] | None = None
) -> Iterator[Stage]:
    """Everything, from fresh servers on. ``scripts`` are files under sql/ that differ."""
    target = servers.target.fresh_catalogue()
    ground = make_ground(folder, target=target, control="", tiny=tiny)
    ground.sql("create table public.pause (since timestamptz default now()); create table public.trouble (what text)")
    for name, text in (scripts or {}).items():
        (folder / "sql" / name).write_text(text)
    dags = folder / "dags"
    dags.mkdir()
    for name in ("rollout", "rollback"):
        shutil.copy(PROJECT / "dags" / f"{name}.py", dags)
    place = PROJECT / ".comporta-test" / "airflow"
    settings = {
        "COMPORTA_HOME": str(folder),
        "COMPORTA_RELEASE": "config/release.yaml",
        "COMPORTA_GATES": "config/gates.yaml",
        "COMPORTA_ARCHIVES": str(folder / "archives"),
        "COMPORTA_TARGET_DSN": target,
        "AIRFLOW_CONN_TARGET": uri("postgres", servers.target.cluster, CATALOGUE_DATABASE),
        "COMPORTA_SHADOW_DSN": servers.shadow.dsn,
        "AIRFLOW_CONN_SHADOW": uri("postgres", servers.shadow.cluster, CATALOGUE_DATABASE),
        # A worker that was killed is noticed soon, and one on a busy machine is not taken for dead.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    }
    with private_airflow(PROJECT, place, dags=dags, gates=folder / "config/gates.yaml", settings=settings) as airflow:
        shadowed = {"control_dsn": airflow.control, "shadow_dsn": servers.shadow.dsn}
        ground.settings = ground.settings.model_copy(update=shadowed)
        ground.prove()
        for dag_id in ("rollout", "rollback"):
            airflow.airflow.wait_for_dag(dag_id, within_s=90)
        with monitoring(ground.settings, ground.release):
            yield Stage(airflow, ground)
