"""
### STAGE 3: rollback validation

Proves for **every change under every kind of trouble** that its rollback restores schema and data: on clones of the target,
on the shadow servers, beside live traffic. The target is only read.

| step | what it does | touches |
|---|---|---|
| `prepare` | fingerprints the target, and copies it where no copy of it waits | reads the target, the shadow's golden copy |
| `prove_rollback` | each change under each scenario: apply, roll back, compare catalogue, rows, writes | a clone for each proof |
| `prove_order` | a change goes with all that stands on it, alone and out of the release | a clone for each proof |
| `report` | one HTML and one JSON file under `archives/<date>/` | files |

**Starts** by hand, or when the asset `dry_run` is updated. **Emits** the asset `rollback_proofs` when every proof
holds and is valid: made with the scripts of now, on the target of now (`comporta proofs`).
Proofs run side by side, one on each shadow server (pool `shadow`), and give way to a dry run.

**When a task is red**: its log ends with what is not as it was, and the other proofs go on; the report (link *Report* on the
task `report`) shows all of them. After a correction start the DAG anew: every proof that ran the script is stale. Where no
script was at fault (a server was away), clear the red task: the proof is made anew, and the report with it.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from comporta.orchestration import stage3
from comporta.orchestration.assets import DRY_RUN
from comporta.orchestration.stage_run import rate_params
from comporta.orchestration.wiring import SHADOW_POOL, change_outlines, order_names, scenario_names


@dag(
    dag_id="stage3_rollback_validation",
    dag_display_name="STAGE 3 · rollback validation",
    schedule=[DRY_RUN],
    catchup=False,
    max_active_runs=1,
    tags=["comporta", "stage 3", "shadow only"],
    doc_md=__doc__,
    # Of two tasks that wait for a shadow, that of a dry run goes first.
    default_args={"pool": SHADOW_POOL, "retries": 0, "priority_weight": 0, "weight_rule": "absolute"},
    params={
        "fresh_clone": Param(
            False,
            type="boolean",
            title="Copy the target again",
            description="Also where a copy of exactly this schema waits: rows may have changed since it was made.",
        ),
        **rate_params(),
    },
)
def stage3_rollback_validation():
    proofs = [
        stage3.prove_rollback.expand(change=[change.name for change in change_outlines()], scenario=scenario_names())
    ]
    if orders := order_names():
        proofs.append(stage3.prove_order.expand(order=orders))
    stage3.prepare() >> proofs >> stage3.report()


stage3_rollback_validation()
