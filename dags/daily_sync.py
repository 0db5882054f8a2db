"""
### Daily sync: are we ready, and may we?

Asks every owner for **Ready or Blocker**, checks the release's list by machine, puts the **Go / No-Go** gates, and writes minutes.

| step | what it does | touches |
|---|---|---|
| `open_sync` | records that the sync begins, and whom it asks | the ledger |
| `collect_readiness` | one question an owner; two hours, reminders at 60 and 90 minutes, **silence is a Blocker** | the ledger |
| `check_blockers` | the checklist by machine, with evidence; blockers with owner and age | reads all servers |
| `write_agenda` | what is to be decided, on what evidence, what is in the way | files |
| one task a gate | waits for the decision of the people whom the gate names | the ledger |
| `write_minutes` | who, what, blockers, decisions, next; also sent by mail | files |

**Starts** at 10:00 UTC each day, or by hand. **Emits** the asset `daily_sync` with the minutes, whatever was decided.
Owners, checklist, gates, times and who is told of what stand in `config/gates.yaml`. Mail is sent by the DAG `post`; nothing
here waits for it. Decisions are used by the DAGs that they let through (`stage4`, `rollout`).

**Answer** under Required Actions, on the Gates page, or with `comporta gates`. A Go is refused while an item that the gate
requires is a blocker, or an owner is not ready; the gate names it.

**When an owner wants to answer again**, clear that owner's `collect_readiness` (with downstream): the question is put anew, and
so are the gates. **When a gate said No-Go** the run is green: a No-Go is an answer, and the note on the run says whose. After
the correction clear the gate. **When a task is red**: its log says what to put right; clear it, and the run goes on.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import chain, dag

from comporta.orchestration import daily_sync as steps
from comporta.orchestration.wiring import readiness_owners, sync_gates


@dag(
    dag_id="daily_sync",
    dag_display_name="Daily sync · Go or No-Go",
    schedule="0 10 * * *",
    catchup=False,
    # A run that is cleared while the next one waits for people must not wait behind it.
    max_active_runs=8,
    tags=["comporta", "gates"],
    doc_md=__doc__,
    # People wait for these: where slots are scarce they go before what only machines wait for.
    default_args={"retry_delay": timedelta(seconds=15), "priority_weight": 10, "weight_rule": "absolute"},
)
def daily_sync():
    readiness = steps.collect_readiness(readiness_owners())
    checked = steps.check_blockers(readiness.output)
    chain(
        steps.open_sync(),
        readiness,
        checked,
        steps.write_agenda(),
        [steps.gate(name) for name in sync_gates()],
        steps.write_minutes(),
    )


daily_sync()
