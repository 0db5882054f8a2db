"""
### Rollback of one change

Rolls a change back on the **target**, first what stands on it, whatever run applied it and whether or not that run
still exists.

| step | what it does | touches |
|---|---|---|
| `roll_back` | the rollback scripts in reverse order; compares with what was proved | **the target** |

**Starts** by hand: say which change, and why. It needs no Go, waits for nobody but a script that runs, and is never
paused. The same from a terminal, also when Airflow is down: `comporta rollback OPT3 -r WHY`. What is not on the
target needs no rollback: the task says so and is skipped. **When the task is red**: its log names the statement, or
what is not as it was; clear it to go on where it stopped.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from comporta.orchestration import rollout as steps
from comporta.orchestration.wiring import change_outlines


@dag(
    dag_id="rollback",
    dag_display_name="Rollback · one change, now",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=8,
    tags=["comporta", "production"],
    doc_md=__doc__,
    default_args={"priority_weight": 30, "weight_rule": "absolute"},
    params={
        "change": Param(
            None,
            type=["null", "string"],
            enum=[None, *(change.name for change in change_outlines())],
            title="Change",
            description="What stands on it is rolled back first.",
        ),
        "why": Param("", type="string", title="Why", description="It is recorded, and told to everybody."),
    },
)
def rollback():
    steps.RollBackOnRequest(
        task_id="roll_back",
        doc_md="Rolls the change of the form back on the **target**, first what stands on it.",
    )


rollback()
