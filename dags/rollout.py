"""
### Rollout to production

Applies the release to the **target**, one change after the other, and keeps the way back open for each.

| step | what it does | touches |
|---|---|---|
| `preflight` | proofs, drift, disk, long transactions, health; notes the backup point | reads the target |
| `gate` | the Go of the people named in `config/gates.yaml`; one of the daily sync that is in force is used | the ledger |
| `OPTn.apply` | the change's script, statement by statement, under the breakers | **the target** |
| `OPTn.verify` | the change's own verification; three failures roll it back | reads the target |
| `OPTn.watch` | the change stands under the breakers before the next one starts | reads the target |
| `OPTn.rollback` | **armed** (skipped, pink): clear it to roll back; after a failure it rolls back by itself | **the target** |
| `outcome` | the report; red when anything failed or was rolled back by itself | files |

**Starts** by hand. **To roll back** OPT3, today or in a month: open this run, click `OPT3.rollback`, *Clear*, say
why. What stands on it (OPT5) goes first, everything else stays. Clearing the run, or `apply`, applies again and
does **not** roll back. Marking a task as success or failed changes nothing on the target: the ledger and the
target's fingerprint decide.

**Do not pause this DAG to stop a rollout**: a paused DAG runs no rollback either. `comporta health hold -r WHY`
stops it. When the run is gone, or the DAG is paused, use the DAG `rollback`; when Airflow is down, `comporta
rollback OPT3 -r WHY`.

**When a task is red**: its log names file, line, statement and what remains. `apply` and `rollback` go on where
they stopped: clear them. A change that was rolled back by itself is tried again by clearing its `apply` with
downstream.
"""

from __future__ import annotations

from airflow.sdk import chain, dag, task_group

from comporta.orchestration import rollout as steps
from comporta.orchestration.wiring import change_outlines


@dag(
    dag_id="rollout",
    dag_display_name="Rollout · production",
    schedule=None,
    catchup=False,
    # A run that is cleared in a paused DAG stays queued, and rolls nothing back.
    is_paused_upon_creation=False,
    # A rollback that is cleared in an old run must not wait behind a newer run's gate: what must not overlap has a lock of its own.
    max_active_runs=8,
    tags=["comporta", "production"],
    doc_md=__doc__,
    default_args={"priority_weight": 20, "weight_rule": "absolute"},
)
def rollout():
    before = [steps.preflight(), steps.gate()]
    chain(*before)
    last, armed = before[-1], []
    for change in change_outlines():

        @task_group(group_id=change.name, group_display_name=f"{change.name} · {change.title}", tooltip=change.title)
        def carry(change=change):
            return steps.carry(change)

        apply, watch, rollback = carry()
        last >> apply
        last = watch
        armed.append(rollback)
    [last, *armed] >> steps.outcome()


rollout()
