"""Fills fresh servers: the databases, our control schema, the demo catalogue. Every step finds its work done the second time.

``python -m comporta.local.databases`` does it for servers that something else runs, such as containers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg import sql

from comporta.demo.load import LoadSummary, load_catalogue
from comporta.ledger.migration import migrate
from comporta.postgres.connection import connect, database_name, with_database
from comporta.settings import load_settings

AIRFLOW_DATABASE = "airflow"


def ensure_database(dsn: str) -> bool:
    """Create the database that ``dsn`` names unless it is there; True when it was created."""
    name = database_name(dsn)
    with connect(with_database(dsn, "postgres"), name="comporta/setup") as connection:
        if connection.execute("select true from pg_database where datname = %s", [name]).fetchone():
            return False
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return True


def prepare_control(control_dsn: str, project: Path) -> tuple[str, ...]:
    """Make the databases of the control server and bring our schema up to date; returns the migrations applied."""
    for dsn in (control_dsn, with_database(control_dsn, AIRFLOW_DATABASE)):
        ensure_database(dsn)
    with connect(control_dsn, name="comporta/setup") as connection:
        return migrate(connection, project / "sql" / "control")


def prepare_catalogue(target_dsn: str, rows: int, project: Path) -> LoadSummary:
    """Make the target's database and load the demo catalogue; errors as from ``load_catalogue``."""
    ensure_database(target_dsn)
    return load_catalogue(target_dsn, rows=rows, project_root=project)


def drop_catalogue(target_dsn: str) -> None:
    """Drop the target's database with all sessions on it: only for a demo catalogue of ours that is half loaded.

    pg_cron's launcher is among those sessions, and stays away until the server restarts.
    """
    name = sql.Identifier(database_name(target_dsn))
    with psycopg.connect(with_database(target_dsn, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(name))


def main(rows: Annotated[int, typer.Option(min=1)] = 300_000) -> None:
    """Prepare the servers that COMPORTA_CONTROL_DSN, _TARGET_DSN and _SHADOW_DSN name."""
    settings = load_settings()
    prepare_control(settings.require("control"), settings.home)
    ensure_database(settings.require("shadow"))
    summary = prepare_catalogue(settings.require("target"), rows, settings.home)
    typer.echo(f"demo catalogue: {summary.rows:,} geometries" + (", there already" if summary.already_there else ""))


if __name__ == "__main__":
    typer.run(main)
