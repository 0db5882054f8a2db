"""Scripts on the target that take long, and notes, for the end-to-end tests."""

from __future__ import annotations

import logging
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from comporta.orchestration.postgres_operator import PostgresOperator
from comporta.orchestration.run_note import note_task

SLEEPS = """create table if not exists public.slept (at timestamptz);
select pg_sleep(600);
insert into public.slept values (now());
"""
SOON = {"retry_delay": timedelta(seconds=1), "max_retry_delay": timedelta(seconds=1)}


@task
def tell() -> None:
    """Notes on another task and on the task itself."""
    context = get_current_context()
    for named in ("alters", "tell"):
        note_task("scripts", context["run_id"], named, f"about {named}", log=logging.getLogger(__name__))


@dag(schedule=None, max_active_runs=30)
def sleeps():
    """A script that would run for ten minutes."""
    PostgresOperator(task_id="sleeps", sql=SLEEPS, **SOON) >> tell.override(task_id="behind")()


@dag(schedule=None, max_active_runs=30)
def scripts():
    """A script that needs a lock, and a task that leaves notes."""
    PostgresOperator(task_id="alters", sql="alter table public.busy add column if not exists b int", lock_timeout_ms=50,
                     **SOON) >> tell()  # fmt: skip


for made in (sleeps, scripts):
    made()
