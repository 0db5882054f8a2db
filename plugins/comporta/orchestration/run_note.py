"""Notes on a DAG run and on its tasks, through Airflow's public API: a task may not write them itself, and people read them first.

The account is the Airflow connection ``airflow_api`` (HTTP, with login and password). Without one, and whenever the API does not
answer, the words stay in the task's log: a note never holds up what it tells of.
"""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx
from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

ACCOUNT = "airflow_api"
_LONGEST = 1_000  # Airflow refuses a longer note
_TIMEOUT_S = 5.0


def add_note(dag_id: str, run_id: str, text: str, *, log: logging.Logger) -> None:
    """Put ``text`` above the notes that the run has; the same text is not put there twice."""
    _put(_run(dag_id, run_id), text, log)


def note_task(dag_id: str, run_id: str, task_id: str, text: str, *, log: logging.Logger) -> None:
    """Put ``text`` above the notes that the task has in this run; its state stays as it is. Not for a mapped task."""
    _put(f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}", text, log)


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _put(resource: str, text: str, log: logging.Logger) -> None:
    try:
        account = BaseHook.get_connection(ACCOUNT)
    except AirflowNotFoundException:
        log.info("No connection %s: the note stays here. %s", ACCOUNT, text)
        return
    try:
        with httpx.Client(base_url=_address(account), timeout=_TIMEOUT_S, trust_env=False) as client:
            sign_in = {"username": account.login, "password": account.password}
            token = client.post("/auth/token", json=sign_in).raise_for_status().json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            former = client.get(resource).raise_for_status().json().get("note") or ""
            if text in former:
                return
            note = f"{text}\n\n{former}".strip()[:_LONGEST]
            client.patch(resource, json={"note": note}).raise_for_status()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        log.warning("The note could not be put there (%s: %s). %s", type(error).__name__, error, text)


def _address(account: Connection) -> str:
    port = f":{account.port}" if account.port else ""
    return f"{account.schema or account.conn_type or 'http'}://{account.host}{port}"
