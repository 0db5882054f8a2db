"""How long from clearing ``OPTn.rollback`` in Airflow to the restored catalogue, and who notices? Under live traffic.

    python bench/clear.py --rows 1000000 [--only OPT1 OPT3] [--reads 50 --writes 50] [--dir FOLDER] > clear.json

Starts an Airflow and two PostgreSQL servers of its own, rolls out all five changes (proofs put on record, gate asked and opened,
a short soak), then for each change: clears its task ``rollback`` through REST as the web UI does, and reads from ledger and task
when what began; afterwards clears its ``apply``, so that all five stand again before the next one. The time ends with the event
``rollback_finished`` of the change itself: scripts done for it and what stands on it, fingerprint compared. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from peers.server import Server, own_server
from psycopg.conninfo import conninfo_to_dict
from rollouts import ground
from rollouts.felt import Windows, felt

from comporta.demo.traffic import Traffic, lost_writes
from comporta.gates import GateBook
from comporta.health import monitoring
from comporta.ledger import Event, EventType, Ledger
from comporta.local.private import PrivateAirflow, private_airflow
from comporta.local.web import FINISHED_RUN
from comporta.postgres.connection import connect
from comporta.release.model import Change, load_release
from comporta.settings import Settings, project_root

DAG = "rollout"
GOAL_S = {"OPT1": 60.0}
GOAL_OF_OTHERS_S = 10.0
GOAL_STALL_MS = 200.0
SETTLE_S = 5.0
SMALL = 3_000
PATIENCE_S = 1_800.0


def main() -> int:
    """Run and print; 1 when a goal is missed."""
    options = _options()
    release = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    with ExitStack() as stack:
        server = Server(stack.enter_context(own_server(f"clear-{options.rows}")), release)
        stack.callback(server.tidy_up)
        _say("find out on a small copy how the catalogue looks after each rollback")
        server.prepare(SMALL)
        left = ground.left_standing(server.fresh(), release)
        _say(f"load {options.rows} rows")
        server.prepare(options.rows)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comporta-clear-")))
        bench = stack.enter_context(_bench(server, folder, left, options))
        result: dict[str, Any] = {
            "rows": options.rows,
            "traffic_per_s": {"reads": options.reads, "writes": options.writes},
            "soak_s": ground.SOAK_S,
            "rollout": bench.roll_out(),
            "changes": {},
        }
        for change in release.changes:
            if not options.only or change.name in options.only:
                result["changes"][change.name] = bench.clear(change)
                _say(f"{change.name}: {json.dumps(result['changes'][change.name])}")
    json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
    print()
    return 0 if all(each["goals_met"] for each in result["changes"].values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--reads", type=float, default=50)
    parser.add_argument("--writes", type=float, default=50)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--dir", type=Path, default=project_root() / ".comporta-test" / "bench")
    return parser.parse_args()


@contextmanager
def _bench(server: Server, folder: Path, left: ground.Left, options: argparse.Namespace) -> Iterator[_Bench]:
    target = server.fresh()
    with connect(target, name=ground.ACTOR) as conn:
        conn.execute("analyze")  # a copied database has not counted its rows
        conn.execute("checkpoint")
    settings = ground.make_project(folder, target=target, control="")
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(project_root() / "dags" / f"{DAG}.py", dags)
    environment = {
        "COMPORTA_HOME": str(folder),
        "COMPORTA_RELEASE": "config/release.yaml",
        "COMPORTA_GATES": "config/gates.yaml",
        "COMPORTA_ARCHIVES": str(folder / "archives"),
        "COMPORTA_TARGET_DSN": target,
        "AIRFLOW_CONN_TARGET": _address(target),
    }
    gates = folder / "config" / "gates.yaml"
    with private_airflow(project_root(), options.dir, dags=dags, gates=gates, settings=environment) as airflow:
        settings = settings.model_copy(update={"control_dsn": airflow.control})
        ground.prove(settings, left)
        airflow.airflow.wait_for_dag(DAG, within_s=120)
        with monitoring(settings, ground.release_of(settings)), Ledger(airflow.control) as ledger:
            yield _Bench(airflow, settings, ledger, options.reads, options.writes)


def _address(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    sign_in = f"{parts['user']}:{quote(str(parts['password']), safe='')}"
    return f"postgres://{sign_in}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@dataclass
class _Bench:
    """A rollout in a real Airflow; ``run_id`` is known once it was started."""

    airflow: PrivateAirflow
    settings: Settings
    ledger: Ledger
    reads: float
    writes: float
    run_id: str = ""
    traffics: int = 0

    def roll_out(self) -> dict[str, Any]:
        """All five, to a green end."""
        windows = Windows()
        with self._traffic(windows) as found:
            began = time.time()
            self.run_id = self.airflow.trigger(DAG, login="dba")
            self.airflow.until(self._asks, "the question of the gate", within_s=PATIENCE_S)
            ground.say_go(self.airflow.control)
            self._ended()
            windows.add("rollout", began, time.time())
        return {"seconds": round(windows.seconds("rollout"), 1), **found}

    def clear(self, change: Change) -> dict[str, Any]:
        """Clear its rollback, measure, and apply it again."""
        task, windows = f"{change.name}.rollback", Windows()
        seen = self._last()
        with self._traffic(windows) as found:
            asked = time.time()
            self._post(task)
            answered = time.time()
            finished = self.airflow.until(
                lambda: self._finished(change.name, seen), f"the rollback of {change.name}", within_s=PATIENCE_S
            )
            windows.add("rollback", asked, finished.timestamp.timestamp())
        self._ended()
        parts = self._parts(change.name, seen, asked, answered, self._task(task))
        result = {"load": round(os.getloadavg()[0], 1), **parts, **found}
        result["restored"] = finished.payload["restored"]
        result["differences"] = finished.payload["differences"]
        goal, stalls = GOAL_S.get(change.name, GOAL_OF_OTHERS_S), found["felt"]["rollback"]
        longest = max(stalls["longest_read_stall_ms"] or 0.0, stalls["longest_write_stall_ms"] or 0.0)
        result["longest_stall_ms"] = longest
        result["goal_s"] = goal
        result["goals_met"] = bool(
            result["seconds"] <= goal
            and longest <= GOAL_STALL_MS
            and not found["lost_writes"]
            and finished.payload["restored"] is not False
        )
        again = Windows()
        with self._traffic(again) as felt_again:
            began = time.time()
            self._post(f"{change.name}.apply")
            self._ended()
            again.add("apply again", began, time.time())
        result["applied_again"] = {"seconds": round(again.seconds("apply again"), 1), **felt_again}
        return result

    def _parts(self, root: str, seen: int, asked: float, answered: float, task: dict[str, Any]) -> dict[str, Any]:
        """The seconds from the request on, in turn; ``scripts`` are those of each change that went."""
        begun = self._since(EventType.ROLLBACK_STARTED, seen)
        ended = [each for each in self._since(EventType.ROLLBACK_FINISHED, seen) if each.payload["root"] == root]
        start = datetime.fromisoformat(task["start_date"]).timestamp()
        first, last = begun[0].timestamp.timestamp(), ended[-1].timestamp.timestamp()
        scripts = {str(each.phase): round(each.payload["seconds"], 2) for each in ended}
        cleared = self.ledger.latest(1, event_type=EventType.TASK_CLEARED)
        return {
            "seconds": round(last - asked, 2),
            "airflow_s": round(start - asked, 2),
            "ours_s": round(last - start, 2),
            "parts_s": {
                "the request answered": round(answered - asked, 2),
                "until the task is started": round(start - answered, 2),
                "until the first rollback is on record": round(first - start, 2),
                "scripts": round(sum(scripts.values()), 2),
                "between and after the scripts": round(last - first - sum(scripts.values()), 2),
            },
            "scripts_s": scripts,
            "statements_s": {
                str(each.phase): [
                    [every["headline"][:70], every["seconds"]]
                    for every in sorted(each.payload["statements"], key=lambda found: -found["seconds"])[:3]
                ]
                for each in ended
            },
            "cleared_by": cleared[-1].actor if cleared else None,
            "log": self._log(task),
        }

    def _log(self, task: dict[str, Any]) -> list[list[Any]]:
        """What the task said of itself, with seconds since it started; single statements are left out."""
        path = f"{self._path(task['task_id'])}/logs/{task['try_number']}"
        start = datetime.fromisoformat(task["start_date"]).timestamp()
        with self.airflow.client() as client:
            answer = client.get(path, params={"full_content": "true"}, headers={"Accept": "application/json"})
        lines = [each for each in answer.json()["content"] if isinstance(each, dict) and each.get("timestamp")]
        return [
            [round(datetime.fromisoformat(each["timestamp"]).timestamp() - start, 2), str(each["event"])[:120]]
            for each in lines
            if not str(each["event"]).startswith("  ")
        ]

    def _post(self, task: str) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [task],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
            "note": "bench",
        }
        with self.airflow.client("dba") as client:
            client.post(f"/api/v2/dags/{DAG}/clearTaskInstances", json=body).raise_for_status()

    def _asks(self) -> bool:
        with GateBook(self.airflow.control) as book:
            return bool(book.list(states=("open",), name=DAG, limit=1))

    def _ended(self) -> None:
        state = self.airflow.until(self._end, f"the end of {self.run_id}", within_s=PATIENCE_S)
        if state != "success":
            why = "; ".join(self.airflow.airflow.why_failed(DAG, self.run_id))
            # Its report is kept: the folder of the bench goes away.
            kept = shutil.copytree(
                self.settings.archives_path, tempfile.mkdtemp(prefix="comporta-clear-archives-"), dirs_exist_ok=True
            )
            raise SystemExit(f"the run ended as {state}: {why}. Reports: {kept}")

    def _end(self) -> str | None:
        """The state of the run once it has ended; asked seldom, and an answer that is late is none."""
        time.sleep(1.0)
        with suppress(httpx.TransportError):
            state = self.airflow.airflow.run_state(DAG, self.run_id)
            return state if state in FINISHED_RUN else None
        return None

    def _path(self, task: str) -> str:
        return f"/api/v2/dags/{DAG}/dagRuns/{self.run_id}/taskInstances/{task}"

    def _task(self, task: str) -> dict[str, Any]:
        with self.airflow.client() as client:
            found: dict[str, Any] = client.get(self._path(task)).raise_for_status().json()
        return found

    def _last(self) -> int:
        return self.ledger.latest(1)[-1].id

    def _since(self, event_type: EventType, seen: int) -> list[Event]:
        return [each for each in self.ledger.latest(20, event_type=event_type) if each.id > seen]

    def _finished(self, name: str, seen: int) -> Event | None:
        return next((each for each in self._since(EventType.ROLLBACK_FINISHED, seen) if each.phase == name), None)

    @contextmanager
    def _traffic(self, windows: Windows) -> Iterator[dict[str, Any]]:
        """Traffic around the body; what it felt in ``windows`` is in the dict afterwards."""
        found: dict[str, Any] = {}
        self.traffics += 1
        dsn = self.settings.require("target")
        with Traffic(dsn, reads_per_s=self.reads, writes_per_s=self.writes, seed=self.traffics) as traffic:
            time.sleep(SETTLE_S)
            yield found
            time.sleep(SETTLE_S)
            record = traffic.stop()
        lost = lost_writes(dsn, record)
        found |= {
            "felt": felt(record, windows),
            "operations": len(record.operations),
            "failed": len(record.failed()),
            "errors": sorted({str(each.error) for each in record.failed()})[:5],
            "acknowledged_writes": len(record.acknowledged),
            "lost_writes": len(lost),
            "lost": [str(each) for each in lost[:5]],
            "generator_lag_ms": round(1000 * record.longest_lag_s, 1),
        }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
