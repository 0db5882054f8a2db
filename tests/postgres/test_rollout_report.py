"""The report of a real run: what the engine records and the breakers saw is what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres.rollout_ground import Ground, make_ground

from comporta.ledger import EventType
from comporta.local.databases import prepare_control

PROJECT = Path(__file__).resolve().parents[2]
RUN = "cli-reported"


@pytest.fixture
def ground(target_dsn: str, control: str, tmp_path: Path) -> Ground:
    """The tiny release A, B (on A), C, proved on the target of now."""
    prepare_control(control, PROJECT)
    made = make_ground(tmp_path, target=target_dsn, control=control, tiny=True)
    made.sql("analyze catalogue.layers")  # dead rows are counted from then on
    made.prove()
    return made


def carried(ground: Ground, *names: str) -> None:
    with ground.run(RUN) as rollout:
        rollout.preflight(names)
        rollout.carry(names, ground.go(rollout))


def reported(ground: Ground, run: str = RUN) -> tuple[str, dict[str, Any]]:
    with ground.run(run) as rollout:
        report, verdict = rollout.outcome()
    data: dict[str, Any] = json.loads(report.json.read_text(encoding="utf-8"))
    assert data["verdict"] == verdict
    return verdict, data


def test_a_green_run_shows_its_go_its_locks_its_latency_and_what_the_breakers_saw(ground: Ground) -> None:
    carried(ground, "A", "B", "C")
    verdict, data = reported(ground)
    assert (verdict, data["sentence"]) == ("pass", "3 of 3 changes in place.")
    (gate,) = data["gates"]
    assert (gate["word"], gate["by"], gate["reason"]) == ("Go", ["po"], "read it")
    assert [(row["change"], row["measured"]) for row in data["locks"]] == [("A", True), ("B", True), ("C", True)]
    assert {span["step"] for span in data["spans"]} == {"apply", "verify", "watch"}
    assert all(each["verified"] and each["watched"] == "passed" for each in data["changes"])
    assert all(each["applied"]["statements"] == len(ground.release.change(each["name"]).apply.statements)
               for each in data["changes"])  # fmt: skip
    sampled = {each["name"]: each["counts"] for each in data["breakers"]}
    assert sampled["latency"]["ok"] > 0
    assert sampled["latency"]["bad"] == 0
    assert {row["canary"] for row in data["latencies"]} == set(ground.release.health.canaries)
    assert data["baseline"]["canaries"].keys() == set(ground.release.health.canaries)
    assert data["preflights"][0]["backup"]["lsn"]


def test_what_a_person_took_back_is_shown_with_the_comparison_and_is_no_stop(ground: Ground) -> None:
    carried(ground, "A", "B", "C")
    with ground.run(RUN) as rollout:
        rollout.roll_back("A", why="asked", because="ana: the map is slow")
    verdict, data = reported(ground)
    assert (verdict, data["reasons"]) == ("pass", [])
    assert [(each["change"], each["restored"], each["found"] == each["expected"]) for each in data["rollbacks"]] == [
        ("B", True, True),
        ("A", True, True),
    ]
    assert data["acts"][-1]["what"] == "asked for the rollback of A"
    assert data["acts"][-1]["why"] == "ana: the map is slow"


def test_a_change_that_does_not_verify_is_told_as_the_ledger_has_it(ground: Ground) -> None:
    ground.script("verify", "B").write_text("do $$ begin raise exception 'no colour'; end $$;")
    ground.prove()
    carried(ground, "A", "B", "C")
    verdict, data = reported(ground)
    assert verdict == "stop"
    assert [each["state"] for each in data["changes"]] == ["in place", "rolled back", "not applied"]
    assert [each["attempt"] for each in data["failures"]] == ["1 of 3", "2 of 3", "3 of 3"]
    assert all("no colour" in each["error"] for each in data["failures"])
    assert data["reasons"][0].startswith("B was rolled back by itself: B does not verify")
    (finished,) = ground.events(EventType.ROLLOUT_FINISHED)
    assert finished.payload["reasons"] == data["reasons"]


def test_drift_that_is_there_when_the_report_is_written_is_a_stop(ground: Ground) -> None:
    carried(ground, "A")
    ground.sql("create index by_hand on catalogue.layers (code, colour)")
    verdict, data = reported(ground)
    assert verdict == "stop"
    assert "The target drifted, and nothing explains it:" in data["reasons"][0]
    assert any("by_hand" in each for each in data["drifts"][0]["differences"])
    ground.sql("drop index catalogue.by_hand")
    assert reported(ground)[0] == "pass"


def test_a_report_that_is_written_again_keeps_the_samples_of_the_first(ground: Ground, control: str) -> None:
    carried(ground, "A")
    first = reported(ground)[1]["samples"]["health"]
    with psycopg.connect(control, autocommit=True) as owner:
        owner.execute("delete from comporta.breaker_sample")
    assert reported(ground)[1]["samples"]["health"] == first
