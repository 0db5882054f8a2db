"""The DAGs read as the runbook, and their order is what makes them safe."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

CHANGES = ("OPT1", "OPT2", "OPT3", "OPT4", "OPT5")


def upstream(tasks: dict[str, Any], task: str) -> set[str]:
    """Everything that runs before ``task``, directly or not."""
    direct = set(tasks[task]["upstream"])
    return direct.union(*(upstream(tasks, each) for each in direct)) if direct else direct


@pytest.fixture
def stage2(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["stage2_dry_run"]
    return dag


def test_every_dag_says_what_it_is_for(parsed: dict[str, Any]) -> None:
    assert set(parsed["dags"]) == {"stage2_dry_run"}
    for dag in parsed["dags"].values():
        assert dag["doc"]
        assert "comporta" in dag["tags"]


def test_every_task_says_what_it_is_about_to_touch(parsed: dict[str, Any]) -> None:
    for dag in parsed["dags"].values():
        assert [name for name, task in dag["tasks"].items() if not task["doc"]] == []


def test_no_change_is_applied_before_the_target_was_checked_and_cloned(stage2: dict[str, Any]) -> None:
    for change in CHANGES:
        assert {"preflight", "clone_shadow"} <= upstream(stage2["tasks"], f"{change}.apply")


def test_a_change_is_applied_only_after_all_before_it_were_verified_and_measured(stage2: dict[str, Any]) -> None:
    for former, change in pairwise(CHANGES):
        assert {f"{former}.verify", f"{former}.measure"} <= upstream(stage2["tasks"], f"{change}.apply")


def test_the_changes_come_in_the_order_of_the_release(stage2: dict[str, Any], project: Path) -> None:
    release = yaml.safe_load((project / "config" / "release.yaml").read_text(encoding="utf-8"))
    order = sorted(release["changes"], key=lambda name: len(upstream(stage2["tasks"], f"{name}.apply")))
    assert order == list(release["changes"])


def test_the_report_is_written_of_a_run_that_stopped_too_and_alone_emits_the_asset(stage2: dict[str, Any]) -> None:
    assert stage2["tasks"]["report"]["trigger_rule"] == "all_done"
    assert [name for name, task in stage2["tasks"].items() if task["outlets"]] == ["report"]
    assert stage2["tasks"]["report"]["outlets"] == ["dry_run"]


def test_one_run_at_a_time_holds_the_shadow(stage2: dict[str, Any]) -> None:
    assert stage2["max_active_runs"] == 1
    assert {task["pool"] for task in stage2["tasks"].values()} == {"shadow"}


def test_parsing_loads_nothing_that_only_tasks_need(parsed: dict[str, Any]) -> None:
    """The DAG processor parses again and again, and every task does once more."""
    assert [name for name in parsed["heavy"] if name in {"plotly", "pglast", "scipy", "pandas"}] == []


def test_the_dag_reference_page_is_up_to_date(parsed: dict[str, Any], project: Path) -> None:
    """`make reference` writes it anew."""
    assert (project / "docs" / "dags.md").read_text(encoding="utf-8") == parsed["reference"]
