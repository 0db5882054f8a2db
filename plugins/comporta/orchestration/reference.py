"""The DAG reference page, generated from the DAGs themselves: ``python -m comporta.orchestration.reference docs/dags.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comporta.settings import project_root


def render(dags: Iterable[Any]) -> str:
    """Markdown: a section a DAG, with its own page, when it runs, and its tasks in order."""
    sections = [_section(dag) for dag in sorted(dags, key=lambda each: str(each.dag_id))]
    head = "# DAGs\n\nGenerated from the DAG files; `make test` fails when it is out of date (`make reference` writes it anew).\n"
    return "\n".join([head, *sections])


def _section(dag: Any) -> str:
    rows = [
        f"| `{task.task_id}` | {', '.join(f'`{name}`' for name in sorted(task.upstream_task_ids)) or 'start'} "
        f"| {str(task.trigger_rule).removeprefix('TriggerRule.').lower()} | {task.pool} | {task.retries} |"
        for task in dag.topological_sort()
    ]
    table = "\n".join(["| task | after | runs when | pool | retries |", "|---|---|---|---|---|", *rows])
    facts = f"Tags: {', '.join(sorted(dag.tags))}. Starts: {_schedule(dag)}. Concurrent runs: {dag.max_active_runs}."
    return f"## `{dag.dag_id}`\n\n{(dag.doc_md or '').strip()}\n\n{facts}\n\n{table}\n"


def _schedule(dag: Any) -> str:
    condition = getattr(dag.timetable, "asset_condition", None)
    if condition is not None:
        return f"by hand, or on asset {', '.join(sorted(asset.name for asset in condition.objects))}"
    return str(dag.schedule or "by hand")


def load_dags() -> list[Any]:
    """Every DAG of the project, parsed as the DAG processor parses them; RuntimeError names a file that does not import."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(project_root() / "dags"))
    if bag.import_errors:
        raise RuntimeError("\n".join(f"{file}: {error}" for file, error in bag.import_errors.items()))
    return list(bag.dags.values())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(load_dags()), encoding="utf-8")
