"""The environment that every program of a local installation starts from, kept in one private file of KEY=VALUE lines."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from dotenv import dotenv_values

from comporta.local.cluster import CATALOGUE_DATABASE, SUPERUSER, Cluster
from comporta.local.databases import AIRFLOW_DATABASE
from comporta.local.layout import Layout
from comporta.local.ports import LOOPBACK

CONTROL_DATABASE = "comporta"
WEB_USER = "admin"
SERVICE_USER = "comporta"
"""Writes notes on runs; it holds no role, so that it decides nothing."""


@dataclass(frozen=True)
class WebPorts:
    """Ports of the web UI, of the two servers that hand out task logs to it, and of the mail catcher."""

    web: int
    worker_logs: int
    trigger_logs: int
    mail: int = 1025


def compose(
    layout: Layout,
    *,
    control: Cluster,
    target: Cluster,
    shadow: Cluster,
    further: Sequence[Cluster] = (),
    web: WebPorts,
    people: Sequence[str] = (),
    passwords: Mapping[str, str] = MappingProxyType({}),
    kept: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of the installation; secrets come from ``kept`` when it has them.

    ``further`` are shadows beside the first; their names are those of their settings and connections. ``people`` sign in beside
    the administrator; ``passwords`` has those of everybody.
    """

    def secret(name: str, make: Callable[[], str]) -> str:
        return kept.get(name) or make()

    address = f"http://{LOOPBACK}:{web.web}"
    return {
        "COMPORTA_HOME": str(layout.project),
        "COMPORTA_CONTROL_DSN": control.dsn(CONTROL_DATABASE),
        "COMPORTA_TARGET_DSN": target.dsn(CATALOGUE_DATABASE),
        "COMPORTA_SHADOW_DSN": shadow.dsn(CATALOGUE_DATABASE),
        **{f"COMPORTA_{each.name.upper()}_DSN": each.dsn(CATALOGUE_DATABASE) for each in further},
        "COMPORTA_ARCHIVES": str(layout.archives),
        "COMPORTA_ANCHORS": str(layout.anchors),
        "COMPORTA_ANCHOR_KEY": str(layout.anchor_key),
        "COMPORTA_RELEASE": str(layout.project / "config" / "release.yaml"),
        "COMPORTA_GATES": str(layout.project / "config" / "gates.yaml"),
        "COMPORTA_WEB_URL": address,
        "AIRFLOW_HOME": str(layout.airflow_home),
        "AIRFLOW_CONN_CONTROL": uri("postgres", control, CONTROL_DATABASE),
        "AIRFLOW_CONN_TARGET": uri("postgres", target, CATALOGUE_DATABASE),
        "AIRFLOW_CONN_SHADOW": uri("postgres", shadow, CATALOGUE_DATABASE),
        **{f"AIRFLOW_CONN_{each.name.upper()}": uri("postgres", each, CATALOGUE_DATABASE) for each in further},
        "AIRFLOW_CONN_AIRFLOW_API": _account(web, passwords.get(SERVICE_USER, "")),
        "AIRFLOW_CONN_SMTP_DEFAULT": (
            f"smtp://{LOOPBACK}:{web.mail}/?disable_ssl=true&disable_tls=true&timeout=10&from_email=comporta%40localhost"
        ),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri("postgresql+psycopg", control, AIRFLOW_DATABASE),
        "AIRFLOW__CORE__DAGS_FOLDER": str(layout.dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(layout.project / "plugins"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(layout.airflow_home / "logs"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # The next three cut the gap between two tasks from about 1 s to 0.2 s on two cores.
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A worker, or a scheduler with all its workers, that was killed is noticed within a minute, not within five.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            [f"{WEB_USER}:admin", f"{SERVICE_USER}:user", *(f"{login}:user" for login in people if login != WEB_USER)]
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(layout.passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(web.web),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(web.worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(web.trigger_logs),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__CORE__FERNET_KEY": secret("AIRFLOW__CORE__FERNET_KEY", _fernet_key),
        # Tokens are signed with HS512, which asks for at least 64 bytes.
        "AIRFLOW__API_AUTH__JWT_SECRET": secret("AIRFLOW__API_AUTH__JWT_SECRET", lambda: secrets.token_urlsafe(72)),
        "AIRFLOW__API__SECRET_KEY": secret("AIRFLOW__API__SECRET_KEY", lambda: secrets.token_urlsafe(32)),
    }


def uri(scheme: str, cluster: Cluster, dbname: str) -> str:
    """The address of a database in the form that Airflow and SQLAlchemy read."""
    return f"{scheme}://{SUPERUSER}:{quote(cluster.password, safe='')}@{LOOPBACK}:{cluster.port}/{dbname}"


def _account(web: WebPorts, password: str) -> str:
    return f"http://{SERVICE_USER}:{quote(password, safe='')}@{LOOPBACK}:{web.web}"


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write the file with mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))
    partial.replace(path)


def read(path: Path) -> dict[str, str]:
    """Return what the file holds; empty when there is none."""
    if not path.exists():
        return {}
    return {key: value for key, value in dotenv_values(path, interpolate=False).items() if value is not None}


def for_child(values: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child process: ours on top of the caller's, without a stranger's Airflow or libpq settings."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PG", "COMPORTA_"))}
    return {**inherited, **values, "PYTHONUNBUFFERED": "1"}


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
