"""
### STAGE 2: dry run

Rehearses the release on a **clone** of the target, on the shadow server, under live traffic. The target is only read.

| step | what it does | touches |
|---|---|---|
| `preflight` | long transactions, invalid indexes, disk, extensions, drift | reads the target |
| `clone_shadow` | dump, restore, compare the fingerprints | reads the target once, rebuilds the shadow's clone |
| `OPTn.apply` / `.verify` | the change's own scripts, every statement traced | the clone |
| `OPTn.measure` | queries and plans before and after, sizes, hazards, verdict | the clone |
| `report` | one HTML and one JSON file under `archives/<date>/` | files |

**Starts** by hand, or when the asset `release` is updated. **Emits** the asset `dry_run` when no change has a stop.

**When a task is red**: its log names file, line, statement and error, and the report (link *Report* on the task `report`)
shows the rest. Correct the script and clear the run from `clone_shadow`: the clone is made anew.
"""

from __future__ import annotations

from airflow.sdk import Param, chain, dag, task_group

from comporta.orchestration import stage2
from comporta.orchestration.assets import RELEASE
from comporta.orchestration.stage_run import rate_params
from comporta.orchestration.wiring import SHADOW_POOL, change_outlines


@dag(
    dag_id="stage2_dry_run",
    dag_display_name="STAGE 2 · dry run",
    schedule=[RELEASE],
    catchup=False,
    max_active_runs=1,
    tags=["comporta", "stage 2", "shadow only"],
    doc_md=__doc__,
    default_args={"pool": SHADOW_POOL, "retries": 0},
    params={
        "keep_clone": Param(
            False,
            type="boolean",
            title="Start from the golden copy that is there",
            description="Quicker, and as old as that copy: the target is not dumped again.",
        ),
        **rate_params(),
    },
)
def stage2_dry_run():
    steps = [stage2.preflight(), stage2.clone_shadow()]
    for change in change_outlines():

        @task_group(group_id=change.name, tooltip=change.title)
        def rehearse(name=change.name):
            chain(stage2.apply(name), stage2.verify(name), stage2.measure(name))

        steps.append(rehearse())
    chain(*steps, stage2.report())


stage2_dry_run()
