"""An Airflow of one's own, beside that of ``make run``: for tests and benchmarks, with every process under their hand.

Four Airflow processes and one PostgreSQL server, on free ports, in a folder of their own. The server is kept from one session to
the next, with a migrated database to copy; each session starts without a run, and leaves no process behind. One that was killed
leaves a record of its processes: the next session ends them first.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
from psycopg import sql

from comporta.errors import ComportaError
from comporta.gates.policy import load_policy
from comporta.ledger.migration import migrate
from comporta.local import environment, ports, supervisor
from comporta.local.account import Account
from comporta.local.cluster import CATALOGUE_DATABASE, UNSAFE_SETTINGS, Cluster
from comporta.local.databases import AIRFLOW_DATABASE, ensure_database
from comporta.local.environment import CONTROL_DATABASE, SERVICE_USER, WEB_USER, WebPorts
from comporta.local.layout import Layout, server_root
from comporta.local.processes import Process, boot_id, send, session_members, terminate
from comporta.local.supervisor import COMPONENTS
from comporta.local.web import Airflow

TEMPLATE = "airflow_migrated"
FIRST_SERVER_PORT = 55_800
FIRST_WEB_PORT = 58_080
VIEWER = "viewer"
HEALTHY_WITHIN_S = 180.0
T = TypeVar("T")


class PrivateAirflowFailed(ComportaError):
    """The private Airflow did not start, or something waited for did not come; the log is named."""


@dataclass
class PrivateAirflow:
    """A running Airflow; ``control`` and ``target`` are conninfos of its databases."""

    layout: Layout
    values: Mapping[str, str]
    control: str
    target: str
    passwords: Mapping[str, str]
    airflow: Airflow
    programs: Path = Path(sys.executable).parent
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _leaders: dict[str, Process] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the web UI is."""
        return self.airflow.address

    def client(self, login: str = WEB_USER) -> httpx.Client:
        """A client of the REST API that has signed in."""
        sign_in = {"username": login, "password": self.passwords[login]}
        answer = httpx.post(f"{self.address}/auth/token", json=sign_in, timeout=30.0, trust_env=False)
        token = answer.raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30.0, trust_env=False)

    def start(self, *names: str) -> None:
        """Start components and wait until Airflow is healthy."""
        for name in names:
            log = self.layout.logs / f"{name}.log"
            with log.open("ab") as stream:
                process = subprocess.Popen(
                    [str(self.programs / "airflow"), name],
                    cwd=self.layout.airflow_home,
                    env=environment.for_child(self.values),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            leader = Process.of(process.pid)
            assert leader is not None, "a child that nobody waited for is in /proc, dead or alive"
            self._processes[name], self._leaders[name] = process, leader
            self._write_record()
        self.airflow.wait_until_healthy(within_s=HEALTHY_WITHIN_S)

    def kill(self, *names: str) -> None:
        """End components and everything that they started, at once: SIGKILL, as a machine that loses power would."""
        for name in names:
            process, leader = self._processes.pop(name), self._leaders[name]
            # By session: each task that the scheduler runs has a process group of its own.
            while members := session_members(leader, self.layout.airflow_home):
                for member in members:
                    send(member, signal.SIGKILL)
            process.wait()

    def end(self) -> None:
        """End everything that still runs: politely, then not."""
        end_leftovers(self.layout)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _write_record(self) -> None:
        me = Process.of(os.getpid())
        assert me is not None
        supervisor.Record(boot_id(), me, self._leaders).write(self.layout.supervisor)

    def until(self, look: Callable[[], T | None], what: str, *, within_s: float = 60.0) -> T:
        """The first answer of ``look`` that is not None or False; PrivateAirflowFailed says ``what`` did not come."""
        deadline = time.monotonic() + within_s
        while True:
            found = look()
            if found is not None and found is not False:
                return found
            if time.monotonic() > deadline:
                raise PrivateAirflowFailed(
                    f"{what} did not come within {within_s:.0f} s", remedy=f"See {self.layout.logs}."
                )
            time.sleep(0.1)

    def trigger(self, dag_id: str, *, login: str = WEB_USER, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run as somebody, and return its id."""
        with self.client(login) as client:
            answer = client.post(
                f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf or {})}
            )
            return str(answer.raise_for_status().json()["dag_run_id"])

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """The state of each task of a run; mapped ones by ``task[index]``."""
        return {task.label: task.state for task in self.airflow.tasks(dag_id, run_id)}

    def wait_for(self, dag_id: str, run_id: str, task: str, *states: str, within_s: float = 60.0) -> str:
        """The state of a task once it is one of ``states``."""

        def look() -> str | None:
            found = self.states(dag_id, run_id).get(task)
            return found if found in states else None

        return self.until(look, f"{dag_id}/{run_id}: {task} in {'/'.join(states)}", within_s=within_s)

    def wait_for_run(self, dag_id: str, run_id: str, *, within_s: float = 90.0) -> str:
        """The state of a run once it has ended."""

        def look() -> str | None:
            state = self.airflow.run_state(dag_id, run_id)
            return state if state in ("success", "failed") else None

        return self.until(look, f"the end of {dag_id}/{run_id}", within_s=within_s)


@contextmanager
def private_airflow(
    project: Path, place: Path, *, dags: Path, gates: Path, settings: Mapping[str, str] | None = None
) -> Iterator[PrivateAirflow]:
    """Start one under ``place`` with the DAG files in ``dags`` and the gates file ``gates``; ended on the way out."""
    with _claimed(place) as folder:
        layout = Layout(project, folder)
        for needed in (layout.airflow_home, layout.logs, layout.archives):
            needed.mkdir(parents=True, exist_ok=True)
        end_leftovers(layout)
        root = server_root(folder / "pg", Account.current())
        cluster = Cluster("control", root / "control", FIRST_SERVER_PORT, UNSAFE_SETTINGS)
        cluster.choose_port()
        cluster.create()
        cluster.start()
        started = None
        try:
            started = _prepare(layout, cluster, dags=dags, gates=gates, settings=settings or {})
            started.start(*COMPONENTS)
            started.airflow.sign_in(WEB_USER, started.passwords[WEB_USER])
            yield started
        finally:
            if started is not None:
                started.end()
            cluster.stop("fast")


def end_leftovers(layout: Layout) -> None:
    """End all that runs by the record in ``layout``, whoever started it: a scheduler of another session would run our tasks."""
    if not terminate(lambda: supervisor.leftovers(layout), patience_s=20):
        raise PrivateAirflowFailed(f"processes of {layout.state} do not end, even when killed", remedy="See dmesg.")
    layout.supervisor.unlink(missing_ok=True)


@contextmanager
def _claimed(place: Path) -> Iterator[Path]:
    """The first folder under ``place`` that no other session uses."""
    for number in range(8):
        folder = place / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            return
    raise PrivateAirflowFailed(f"8 sessions already run in {place}", remedy="Wait for one to end.")


def _prepare(
    layout: Layout, cluster: Cluster, *, dags: Path, gates: Path, settings: Mapping[str, str]
) -> PrivateAirflow:
    people = (*load_policy(gates).people, VIEWER)
    passwords = {login: secrets.token_urlsafe(12) for login in (WEB_USER, SERVICE_USER, *people)}
    layout.passwords.write_text(json.dumps(passwords))
    web = ports.first_free(FIRST_WEB_PORT)
    logs = ports.first_free(FIRST_WEB_PORT + 1, avoid={web})
    web_ports = WebPorts(web, logs, ports.first_free(FIRST_WEB_PORT + 2, avoid={web, logs}))
    values = environment.compose(
        layout,
        control=cluster,
        target=cluster,
        shadow=cluster,
        web=web_ports,
        people=people,
        passwords=passwords,
        kept={},
    )
    users = values["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"].replace(f"{VIEWER}:user", f"{VIEWER}:viewer")
    values |= {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "COMPORTA_GATES": str(gates),
        "PYTHONPATH": str(layout.project / "plugins"),
        **settings,
    }
    environment.write(layout.environment, values)
    _fresh_databases(layout, cluster, values)
    return PrivateAirflow(
        layout,
        values,
        cluster.dsn(CONTROL_DATABASE),
        cluster.dsn(CATALOGUE_DATABASE),
        passwords,
        Airflow(values["AIRFLOW__API__BASE_URL"]),
    )


def _fresh_databases(layout: Layout, cluster: Cluster, values: Mapping[str, str]) -> None:
    """Empty ones, Airflow's copied from one that was migrated by the same versions."""
    version = f"{metadata.version('apache-airflow')} {metadata.version('apache-airflow-providers-fab')}"
    marker = cluster.directory / "airflow-migrated"
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        kept = () if marker.exists() and marker.read_text() == version else (TEMPLATE,)
        for name in (CONTROL_DATABASE, CATALOGUE_DATABASE, AIRFLOW_DATABASE, *kept):
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        if kept:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(AIRFLOW_DATABASE)))
            _migrate_airflow(layout, values)
            rename = sql.SQL("alter database {} rename to {}")
            connection.execute(rename.format(sql.Identifier(AIRFLOW_DATABASE), sql.Identifier(TEMPLATE)))
            marker.write_text(version)
        copy = sql.SQL("create database {} template {}")
        connection.execute(copy.format(sql.Identifier(AIRFLOW_DATABASE), sql.Identifier(TEMPLATE)))
    for name in (CONTROL_DATABASE, CATALOGUE_DATABASE):
        ensure_database(cluster.dsn(name))
    with psycopg.connect(cluster.dsn(CONTROL_DATABASE), autocommit=True) as connection:
        migrate(connection, layout.project / "sql" / "control")


def _migrate_airflow(layout: Layout, values: Mapping[str, str]) -> None:
    log = layout.logs / "airflow-migrate.log"
    command: Sequence[str] = [str(Path(sys.executable).parent / "airflow"), "db", "migrate"]
    with log.open("ab") as stream:
        done = subprocess.run(
            command, cwd=layout.airflow_home, env=environment.for_child(values), stdin=subprocess.DEVNULL,
            stdout=stream, stderr=stream, check=False,
        )  # fmt: skip
    if done.returncode:
        raise PrivateAirflowFailed("`airflow db migrate` failed", remedy=f"See {log}.")
