"""The DAGs as the DAG processor parses them, in a process of its own so that no setting of a developer leaks in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARSE = """
import json, sys
from comporta.orchestration.reference import load_dags, render

def mapped_over(task):
    if not task.is_mapped:
        return None
    given = getattr(task, "op_kwargs_expand_input", None) or task.expand_input
    return {name: list(values) for name, values in given.value.items()}

def schedule(dag):
    condition = getattr(dag.timetable, "asset_condition", None)
    return str(dag.schedule) if condition is None else sorted(asset.name for asset in condition.objects)

def first_runs(dag):
    # The logical dates of the first two scheduled runs of a DAG that runs all the time.
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.simple import ContinuousTimetable

    if str(dag.schedule) != "@continuous":
        return []
    dates, last = [], None
    for _ in range(2):
        run = ContinuousTimetable().next_dagrun_info(
            last_automated_data_interval=last, restriction=TimeRestriction(dag.start_date, None, False)
        )
        last = run.data_interval
        dates.append(run.logical_date.isoformat())
    return dates

def doc(task):
    function = getattr(task, "python_callable", None)
    return task.doc_md or (function.__doc__ if function else "") or ""

dags = load_dags()
print(json.dumps({
    "reference": render(dags),
    "dags": {
        dag.dag_id: {
            "tags": sorted(dag.tags), "doc": dag.doc_md, "max_active_runs": dag.max_active_runs,
            "schedule": schedule(dag), "catchup": dag.catchup, "first_runs": first_runs(dag),
            "tasks": {
                task.task_id: {
                    "upstream": sorted(task.upstream_task_ids), "trigger_rule": str(task.trigger_rule.value),
                    "pool": task.pool, "doc": doc(task),
                    "outlets": [outlet.name for outlet in task.outlets],
                    "retries": task.retries, "priority": task.priority_weight,
                    "operator": task.task_type, "spares": list(getattr(task, "spare", ())),
                    "consumes": getattr(task, "consume", None),
                    "label": task.map_index_template, "mapped_over": mapped_over(task),
                }
                for task in dag.tasks
            },
        }
        for dag in dags
    },
    "heavy": sorted({"plotly", "pglast", "scipy", "pandas", "numba", "psycopg"} & sys.modules.keys()),
}))
"""


@pytest.fixture(scope="session")
def parsed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every DAG with its tasks, the reference page, and which heavy packages parsing has imported."""
    home = tmp_path_factory.mktemp("airflow")
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": str(project / "plugins"),
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
