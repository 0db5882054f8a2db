"""What is worth another try, and how long a task waits for it."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk import RetryAction

from comporta.errors import ComportaError, ScriptError, StatementFailed, UnreachableServer
from comporta.orchestration.retrying import RetryTransient
from comporta.postgres.stopping import Stopped

LOCKED = StatementFailed("could not lock", sqlstate="55P03", statement=3, transient=True)


def pauses(try_number: int, max_tries: int, **task: Any) -> list[float]:
    """Seconds, of a hundred tasks that fail at the same try."""
    given = {"retries": 5, "retry_delay": timedelta(seconds=2), "max_retry_delay": timedelta(seconds=60), **task}
    context = {"task": SimpleNamespace(**given)}
    decisions = [RetryTransient().evaluate(LOCKED, try_number, max_tries, context) for _ in range(100)]
    return [each.retry_delay.total_seconds() for each in decisions if each.retry_delay is not None]


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (LOCKED, RetryAction.RETRY),
        (StatementFailed("1/0", sqlstate="22012"), RetryAction.FAIL),
        (UnreachableServer("no answer"), RetryAction.RETRY),
        (Stopped("select 1"), RetryAction.RETRY),
        (ScriptError("selct"), RetryAction.FAIL),
        (ComportaError("the proof is stale"), RetryAction.FAIL),
        (psycopg.errors.DeadlockDetected(), RetryAction.RETRY),
        (psycopg.OperationalError("server closed the connection unexpectedly"), RetryAction.RETRY),
        (psycopg.errors.UniqueViolation(), RetryAction.FAIL),
        (RuntimeError("the API server is away"), RetryAction.DEFAULT),
    ],
    ids=["lock", "statement", "server away", "stopped", "script", "refused", "deadlock", "lost", "unique", "not ours"],
)
def test_what_may_pass_is_tried_again(error: Exception, action: RetryAction) -> None:
    assert RetryTransient().evaluate(error, 1, 5).action is action


@pytest.mark.parametrize(
    ("try_number", "longest_s"), [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (500, 60)]
)  # fmt: skip
def test_the_pause_doubles_up_to_its_limit(try_number: int, longest_s: float) -> None:
    found = pauses(try_number, 5)
    assert all(longest_s / 2 <= pause <= longest_s for pause in found)
    assert len(set(found)) > 90, "tasks that failed together come back together"


def test_a_cleared_task_starts_with_a_short_pause_again() -> None:
    """Cleared after its 7th try, Airflow calls the next one the 8th, and lets it have 7 + 5."""
    assert max(pauses(8, 12)) <= 2


def test_a_task_without_a_limit_has_one_all_the_same() -> None:
    assert max(pauses(20, 5, max_retry_delay=None)) <= 60


def test_the_reason_is_one_line_that_names_the_error() -> None:
    error = StatementFailed("a.sql:4: statement 2 of 3 failed (x)\n  55P03: no lock", sqlstate="55P03", transient=True)
    assert RetryTransient().evaluate(error, 1, 5).reason == "a.sql:4: statement 2 of 3 failed (x) 55P03: no lock"
