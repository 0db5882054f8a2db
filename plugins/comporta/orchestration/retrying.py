"""Which failures of a task are worth another try, and when: what may pass is tried again, what a person must put right is not."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

_LONGEST_S = 60.0


class RetryTransient(RetryPolicy):
    """Tries again after a lost connection, a lock that was not had, or a stop; fails at once on every other error of ours.

    The pause starts at the task's ``retry_delay``, doubles with each try since the task was last cleared, up to its
    ``max_retry_delay``, and is drawn from half of that to all of it: tasks that failed together do not come back together.
    What is no error of ours is left to Airflow, which retries it with ``retry_delay``.
    """

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """What Airflow asks in the process of the task that failed."""
        from comporta.postgres.execution import may_pass  # the parser is loaded in the task only

        worth = may_pass(exception)
        if worth is None:
            return RetryDecision.default()
        said = " ".join(str(getattr(exception, "message", exception)).split())
        if not worth:
            return RetryDecision.fail(said)
        return RetryDecision.retry(_pause(try_number, max_tries, (context or {}).get("task")), said)


def _pause(try_number: int, max_tries: int, task: Any) -> timedelta:
    """Airflow counts tries on when a task is cleared, and moves max_tries along with them."""
    retries, first = (task.retries, task.retry_delay.total_seconds()) if task is not None else (max_tries, 1.0)
    longest = getattr(task, "max_retry_delay", None)
    longest_s = longest.total_seconds() if longest is not None else _LONGEST_S
    since_cleared = max(1, try_number - max(0, max_tries - retries))
    pause_s = min(longest_s, first * 2 ** min(since_cleared - 1, 32))
    return timedelta(seconds=pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads tries, hides nothing
