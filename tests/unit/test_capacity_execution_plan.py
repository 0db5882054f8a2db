"""The execution plan says what the release file says, and counts what will be climbed."""

from __future__ import annotations

from dataclasses import replace

from comporta.capacity.execution_plan import execution_plan
from comporta.capacity.ladder import owed, states_of
from comporta.release.capacity import LadderPlan, StopPlan
from comporta.release.model import Release, load_release
from comporta.settings import project_root


def release(**capacity: object) -> Release:
    shipped = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    return replace(shipped, capacity=shipped.capacity.model_copy(update=capacity)) if capacity else shipped


def test_every_change_and_every_table_of_the_release_is_in_its_scope() -> None:
    told = execution_plan(release())
    for change in release().changes:
        assert f"{change.name}: {change.title}" in told.scope
    assert "tables changed: catalogue.geometrias" in told.scope


def test_rungs_are_those_before_and_after_and_the_few_in_between() -> None:
    ladder = LadderPlan(clients=(1, 2), sizes=(1, 2, 4), rounds=3, each_change_clients=(2,), each_change_sizes=(1, 2))
    told = execution_plan(release(ladder=ladder))
    assert dict(told.ladder)["rungs"] == str(len(owed(ladder, states_of(release())))) == str(2 * 2 * 3 * 3 + 4 * 2)
    assert told.load_s == 44 * 2.5


def test_a_stop_rule_that_is_changed_in_the_release_file_is_changed_in_the_plan() -> None:
    told = execution_plan(release(stop=StopPlan(p95_ms=777, free_share=0.25)))
    assert "no higher rung of a state and size once p95 is above 777 ms" in told.stop_rules
    assert "none at all while less than 25% of the shadow's disk is free" in told.stop_rules


def test_each_owner_has_a_duty_however_many_there_are() -> None:
    for owners in (("DBA",), ("DBA", "PO"), ("DBA", "Security", "PO")):
        told = execution_plan(release(owners=owners))
        assert [who for who, _ in told.owners] == list(owners)
        assert any("answers for the plan" in what for _, what in told.owners)
        assert any("stops it" in what for _, what in told.owners)


def test_the_plan_is_a_page_of_text() -> None:
    page = execution_plan(release()).markdown
    assert page.startswith("# STAGE 4, execution plan: Catalogue ready for 2029 (catalogue-2029)")
    for section in ("Scope", "Ladder", "Days", "Owners", "Stop rules", "Objectives"):
        assert f"\n## {section}\n" in page
    assert "- held until: 2029-12-31; what fails within 12 months is a warning" in page
