"""The DAGs read as the runbook, and their order is what makes them safe."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from comporta.gates.policy import GatesFile, load_policy
from comporta.orchestration import wiring
from comporta.release.model import Release, load_release
from comporta.validation.model import order_subjects
from comporta.validation.validity import owed

TRIES = 5
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
    assert set(parsed["dags"]) == {
        "stage2_dry_run", "stage3_rollback_validation", "stage4_capacity_planning", "capacity_calibration",
        "daily_sync", "post", "rollout", "rollback", "detector_backtest",
    }  # fmt: skip
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


@pytest.fixture
def stage3(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["stage3_rollback_validation"]
    return dag


@pytest.fixture(scope="module")
def release(project: Path) -> Release:
    return load_release(project / "config" / "release.yaml", project / "sql")


def test_a_dry_run_starts_the_rollback_validation(stage3: dict[str, Any]) -> None:
    assert stage3["schedule"] == ["dry_run"]


def test_every_change_is_proved_under_every_scenario(stage3: dict[str, Any], release: Release) -> None:
    assert stage3["tasks"]["prove_rollback"]["mapped_over"] == {
        "change": list(CHANGES),
        "scenario": list(release.proof.scenarios),
    }


def test_every_order_of_the_release_is_proved(stage3: dict[str, Any], release: Release) -> None:
    """Parsing derives their names from the YAML alone; the tasks derive them from the loaded release."""
    names = [subject.name for subject in order_subjects(release)]
    assert stage3["tasks"]["prove_order"]["mapped_over"] == {"order": names}


def test_what_is_mapped_is_what_the_release_owes(stage3: dict[str, Any], release: Release) -> None:
    mapped = stage3["tasks"]["prove_rollback"]["mapped_over"]
    orders = stage3["tasks"]["prove_order"]["mapped_over"]["order"]
    proofs = [*product(mapped["change"], mapped["scenario"]), *((order, "order") for order in orders)]
    assert proofs == owed(release)


@pytest.mark.parametrize("proofs", ["prove_rollback", "prove_order"])
def test_proofs_wait_for_the_copy_and_are_named_by_what_they_prove(stage3: dict[str, Any], proofs: str) -> None:
    assert stage3["tasks"][proofs]["upstream"] == ["prepare"]
    assert "task.op_kwargs" in stage3["tasks"][proofs]["label"]


def test_the_report_of_the_proofs_is_written_whatever_failed_and_alone_emits_the_asset(stage3: dict[str, Any]) -> None:
    assert stage3["tasks"]["report"]["upstream"] == ["prove_order", "prove_rollback"]
    assert stage3["tasks"]["report"]["trigger_rule"] == "all_done"
    assert {name: task["outlets"] for name, task in stage3["tasks"].items() if task["outlets"]} == {
        "report": ["rollback_proofs"]
    }


def test_proofs_share_the_pool_of_the_shadows_and_come_after_a_dry_run(
    stage2: dict[str, Any], stage3: dict[str, Any]
) -> None:
    assert stage3["max_active_runs"] == 1
    assert {task["pool"] for task in stage3["tasks"].values()} == {"shadow"}
    last = max(task["priority"] for task in stage3["tasks"].values())
    assert last < min(task["priority"] for task in stage2["tasks"].values())


def test_no_proof_is_tried_again_by_itself(stage3: dict[str, Any]) -> None:
    """The same scripts on the same target give the same answer; a person looks first."""
    assert {task["retries"] for task in stage3["tasks"].values()} == {0}


@pytest.fixture
def stage4(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["stage4_capacity_planning"]
    return dag


def test_proved_rollbacks_start_the_capacity_planning_which_waits_for_people(stage4: dict[str, Any]) -> None:
    assert stage4["schedule"] == ["rollback_proofs"]
    waits = stage4["tasks"]["wait_for_go"]
    assert (waits["upstream"], waits["retries"]) == ([], TRIES)
    assert waits["pool"] != "shadow"  # what waits for people holds no shadow


def test_the_capacity_planning_goes_from_the_ladder_to_the_report_which_alone_emits_the_asset(
    stage4: dict[str, Any],
) -> None:
    steps = ["wait_for_go", "prepare", "load_ladder", "fit", "forecast", "report"]
    assert [stage4["tasks"][name]["upstream"] for name in steps] == [[], *([name] for name in steps[:-1])]
    assert {name: task["outlets"] for name, task in stage4["tasks"].items() if task["outlets"]} == {
        "report": ["capacity_plan"]
    }


def test_each_size_of_the_ladder_is_a_task_and_only_what_loads_takes_the_shadow(
    stage4: dict[str, Any], release: Release
) -> None:
    plan = release.capacity
    assert stage4["tasks"]["load_ladder"]["mapped_over"] == {"size": sorted({*plan.ladder.sizes, *plan.quick.sizes})}
    assert {name for name, task in stage4["tasks"].items() if task["pool"] == "shadow"} == {"prepare", "load_ladder"}


@pytest.fixture
def sync(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["daily_sync"]
    return dag


@pytest.fixture(scope="module")
def gates_file(project: Path) -> GatesFile:
    return load_policy(project / "config" / "gates.yaml")


def test_the_sync_starts_at_ten_in_utc_and_makes_up_for_no_day_that_was_missed(sync: dict[str, Any]) -> None:
    assert sync["schedule"] == "0 10 * * *"
    assert sync["catchup"] is False


def test_every_owner_is_asked_and_the_question_names_the_owner(sync: dict[str, Any], gates_file: GatesFile) -> None:
    readiness = sync["tasks"]["collect_readiness"]
    assert readiness["mapped_over"] == {"role": list(gates_file.readiness.owners)}
    assert "task.role" in readiness["label"]


def test_no_gate_opens_before_readiness_was_collected_and_blockers_were_checked(
    sync: dict[str, Any], gates_file: GatesFile
) -> None:
    for name in gates_file.daily_sync.gates:
        assert sync["tasks"][name]["operator"] == "GoNoGoSensor"
        assert {"collect_readiness", "check_blockers", "write_agenda"} <= upstream(sync["tasks"], name)
        assert sync["tasks"][name]["trigger_rule"] == "all_success"


def test_every_gate_of_the_sync_is_a_task_and_leaves_its_decision_to_others(
    sync: dict[str, Any], gates_file: GatesFile
) -> None:
    gates = {name: task for name, task in sync["tasks"].items() if task["operator"] == "GoNoGoSensor"}
    assert list(gates) == list(gates_file.daily_sync.gates)
    assert {task["consumes"] for task in gates.values()} == {False}


def test_blockers_are_checked_also_where_a_question_could_not_be_put(sync: dict[str, Any]) -> None:
    assert sync["tasks"]["check_blockers"]["trigger_rule"] == "all_done"
    assert sync["tasks"]["check_blockers"]["upstream"] == ["collect_readiness"]


def test_minutes_are_written_whatever_was_decided(sync: dict[str, Any], gates_file: GatesFile) -> None:
    minutes = sync["tasks"]["write_minutes"]
    assert minutes["trigger_rule"] == "all_done"
    assert set(minutes["upstream"]) == set(gates_file.daily_sync.gates)
    for name in gates_file.daily_sync.gates:
        assert sync["tasks"][name]["spares"] == ["write_minutes"]
    assert {name: task["outlets"] for name, task in sync["tasks"].items() if task["outlets"]} == {
        "write_minutes": ["daily_sync"]
    }


def test_a_sync_that_is_cleared_does_not_wait_for_one_that_waits_for_people(sync: dict[str, Any]) -> None:
    assert sync["max_active_runs"] >= 4


def test_what_people_wait_for_goes_before_what_machines_wait_for(parsed: dict[str, Any]) -> None:
    weights = {name: {task["priority"] for task in dag["tasks"].values()} for name, dag in parsed["dags"].items()}
    assert weights["daily_sync"] == {10}
    assert min(weights["daily_sync"]) > max(weights["stage3_rollback_validation"])


def test_a_sensor_that_waits_has_the_tries_that_asking_again_takes(sync: dict[str, Any]) -> None:
    """The default of the sensor does not reach a mapped task, nor one whose DAG sets retries for all."""
    sensors = [task for task in sync["tasks"].values() if task["operator"].endswith("Sensor")]
    assert len(sensors) >= 3
    assert {task["retries"] for task in sensors} == {TRIES}


def test_mail_holds_nothing_up(parsed: dict[str, Any]) -> None:
    """No DAG waits for the post, by an asset or otherwise."""
    post = parsed["dags"]["post"]
    assert post["schedule"] == "@continuous"
    assert post["max_active_runs"] == 1
    assert [task["outlets"] for task in post["tasks"].values()] == [[], []]


def test_the_second_run_of_the_post_is_not_its_first_once_more(parsed: dict[str, Any]) -> None:
    """Without a start date both have one logical date: the scheduler then finds the second run made, for ever."""
    first, second = parsed["dags"]["post"]["first_runs"]
    assert first != second


def test_a_post_that_fails_does_not_spin(parsed: dict[str, Any]) -> None:
    """A run that failed is followed by the next at once: only retries keep a database that is away from being asked all day."""
    assert min(task["retries"] for task in parsed["dags"]["post"]["tasks"].values()) >= 5


ORDERED_RELEASES = {
    "one": "A: {stem: a, title: A}",
    "chain": "A: {stem: a, title: A}\nB: {stem: b, title: B, requires: [A]}\nC: {stem: c, title: C, requires: [B]}",
    "diamond": (
        "A: {stem: a, title: A}\nB: {stem: b, title: B, requires: [A]}\n"
        "C: {stem: c, title: C}\nD: {stem: d, title: D, requires: [B, C]}"
    ),
}


@pytest.mark.parametrize("changes", ORDERED_RELEASES.values(), ids=list(ORDERED_RELEASES))
@pytest.mark.parametrize("plan", ["", "proof: {scenarios: [killed], orders: false}\n", "proof: {scenarios: [a, b]}\n"])
def test_names_read_while_parsing_are_those_of_the_loaded_release(
    changes: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("apply", "verify", "rollback", "support"):
        (tmp_path / "sql" / folder).mkdir(parents=True)
    for stem in "abcd":
        for name in (f"apply/{stem}", f"verify/{stem}", f"rollback/ROLLBACK_{stem}"):
            (tmp_path / "sql" / f"{name}.sql").write_text("select 1;")
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "release.yaml"
    file.write_text(f"name: trial\ntitle: T\nauthor: a\n{plan}changes:\n{indent(changes, '  ')}\n")
    monkeypatch.setenv("COMPORTA_HOME", str(tmp_path))
    loaded = load_release(file, tmp_path / "sql")
    orders = [subject.name for subject in order_subjects(loaded)] if loaded.proof.orders else []
    assert list(wiring.order_names()) == orders
    assert wiring.scenario_names() == loaded.proof.scenarios


def test_parsing_loads_nothing_that_only_tasks_need(parsed: dict[str, Any]) -> None:
    """The DAG processor parses again and again, and every task does once more."""
    assert [name for name in parsed["heavy"] if name in {"plotly", "pglast", "scipy", "pandas", "numba"}] == []


def test_the_dag_reference_page_is_up_to_date(parsed: dict[str, Any], project: Path) -> None:
    """`make reference` writes it anew."""
    assert (project / "docs" / "dags.md").read_text(encoding="utf-8") == parsed["reference"]


@pytest.fixture
def rollout(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["rollout"]
    return dag


def test_nothing_reaches_the_target_before_the_preflight_and_the_gate(rollout: dict[str, Any]) -> None:
    for change in CHANGES:
        assert {"preflight", "gate"} <= upstream(rollout["tasks"], f"{change}.apply")


def test_a_change_goes_to_production_only_after_the_one_before_it_was_watched(rollout: dict[str, Any]) -> None:
    for former, change in pairwise(CHANGES):
        assert f"{former}.watch" in upstream(rollout["tasks"], f"{change}.apply")


def test_a_rollback_is_armed_whatever_came_before_and_clears_nothing_but_the_outcome(rollout: dict[str, Any]) -> None:
    for change in CHANGES:
        task = rollout["tasks"][f"{change}.rollback"]
        assert task["trigger_rule"] == "all_done"
        assert set(task["upstream"]) == {f"{change}.{step}" for step in ("apply", "verify", "watch")}
        behind = [
            name for name, other in rollout["tasks"].items() if f"{change}.rollback" in upstream(rollout["tasks"], name)
        ]
        assert behind == ["outcome"], "the clear dialog preselects what comes after: it must be no other rollback"


def test_the_outcome_looks_at_every_run_and_an_old_run_does_not_wait_for_a_new_one(rollout: dict[str, Any]) -> None:
    assert rollout["tasks"]["outcome"]["trigger_rule"] == "all_done"
    assert rollout["max_active_runs"] > 1


@pytest.fixture
def backtest(parsed: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = parsed["dags"]["detector_backtest"]
    return dag


def test_a_backtest_goes_from_the_bars_to_the_report_and_only_then_to_people(backtest: dict[str, Any]) -> None:
    steps = ["load", "quality", "run", "score", "gates", "benchmark", "report", "decide"]
    assert [backtest["tasks"][name]["upstream"] for name in steps] == [[], *([name] for name in steps[:-1])]
    assert backtest["schedule"] == "0 22 * * 1-5"
    assert backtest["catchup"] is False


def test_a_fail_is_tuned_in_parts_and_run_again_before_people_are_asked(backtest: dict[str, Any]) -> None:
    tasks = backtest["tasks"]
    assert tasks["tune"]["mapped_over"] == {"shard": list(range(8))}
    assert [tasks[name]["upstream"] for name in ("tune", "choose", "run_again")] == [["decide"], ["tune"], ["choose"]]
    assert tasks["detector_verdict"]["upstream"] == ["decide", "run_again"]
    assert tasks["detector_verdict"]["trigger_rule"] == "none_failed"


def test_nobody_signs_off_a_detector_before_tests_types_and_coverage_were_recorded(backtest: dict[str, Any]) -> None:
    tasks = backtest["tasks"]
    checks = {"run_tests", "check_types", "check_coverage", "record_checks"}
    assert checks | {"gates", "run"} <= upstream(tasks, "detector_signoff")
    assert {tasks[name]["trigger_rule"] for name in ("check_coverage", "record_checks", "detector_signoff")} == {
        "all_success"
    }
    for name in ("run_tests", "check_types"):
        assert tasks[name]["upstream"] == ["decide", "detector_verdict"]
        assert tasks[name]["trigger_rule"] == "none_failed_min_one_success"


def test_the_gates_of_the_detector_are_those_of_the_gates_file(backtest: dict[str, Any], gates_file: GatesFile) -> None:
    sensors = {name: task for name, task in backtest["tasks"].items() if task["operator"] == "GoNoGoSensor"}
    assert set(sensors) == {"detector_verdict", "detector_signoff"} <= set(gates_file.gates)
    assert {task["retries"] for task in sensors.values()} == {TRIES}
    assert "detector_checks" in gates_file.gates["detector_signoff"].evidence
