"""
### STAGE 4: capacity planning

Says **what the system will need**, with dates: a load ladder on a clone of the target, before, through and after the
release, models tested on the rung that they have not seen, and a forecast. The target is only read.

| step | what it does | touches |
|---|---|---|
| `wait_for_go` | the decision of the daily sync on the gate `stage4` | the ledger |
| `prepare` | looks at sizes, limits, history, recorded load; copies the target where no copy waits | reads the target, the shadow |
| `load_ladder` | for each size: more and more clients through pgbench, in each state of the release | a clone on the shadow |
| `fit` | throughput, latency, growth, sizes, refresh, planning time; each model is tested | files |
| `forecast` | when the disk fills, when p95 passes its objective, what each OPT buys, what 2029 looks like | files |
| `report` | "STAGE 4 Results + Performance Report" under `archives/<date>/` | files |

**Starts** by hand, or when the asset `rollback_proofs` is updated. **Emits** the asset `capacity_plan`. The plan of what is
climbed, its stop rules and objectives are in `config/release.yaml` (`capacity:`).

**When a task is red**: `load_ladder` puts no load on the shadow while a breaker of the target is open, and ends by itself when
one stays open (`capacity.stop.breaker_s`) or is held by somebody; clear it when the target is well again (`comporta health`):
it goes on where it stopped, no finished rung is measured again. `report` is red when an
objective is not met now: its page says which. The same from a terminal: `comporta capacity`.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from comporta.orchestration import stage4
from comporta.orchestration.assets import ROLLBACK_PROOFS
from comporta.orchestration.wiring import ladder_sizes


@dag(
    dag_id="stage4_capacity_planning",
    dag_display_name="STAGE 4 · capacity planning",
    schedule=[ROLLBACK_PROOFS],
    catchup=False,
    max_active_runs=1,
    tags=["comporta", "stage 4", "shadow only"],
    doc_md=__doc__,
    # Of two tasks that wait for a shadow, a dry run's and a proof's go first.
    default_args={"retries": 0, "priority_weight": 0, "weight_rule": "absolute"},
    params={
        "quick": Param(
            False,
            type="boolean",
            title="The short ladder",
            description="Fewer rungs for less time: minutes, and wider intervals.",
        ),
        "fresh_clone": Param(
            False,
            type="boolean",
            title="Copy the target again",
            description="Also where a copy of exactly this schema waits: rows may have changed since it was made.",
        ),
    },
)
def stage4_capacity_planning():
    (
        stage4.wait_for_go()
        >> stage4.prepare()
        >> stage4.load_ladder.expand(size=ladder_sizes())
        >> stage4.fit()
        >> stage4.forecast()
        >> stage4.report()
    )


stage4_capacity_planning()
