"""
### Post: mail about gates and rollouts

Tells people by mail what the ledger recorded: a gate that opened, reminders, decisions, expiries, the minutes of the daily
sync; a rollout that was refused, stopped or finished, a change that was rolled back, a breaker that opened or is held, drift
of the target. Who is told of what is the escalation matrix in `config/gates.yaml`.

| step | what it does | touches |
|---|---|---|
| `wait_for_mail` | waits, without a worker, until a mail is due; records reminders and expiries of gates | the control database |
| `send_mail` | sends what is due over the connection `smtp_default` | the mail server, `comporta.mail` |

**Starts** by itself and always: a run waits for the next mail and sends it, then the next run waits. Leave it unpaused.
**Nothing waits for it**: gates and rollouts go by the ledger alone, whether or not a mail about them went out.

**Why a DAG, and why `@continuous`**: the connection, the log and the retries are Airflow's, where an operator looks for them.
A schedule of every minute would start 1,440 runs a day to find nothing in most; this starts one for each burst of mail.

**When mail does not arrive**: `comporta mail list` shows what waits, in the mail server's own words. A server that is down,
slow, or says "later" (4xx) is tried again with growing pauses; a refusal (5xx) fails that one mail, and the next in the
matrix is told. Correct the address in `config/gates.yaml`, or the connection, then `comporta mail retry`. See docs/daily-sync.md.

**When a task is red**: the control database was away for longer than its retries last. Nothing is lost; the next run goes on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from comporta.orchestration import post as steps


@dag(
    dag_id="post",
    dag_display_name="Post · mail",
    schedule="@continuous",
    # Without one, the second run would have the logical date of the first, and never be made.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["comporta", "gates"],
    doc_md=__doc__,
    # A run that fails at once would be followed by the next at once: retries with pauses keep that from spinning.
    default_args={"retries": 10, "retry_delay": timedelta(seconds=30), "max_retry_delay": timedelta(minutes=5),
                  "retry_exponential_backoff": 2.0},
)  # fmt: skip
def post():
    wait = steps.WaitForMail(
        task_id="wait_for_mail",
        doc_md="Waits, without a worker, until a mail is due. Reads the ledger; records reminders and expiries of gates.",
    )
    wait >> steps.send_mail()


post()
