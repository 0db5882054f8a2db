"""Airflow connections as libpq connection strings: in a task, secrets come from Airflow and from nowhere else."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from psycopg.conninfo import make_conninfo

from comporta.settings import FURTHER_SHADOWS, Settings, load_settings


def settings_from_airflow() -> Settings:
    """The project's settings with the servers taken from the connections control, target, shadow, and shadow_2 to shadow_4
    where those are made."""
    servers = {f"{name}_dsn": conninfo(BaseHook.get_connection(name)) for name in ("control", "target", "shadow")}
    further = {f"{name}_dsn": _conninfo_if_made(name) for name in FURTHER_SHADOWS}
    return load_settings().model_copy(update=servers | further)


def _conninfo_if_made(name: str) -> str:
    try:
        return conninfo(BaseHook.get_connection(name))
    except AirflowNotFoundException:
        return ""


def conninfo(connection: Connection) -> str:
    """libpq form of a Postgres connection; its extras (sslmode, options, ...) are passed on."""
    parts: dict[str, Any] = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
        **connection.extra_dejson,
    }
    return make_conninfo("", **{key: value for key, value in parts.items() if value not in (None, "")})
