"""Small DAGs with gates, for the end-to-end tests."""

from __future__ import annotations

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import dag, task

from comporta.orchestration.gate_sensor import GoNoGoSensor


@task
def go_on() -> str:
    return "ran"


@dag(schedule=None, max_active_runs=30)
def pair():
    """Two gates, side by side, each with something behind it."""
    GoNoGoSensor(task_id="ship", gate="ship") >> go_on.override(task_id="deploy")()
    GoNoGoSensor(task_id="announce", gate="announce") >> go_on.override(task_id="tell")()


@dag(schedule=None, max_active_runs=30)
def single():
    """One gate that rests on the target, too."""
    GoNoGoSensor(task_id="touch_target", gate="touch_target") >> go_on.override(task_id="change")()


@dag(schedule=None, max_active_runs=30)
def signatures():
    """A gate of two roles; behind it tasks with every trigger rule that would run after a failure or a skip, and a spared one."""
    gate = GoNoGoSensor(task_id="two_signatures", gate="two_signatures", spare=("minutes",))
    behind = go_on.override(task_id="behind")()
    gate >> behind
    gate >> go_on.override(task_id="none_failed", trigger_rule="none_failed")()
    behind >> go_on.override(task_id="all_done", trigger_rule="all_done")()
    behind >> go_on.override(task_id="minutes", trigger_rule="all_done")()


@dag(schedule=None, max_active_runs=30)
def many():
    """Twenty gates at once."""

    for number in range(20):
        GoNoGoSensor(task_id=f"gate_{number:02d}", gate="ship") >> go_on.override(task_id=f"after_{number:02d}")()


@dag(schedule=None, max_active_runs=30)
def asks():
    """Opens a gate whose decision another DAG uses."""
    GoNoGoSensor(task_id="ship", gate="ship", consume=False)


@dag(schedule=None, max_active_runs=30)
def waits():
    """Waits for the decision that a run of ``asks`` brought about."""
    GoNoGoSensor(task_id="wait_for_go", gate="ship", opened_by="asks") >> go_on.override(task_id="load")()


@dag(schedule=None, max_active_runs=60)
def stock():
    """Airflow's own approval, to compare with."""
    ApprovalOperator(task_id="approve", subject="May it?") >> go_on.override(task_id="after")()


@dag(schedule=None, max_active_runs=60)
def ours():
    """The same with a gate of ours."""
    GoNoGoSensor(task_id="approve", gate="ship") >> go_on.override(task_id="after")()


for made in (pair, single, signatures, many, asks, waits, stock, ours):
    made()
