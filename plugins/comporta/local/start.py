"""``make run``: from nothing to a finished dry run on this machine, and where the seconds went."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console

from comporta.demo.load import CatalogueDiffers, CatalogueUnfinished
from comporta.demo.use import record_use
from comporta.errors import ComportaError
from comporta.gates.policy import load_policy
from comporta.health import ensure_baseline
from comporta.ledger.anchor import Places, make_key, set_aside
from comporta.local import environment, ports, supervisor
from comporta.local.account import Account
from comporta.local.cluster import CATALOGUE_DATABASE, CATALOGUE_SETTINGS, SHADOW_INITDB_OPTIONS, Cluster
from comporta.local.databases import drop_catalogue, ensure_database, prepare_catalogue, prepare_control
from comporta.local.environment import CONTROL_DATABASE, SERVICE_USER, WEB_USER, WebPorts
from comporta.local.layout import Layout, server_root
from comporta.local.mail_catcher import port_of
from comporta.local.web import Airflow, TaskState
from comporta.orchestration.wiring import SHADOW_POOL
from comporta.release.model import load_release
from comporta.settings import FURTHER_SHADOWS, Settings

DRY_RUN_DAG = "stage2_dry_run"
PROOFS_DAG = "stage3_rollback_validation"
POST_DAG = "post"
SYNC_DAG = "daily_sync"
HEALTHY_WITHIN_S = 180.0
DAG_KNOWN_WITHIN_S = 90.0
RUN_WITHIN_S = 60 * 60.0
DEFAULT_WEB_PORT = 8080
FIRST_SERVER_PORT = 55432
FIRST_LOG_PORT = 8793
FIRST_MAIL_PORT = 1025

COLOURS = {"success": "green", "failed": "red", "upstream_failed": "red", "skipped": "yellow", "running": "cyan"}
QUIET_STATES = {"waiting", "scheduled", "queued", "deferred"}


class StartFailed(ComportaError):
    """A step of the start failed; what runs already stays up, and the step's log is named."""


class DryRunFailed(ComportaError):
    """The dry run ended with a failed task; the system stays up."""


@dataclass
class Phases:
    """Seconds per phase, for the breakdown at the end; phases of the two lanes overlap."""

    clock: Callable[[], float] = time.monotonic
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.clock()

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to phase ``name``."""
        started = self.clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - started

    def include(self, prepared: str) -> None:
        """Take over what the bootstrap script measured: ``name=milliseconds`` pairs."""
        for pair in prepared.split():
            name, _, milliseconds = pair.partition("=")
            self.seconds[name] = int(milliseconds) / 1000
            self.began -= int(milliseconds) / 1000

    @property
    def total(self) -> float:
        """Wall-clock seconds since the start of the command."""
        return self.clock() - self.began


@dataclass(frozen=True)
class Clusters:
    """The three servers of a local installation, and further shadows where they were asked for."""

    root: Path
    control: Cluster
    target: Cluster
    shadow: Cluster
    further: tuple[Cluster, ...] = ()

    @classmethod
    def of(cls, layout: Layout, shadows: int = 1) -> Clusters:
        """The clusters of one checkout, with as many ``shadows``, or those that are there if more; none is made yet."""
        root = server_root(layout.state / "pg", Account.current())
        first = FIRST_SERVER_PORT + 2

        def shadow(name: str, port: int) -> Cluster:
            return Cluster(name, root / name, port, CATALOGUE_SETTINGS, initdb_options=SHADOW_INITDB_OPTIONS)

        return cls(
            root=root,
            control=Cluster("control", root / "control", FIRST_SERVER_PORT),
            target=Cluster("target", root / "target", FIRST_SERVER_PORT + 1, CATALOGUE_SETTINGS),
            shadow=shadow("shadow", first),
            further=tuple(
                shadow(name, first + number)
                for number, name in enumerate(FURTHER_SHADOWS, start=1)
                if number < shadows or (root / name).exists()
            ),
        )

    def __iter__(self) -> Iterator[Cluster]:
        return iter((self.control, self.target, *self.shadows))

    @property
    def shadows(self) -> tuple[Cluster, ...]:
        """As many proofs run side by side."""
        return (self.shadow, *self.further)

    def bring_up(self) -> None:
        """Make what is missing and start what is down, side by side, each on a port of its own."""
        with ThreadPoolExecutor(3) as pool:
            for cluster in self:  # ports are chosen one after the other, so that no two choose the same
                taken = {other.port for other in self if other is not cluster}
                cluster.choose_port(avoid=taken)
            list(pool.map(_create_and_start, self))


def _create_and_start(cluster: Cluster) -> None:
    cluster.create()
    cluster.start()


@dataclass
class Starter:
    """One ``make run`` of one checkout."""

    layout: Layout
    rows: int
    console: Console
    dag_id: str = DRY_RUN_DAG
    shadows: int = 1
    phases: Phases = field(default_factory=Phases)
    proofs_follow: bool = field(default=False, init=False)

    def run(self, *, again: bool) -> Path | None:
        """Bring everything up, dry-run the release, print the way on; returns the report's path."""
        clusters = Clusters.of(self.layout, self.shadows)
        with self._step("clusters"):
            clusters.bring_up()
        self._say_where(clusters)
        values = self._prepare_environment(clusters)
        with ThreadPoolExecutor(1) as other_lane:
            loading = other_lane.submit(self._load_demo, clusters)
            try:
                airflow = self._start_airflow(values)
            finally:
                self._await(loading)
        self._take_baseline(clusters)
        self._sign_in(airflow)
        self._make_ready(airflow, clusters)
        report = self._dry_run(airflow, again=again)
        self._sync(airflow)
        self._close(airflow, report)
        return report

    def _sync(self, airflow: Airflow) -> None:
        """The first people are asked now, and from then on each day at its hour."""
        airflow.wait_for_dag(SYNC_DAG, within_s=DAG_KNOWN_WITHIN_S)
        airflow.unpause(SYNC_DAG)
        if self.proofs_follow and airflow.unfinished_run(SYNC_DAG) is None:
            airflow.trigger(SYNC_DAG)

    def _prepare_environment(self, clusters: Clusters) -> dict[str, str]:
        kept = environment.read(self.layout.environment)
        running = supervisor.is_running(self.layout)
        if not running and supervisor.stop(self.layout):
            self.console.print("ended what a killed supervisor had left behind")
        web = _web_ports(kept) if running and kept else self._choose_web_ports(kept)
        people = tuple(load_policy(self.layout.project / "config" / "gates.yaml").people)
        passwords = self._passwords(people)
        values = environment.compose(
            self.layout,
            control=clusters.control,
            target=clusters.target,
            shadow=clusters.shadow,
            further=clusters.further,
            web=web,
            people=people,
            passwords=passwords,
            kept=kept,
        )
        if running and values != kept:
            # Servers moved to other ports, or the settings of this version differ: Airflow reads its environment once.
            self.console.print("settings changed: Airflow is started again")
            supervisor.stop(self.layout)
        environment.write(self.layout.environment, values)
        return values

    def _passwords(self, people: Sequence[str]) -> dict[str, str]:
        """Passwords of everybody who signs in; those that there are stay."""
        file = self.layout.passwords
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        wanted = {login: known.get(login) or secrets.token_urlsafe(12) for login in (WEB_USER, SERVICE_USER, *people)}
        if wanted != known:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(wanted, indent=1))
            partial.replace(file)
        return wanted

    def _choose_web_ports(self, kept: Mapping[str, str]) -> WebPorts:
        wanted = int(os.environ.get("COMPORTA_WEB_PORT") or kept.get("AIRFLOW__API__PORT") or DEFAULT_WEB_PORT)
        web = ports.first_free(wanted)
        if web != wanted:
            self.console.print(
                f"[yellow]port {wanted} is taken by {ports.holder(wanted)}:[/] the web UI goes to {web} "
                "(COMPORTA_WEB_PORT=N asks for another)"
            )
        worker = ports.first_free(FIRST_LOG_PORT, avoid={web})
        trigger = ports.first_free(FIRST_LOG_PORT + 1, avoid={web, worker})
        return WebPorts(web, worker, trigger, ports.first_free(FIRST_MAIL_PORT, avoid={web}))

    def _load_demo(self, clusters: Clusters) -> None:
        target = clusters.target.dsn(CATALOGUE_DATABASE)
        with self.phases.measure("demo catalogue (beside Airflow)"):
            for shadow in clusters.shadows:
                ensure_database(shadow.dsn(CATALOGUE_DATABASE))
            try:
                self._load_rows(target)
            except CatalogueUnfinished:
                self.console.print("the demo catalogue was half loaded: it is loaded anew")
                drop_catalogue(target)
                clusters.target.restart()  # brings back pg_cron's launcher, which was ended with the database
                self._load_rows(target)

    def _load_rows(self, target: str) -> None:
        try:
            summary = prepare_catalogue(target, self.rows, self.layout.project)
        except CatalogueDiffers as difference:
            self.console.print(f"[yellow]the demo catalogue stays as it is:[/] {difference.message}")
            self.console.print("  `make clean`, then `make run ROWS=N` loads another number of rows")
            return
        if not summary.already_there:
            size = f"{summary.size_bytes / 2**20:,.0f} MiB"
            self.console.print(f"demo catalogue loaded: {summary.rows:,} geometries, {size}")
            self._record_use(target)

    def _record_use(self, target: str) -> None:
        """Some seconds of use, so that the server knows the query mix that STAGE 4 plans with."""
        try:
            operations = record_use(target)
            self.console.print(f"demo catalogue in use: {operations} operations recorded")
        except ComportaError as error:
            self.console.print(f"[yellow]no use recorded:[/] {error.message}")

    def _start_airflow(self, values: Mapping[str, str]) -> Airflow:
        airflow = Airflow(values["AIRFLOW__API__BASE_URL"])
        if supervisor.is_running(self.layout) and not airflow.unhealthy():
            self.console.print("Airflow runs already")
            return airflow
        with self._step("control database"):
            self._migrate(values)
            self._make_anchor_key()
        with self._step("Airflow start"):
            supervisor.start(self.layout)
            airflow.wait_until_healthy(
                within_s=HEALTHY_WITHIN_S,
                on_change=lambda missing: self.console.print(f"  waiting for {', '.join(missing)}", style="dim"),
            )
        return airflow

    def _migrate(self, values: Mapping[str, str]) -> None:
        control = Clusters.of(self.layout).control
        prepare_control(control.dsn(CONTROL_DATABASE), self.layout.project)
        # Kept with the cluster, and gone with it: importing Airflow to learn that nothing is missing takes 7 s.
        marker = control.directory / "airflow-migrated"
        version = metadata.version("apache-airflow") + " " + metadata.version("apache-airflow-providers-fab")
        if marker.exists() and marker.read_text() == version:
            return
        self.layout.airflow_home.mkdir(parents=True, exist_ok=True)
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        log = self.layout.logs / "airflow-migrate.log"
        with log.open("ab") as stream:
            done = subprocess.run(
                [str(Path(sys.executable).parent / "airflow"), "db", "migrate"],
                cwd=self.layout.airflow_home,
                env=environment.for_child(values),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=False,
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise StartFailed(f"`airflow db migrate` failed:\n{tail}", remedy=f"See {log}.")
        marker.write_text(version)

    def _make_anchor_key(self) -> None:
        """A new ledger gets a key and a file of anchors; those of one that is gone with its servers are set aside."""
        places = Places(self.layout.anchors, self.layout.anchor_key)
        if not places.key.exists():
            set_aside(places)
            make_key(places)

    def _take_baseline(self, clusters: Clusters) -> None:
        """What is normal for the target, before anything is done to it; a rollout takes another."""
        project = self.layout.project
        settings = Settings(
            home=project,
            control_dsn=clusters.control.dsn(CONTROL_DATABASE),
            target_dsn=clusters.target.dsn(CATALOGUE_DATABASE),
        )
        with self._step("health baseline"):
            try:
                release = load_release(settings.release_path, project / "sql")
                ensure_baseline(settings, release, actor="make run", say=self.console.print)
            except ComportaError as error:
                self.console.print(f"[yellow]no baseline:[/] {error.message}")

    def _sign_in(self, airflow: Airflow) -> None:
        airflow.sign_in(WEB_USER, json.loads(self.layout.passwords.read_text())[WEB_USER])

    def _make_ready(self, airflow: Airflow, clusters: Clusters) -> None:
        """Pools first, and STAGE 3 before the dry run that starts it: a DAG that is paused misses its asset for good.

        The daily sync asks people about what the dry run found, so it begins behind it.
        """
        pools = json.loads((self.layout.project / "config" / "pools.json").read_text())
        pools[SHADOW_POOL]["slots"] = len(clusters.shadows)
        airflow.ensure_pools(pools)
        for dag_id in dict.fromkeys((PROOFS_DAG, POST_DAG, self.dag_id)):
            airflow.wait_for_dag(dag_id, within_s=DAG_KNOWN_WITHIN_S)
            airflow.unpause(dag_id)

    def _dry_run(self, airflow: Airflow, *, again: bool) -> Path | None:
        inputs = digest_of_inputs(self.layout.project)
        last = _LastRun.read(self.layout.state / "last-run.json")
        run_id = airflow.unfinished_run(self.dag_id)
        if run_id is None and not again and last and last.inputs == inputs and last.dag_id == self.dag_id:
            self.console.print(f"dry run {last.run_id} stands: scripts and settings are unchanged since")
            self.console.print("  `make dry-run` runs it once more")
            return Path(last.report) if last.report else None
        with self._step("dry run"):
            started = time.time()
            run_id = run_id or airflow.trigger(self.dag_id)
            self.console.print(f"dry run {run_id}: {airflow.run_page(self.dag_id, run_id)}")
            for task in airflow.follow(self.dag_id, run_id, within_s=RUN_WITHIN_S):
                self._show_task(task)
        report = newest_report(self.layout.archives, stage=self.dag_id.partition("_")[0], since=started)
        if (state := airflow.run_state(self.dag_id, run_id)) != "success":
            reasons = "".join(f"\n  {reason}" for reason in airflow.why_failed(self.dag_id, run_id))
            self._close(airflow, report)
            raise DryRunFailed(
                f"the dry run {run_id} ended as {state}{reasons}",
                remedy=f"Everything stays up. Correct the cause, then run again or clear the task at\n"
                f"{airflow.run_page(self.dag_id, run_id)}",
            )
        self.proofs_follow = self.dag_id == DRY_RUN_DAG
        _LastRun(self.dag_id, run_id, inputs, str(report or "")).write(self.layout.state / "last-run.json")
        return report

    def _show_task(self, task: TaskState) -> None:
        if task.state in QUIET_STATES:
            return
        seconds = f" {task.seconds:6.1f} s" if task.seconds is not None else ""
        attempt = f" (try {task.try_number})" if task.try_number > 1 else ""
        style = COLOURS.get(task.state, "default")
        self.console.print(f"  [{style}]{task.state:>8}[/]  {task.label}{attempt}{seconds}", highlight=False)

    def _say_where(self, clusters: Clusters) -> None:
        places = ", ".join(f"{cluster.name} on {cluster.port}" for cluster in clusters)
        self.console.print(f"PostgreSQL: {places} (loopback)")

    def _close(self, airflow: Airflow, report: Path | None) -> None:
        self.console.print()
        for name, seconds in self.phases.seconds.items():
            self.console.print(f"  {seconds:7.1f} s  {name}", highlight=False)
        self.console.print(f"  {self.phases.total:7.1f} s  in all", highlight=False)
        self.console.print()
        self.console.print(f"Report:  {report or 'none was written'}", soft_wrap=True, highlight=False)
        self.console.print(self._how_proofs_stand(airflow), soft_wrap=True, highlight=False)
        self.console.print(f"Gates:   {airflow.address}/comporta/gates", soft_wrap=True, highlight=False)
        self.console.print(f"Web UI:  {airflow.address}", soft_wrap=True, highlight=False)
        self.console.print(self._how_to_sign_in(), soft_wrap=True, highlight=False)
        self.console.print(f"Mail:    none leaves this machine; it is kept in {self.layout.mail}", soft_wrap=True)
        self.console.print("`make status` shows what runs, `make stop` stops it.")

    def _how_to_sign_in(self) -> str:
        return (
            f"Sign in: as {WEB_USER}, or as cfo, po, ... to decide gates; the passwords are in {self.layout.passwords}"
        )

    def _how_proofs_stand(self, airflow: Airflow) -> str:
        command = self.layout.project / ".venv" / "bin" / "comporta"
        goes_on = self.proofs_follow or airflow.unfinished_run(PROOFS_DAG)
        state = "STAGE 3 goes on in the background: every rollback is proved, at" if goes_on else "STAGE 3 is at"
        return f"Proofs:  {state} {airflow.address}/dags/{PROOFS_DAG}\n         `{command} proofs` says which are valid now"

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.console.print(f"[bold]{name}[/]")
        with self.phases.measure(name):
            yield

    def _await(self, loading: Future[None]) -> None:
        if not loading.done():
            self.console.print("  waiting for the demo catalogue", style="dim")
        loading.result()


@dataclass(frozen=True)
class _LastRun:
    """The last dry run that succeeded, and what it was made from."""

    dag_id: str
    run_id: str
    inputs: str
    report: str

    @classmethod
    def read(cls, path: Path) -> _LastRun | None:
        try:
            found = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if not found.report or Path(found.report).exists() else None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__))


def digest_of_inputs(project: Path) -> str:
    """Digest of everything that decides what a dry run does: scripts, configuration, DAGs, our code."""
    digest = hashlib.sha256()
    for folder in ("sql", "config", "dags", "plugins"):
        for path in sorted((project / folder).rglob("*")):
            if path.suffix in {".sql", ".yaml", ".json", ".py"} and path.is_file():
                digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def newest_report(archives: Path, *, stage: str, since: float) -> Path | None:
    """The newest HTML report of a stage written after ``since`` (Unix seconds), None when there is none."""
    found = [path for path in archives.glob(f"*/{stage}-*/*.html") if path.stat().st_mtime >= since - 1]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _web_ports(values: Mapping[str, str]) -> WebPorts:
    return WebPorts(
        web=int(values["AIRFLOW__API__PORT"]),
        worker_logs=int(values["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"]),
        trigger_logs=int(values["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"]),
        mail=port_of(mail) if (mail := values.get("AIRFLOW_CONN_SMTP_DEFAULT")) else ports.first_free(FIRST_MAIL_PORT),
    )
