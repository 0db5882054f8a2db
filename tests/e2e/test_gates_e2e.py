"""Gates from end to end: people in a browser, on the command line and through REST, in front of a real Airflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import expect
from tests.e2e.conftest import SignIn

from comporta.gates import Gate, GateBook
from comporta.gates.audit import audit
from comporta.local.private import PrivateAirflow

PICTURES = os.environ.get("COMPORTA_PICTURES")
# How Airflow names the process that runs a task, and the worker that watches over it.
TASK = re.compile(r"airflow worker -- (?!LocalExecutor.*<idle>)")


def gate_of(airflow: PrivateAirflow, dag_id: str, run_id: str, task: str, *, cycle_after: int = 0) -> Gate:
    """The gate that a task of a run asks, once it does (a newer one than ``cycle_after``) and its form is there."""

    def look() -> Gate | None:
        with GateBook(airflow.control) as book:
            found = book.list(asker_prefix=f"{dag_id}/{run_id}/{task}/", limit=1)
        return found[0] if found and found[0].gate > cycle_after else None

    gate = airflow.until(look, f"a gate of {dag_id}/{run_id}/{task}")
    airflow.wait_for(dag_id, run_id, task, "deferred")
    return gate


def current(airflow: PrivateAirflow, gate: Gate) -> Gate:
    with GateBook(airflow.control) as book:
        return book.get(gate.gate)


def decide(airflow: PrivateAirflow, login: str, gates: list[Gate], decision: str = "go", **more: Any) -> dict[str, Any]:
    """Through REST, as the page does it: draw the list, decide on what was drawn."""
    with airflow.client(login) as client:
        drawn = client.get("/comporta/api/gates").raise_for_status().json()
        answer = client.post(
            "/comporta/api/gates/decide",
            json={
                "decision": decision,
                "reason": "read it",
                "gates": [gate.gate for gate in gates],
                "shown": [{"gate": each["gate"], "digest": each["digest"]} for each in drawn["gates"]],
                "list_digest": drawn["list_digest"],
                "atomic": False,
                **more,
            },
        )
    result: dict[str, Any] = answer.json()
    return result


def answer(airflow: PrivateAirflow, login: str, gate: Gate, option: str, **given: str) -> int:
    """Through Airflow's own Required Actions; the HTTP status."""
    values = {"reason": "read it", "evidence": _form_of(airflow, gate), **given}
    with airflow.client(login) as client:
        return client.patch(_form(gate), json={"chosen_options": [option], "params_input": values}).status_code


def _form(gate: Gate) -> str:
    where = gate.asked_by
    run = f"/api/v2/dags/{where['dag_id']}/dagRuns/{where['run_id']}"
    return f"{run}/taskInstances/{where['task_id']}/{where['map_index']}/hitlDetails"


def _form_of(airflow: PrivateAirflow, gate: Gate) -> str:
    """What the form under Required Actions says that its reader has seen."""
    with airflow.client() as client:
        return str(client.get(_form(gate)).raise_for_status().json()["params"]["evidence"]["value"])


def command(airflow: PrivateAirflow, login: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, signed in as somebody."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "comporta"), "gates", *arguments, "--as", login],
        env={**os.environ, **airflow.values, "COMPORTA_WEB_PASSWORD": airflow.passwords[login]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def events_of(airflow: PrivateAirflow, gate: Gate) -> list[str]:
    with GateBook(airflow.control) as book:
        return [event.event_type for event in book.history(gate.gate)]


def mirrored(airflow: PrivateAirflow, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """What the ledger keeps of a run's tasks."""
    stream = f"airflow/{dag_id}/{run_id}"
    done = subprocess.run(
        [str(Path(sys.executable).parent / "comporta"), "events", "list", "--stream", stream, "--limit", "1000", "--json"],
        env={**os.environ, **airflow.values},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def note_of(airflow: PrivateAirflow, dag_id: str, run_id: str) -> str:
    with airflow.client() as client:
        return str(client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()["note"] or "")


@pytest.mark.timeout(400)
def test_four_of_five_gates_open_in_one_click_and_the_fifth_changed_meanwhile(
    airflow: PrivateAirflow, sign_in: SignIn
) -> None:
    runs = [("pair", airflow.trigger("pair")), ("pair", airflow.trigger("pair")), ("single", airflow.trigger("single"))]
    gates = [
        gate_of(airflow, dag_id, run_id, task)
        for dag_id, run_id in runs
        for task in (("ship", "announce") if dag_id == "pair" else ("touch_target",))
    ]
    page = sign_in("po", viewport={"width": 1280, "height": 1050}, color_scheme="light")
    page.clock.install()  # the page draws its list once: what it shows must be what a click refers to
    page.goto("/comporta/gates")
    rows = page.locator("article.gate")
    expect(rows).to_have_count(5)
    _picture(page, "gates-light")
    page.emulate_media(color_scheme="dark")
    _picture(page, "gates-dark")
    page.get_by_role("button", name=re.compile("Select all")).click()
    page.locator("#reason").fill("read all five")

    with psycopg.connect(airflow.target, autocommit=True) as target:
        target.execute("create table public.came_meanwhile (id int)")
    airflow.until(lambda: _listed(airflow, gates[4])["revision"] == 2, "the change of evidence")

    page.get_by_role("button", name="Go (5)", exact=True).click()
    result = page.locator("#result")
    expect(result).to_contain_text("4 votes recorded, 1 refused")
    expect(result).to_contain_text("hat was shown is not what the gate is about now: target: ")
    _picture(page, "gates-result")
    for dag_id, run_id in runs[:2]:
        assert airflow.wait_for_run(dag_id, run_id) == "success"
    assert [current(airflow, gate).state for gate in gates] == ["go", "go", "go", "go", "open"]
    with GateBook(airflow.control) as book:
        votes = [event for gate in gates for event in book.history(gate.gate) if event.event_type == "gate_vote_cast"]
        assert len({vote.payload["batch"] for vote in votes}) == 1
        assert {vote.actor for vote in votes} == {"po"}
    decide(airflow, "po", [gates[4]])
    assert airflow.wait_for_run(*runs[2]) == "success"


def _listed(airflow: PrivateAirflow, gate: Gate) -> dict[str, Any]:
    with airflow.client("cfo") as client:
        found: dict[str, Any] = client.get(f"/comporta/api/gates/{gate.gate}").raise_for_status().json()
    return found


def _picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


@pytest.mark.timeout(400)
def test_a_gate_is_found_under_required_actions_and_answered_there(airflow: PrivateAirflow, sign_in: SignIn) -> None:
    run_id = airflow.trigger("single")
    gate = gate_of(airflow, "single", run_id, "touch_target")
    page = sign_in("po")
    page.goto(f"/dags/single/runs/{run_id}/tasks/touch_target/required_actions")
    expect(page.get_by_text("May the target be changed?").first).to_be_visible(timeout=20_000)
    page.locator("input[name='element_reason'], #element_reason").first.fill("looked at the target")
    page.get_by_role("button", name="Go", exact=True).click()
    assert airflow.wait_for_run("single", run_id) == "success"
    assert events_of(airflow, gate) == ["gate_opened", "gate_vote_cast", "gate_decided", "gate_consumed"]
    with GateBook(airflow.control) as book:
        vote = book.history(gate.gate)[1]
    assert (vote.actor, vote.payload["reason"], vote.payload["via"]) == (
        "po",
        "looked at the target",
        "required actions",
    )


@pytest.mark.timeout(400)
def test_a_gate_that_nobody_could_open_is_not_put(airflow: PrivateAirflow) -> None:
    """Who started the run is the only one who could sign for safety."""
    run_id = airflow.trigger("signatures", login="security")
    airflow.wait_for("signatures", run_id, "two_signatures", "failed")
    assert airflow.wait_for_run("signatures", run_id) == "failed"
    assert airflow.states("signatures", run_id)["behind"] == "upstream_failed"
    with GateBook(airflow.control) as book:
        assert book.list(asker_prefix=f"signatures/{run_id}/") == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("door", ["required actions", "rest", "command line"])
def test_a_door_refuses_whom_the_policy_excludes_and_counts_who_may(airflow: PrivateAirflow, door: str) -> None:
    run_id = airflow.trigger("single", login="po")
    gate = gate_of(airflow, "single", run_id, "touch_target")

    def say_go(login: str) -> None:
        if door == "required actions":
            assert answer(airflow, login, current(airflow, gate), "Go") == 200
        elif door == "rest":
            decide(airflow, login, [gate])
        else:
            command(airflow, login, "approve", str(gate.gate), "--reason", "read it")

    def refused() -> list[str]:
        with GateBook(airflow.control) as book:
            found = [each for each in book.history(gate.gate) if each.event_type == "gate_vote_refused"]
        return [f"{each.actor} {each.payload['code']}" for each in found]

    for login, code in (("po", "excluded"), ("dba", "excluded"), ("cfo", "no_role")):
        say_go(login)
        airflow.until(lambda said=f"{login} {code}": said in refused(), f"the refusal of {login}")
        airflow.wait_for("single", run_id, "touch_target", "deferred")
    # dba is the author of the release, po started the run: a third one who holds the role decides.
    assert current(airflow, gate).state == "open"
    say_go("deputy")
    assert airflow.wait_for_run("single", run_id) == "success"
    decision = current(airflow, gate).decision
    assert decision is not None
    assert decision["by"] == ["deputy"]


@pytest.mark.timeout(400)
def test_two_people_sign_through_two_doors(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("signatures")
    gate = gate_of(airflow, "signatures", run_id, "two_signatures")
    assert answer(airflow, "security", gate, "Go") == 200
    airflow.until(lambda: len(current(airflow, gate).votes) == 1, "the first vote")
    airflow.wait_for("signatures", run_id, "two_signatures", "deferred")
    done = command(airflow, "cfo", "approve", str(gate.gate), "--reason", "the budget holds")
    assert done.returncode == 0, done.stderr
    assert airflow.wait_for_run("signatures", run_id) == "success"
    assert set(airflow.states("signatures", run_id).values()) == {"success"}
    decided = current(airflow, gate)
    assert [(vote.actor, vote.role, vote.via) for vote in decided.votes] == [
        ("security", "Security", "required actions"),
        ("cfo", "CFO", "command line"),
    ]


@pytest.mark.timeout(400)
def test_a_no_go_stops_everything_behind_and_clearing_asks_again(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("signatures")
    gate = gate_of(airflow, "signatures", run_id, "two_signatures")
    decide(airflow, "cfo", [gate], "no_go", reason="not before the audit")
    assert airflow.wait_for_run("signatures", run_id) == "success"
    assert airflow.states("signatures", run_id) == {
        "two_signatures": "skipped",
        "behind": "skipped",
        "none_failed": "skipped",
        "all_done": "skipped",
        "minutes": "success",
    }
    note = note_of(airflow, "signatures", run_id)
    assert note.startswith("No-Go: ")
    assert "by cfo: not before the audit" in note
    assert events_of(airflow, gate)[-1] == "gate_consumed"

    with airflow.client() as client:
        what = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["two_signatures"], "include_downstream": True,
                "only_failed": False, "reset_dag_runs": True}  # fmt: skip
        client.post("/api/v2/dags/signatures/clearTaskInstances", json=what).raise_for_status()
    again = gate_of(airflow, "signatures", run_id, "two_signatures", cycle_after=gate.gate)
    assert again.votes == ()
    airflow.until(lambda: _form_of(airflow, again) == again.digest, "a fresh form")
    for login in ("cfo", "security"):
        decide(airflow, login, [again])
    assert airflow.wait_for_run("signatures", run_id) == "success"
    assert set(airflow.states("signatures", run_id).values()) == {"success"}


@pytest.mark.timeout(400)
def test_a_decision_made_in_one_dag_is_used_by_another_once(airflow: PrivateAirflow) -> None:
    waiting = airflow.trigger("waits")
    airflow.wait_for("waits", waiting, "wait_for_go", "deferred")
    asking = airflow.trigger("asks")
    decide(airflow, "po", [gate_of(airflow, "asks", asking, "ship")])
    assert airflow.wait_for_run("waits", waiting) == "success"
    assert airflow.wait_for_run("asks", asking) == "success"
    with GateBook(airflow.control) as book:
        (gate,) = book.list(asker_prefix=f"asks/{asking}/")
    assert gate.consumed_by == f"waits/{waiting}/wait_for_go/-1/0"
    late = airflow.trigger("waits")
    airflow.wait_for("waits", late, "wait_for_go", "deferred")
    assert airflow.states("waits", late)["load"] == "waiting"
    # A No-Go that is given while it waits is its answer, too.
    decide(airflow, "po", [gate_of(airflow, "asks", airflow.trigger("asks"), "ship")], "no_go", reason="not today")
    assert airflow.wait_for_run("waits", late) == "success"
    assert airflow.states("waits", late) == {"wait_for_go": "skipped", "load": "skipped"}
    assert "not today" in note_of(airflow, "waits", late)


@pytest.mark.timeout(400)
def test_evidence_that_changes_after_the_form_was_drawn_makes_the_gate_ask_again(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("single")
    gate = gate_of(airflow, "single", run_id, "touch_target")
    with psycopg.connect(airflow.target, autocommit=True) as target:
        target.execute("create table public.came_later (id int)")
    assert answer(airflow, "po", gate, "Go") == 200  # with what the form showed
    airflow.until(lambda: "gate_vote_refused" in events_of(airflow, gate), "the refusal")
    airflow.until(lambda: current(airflow, gate).revision == 2, "the new revision")
    # The form that asks again shows the evidence of now.
    airflow.until(lambda: _form_of(airflow, gate) == current(airflow, gate).digest, "a fresh form")
    assert answer(airflow, "po", current(airflow, gate), "Go") == 200
    assert airflow.wait_for_run("single", run_id) == "success"


@pytest.mark.timeout(600)
def test_twenty_waiting_gates_hold_no_slot_and_survive_a_kill_of_everything(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("many")
    airflow.until(lambda: _task_processes(airflow) or None, "a process that puts a question")
    gates = [gate_of(airflow, "many", run_id, f"gate_{number:02d}") for number in range(20)]
    with airflow.client() as client:
        pools = client.get("/api/v2/pools").json()["pools"]
    assert {name: sum(pool[name] for pool in pools) for name in ("occupied_slots", "running_slots", "queued_slots")} == {
        "occupied_slots": 0, "running_slots": 0, "queued_slots": 0,
    }  # fmt: skip
    assert airflow.until(lambda: _task_processes(airflow) == [], "the end of every task process", within_s=10)

    decide(airflow, "po", gates[:5])
    airflow.kill("api-server", "scheduler", "triggerer")
    with GateBook(airflow.control) as book:  # people go on deciding while Airflow is down
        for gate in gates[5:10]:
            seen = book.get(gate.gate)
            book.vote(seen.gate, "go", actor="po", reason="read it", digest=seen.digest, via="test")
    airflow.start("api-server", "scheduler", "triggerer")
    airflow.airflow.sign_in("admin", airflow.passwords["admin"])
    decide(airflow, "po", gates[10:])
    assert airflow.wait_for_run("many", run_id, within_s=240) == "success"
    with GateBook(airflow.control) as book:
        stories = {gate.gate: [event.event_type for event in book.history(gate.gate)] for gate in gates}
        events = [event for gate in gates for event in book.history(gate.gate)]
    assert {story.count("gate_consumed") for story in stories.values()} == {1}
    assert {story.count("gate_decided") for story in stories.values()} == {1}
    assert list(audit(events)) == []
    assert {task.state for task in airflow.airflow.tasks("many", run_id)} == {"success"}
    kept = [each["payload"] for each in mirrored(airflow, "many", run_id)]
    starts = [each["task"] for each in kept if "task" in each and each["state"] == "running"]
    behind = sorted(task for task in starts if task.startswith("after_"))
    assert behind == [f"after_{number:02d}" for number in range(20)]  # each once


def _task_processes(airflow: PrivateAirflow) -> list[str]:
    """Processes that run a task of this Airflow now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            home = (path.parent / "cwd").resolve()
        except OSError:
            continue
        if home == airflow.layout.airflow_home and TASK.match(line):
            found.append(line)
    return found


@pytest.mark.timeout(400)
def test_who_may_only_look_and_who_is_nobody_are_kept_out_of_every_web_door(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("pair")
    gate = gate_of(airflow, "pair", run_id, "ship")
    assert answer(airflow, "viewer", gate, "Go") == 403
    assert [(each["gate"], each["code"]) for each in decide(airflow, "viewer", [gate])["refused"]] == [
        (gate.gate, "forbidden")
    ]
    assert command(airflow, "viewer", "approve", str(gate.gate), "--reason", "read it").returncode != 0
    with httpx.Client(base_url=airflow.address, trust_env=False) as nobody:
        for path in ("/comporta/gates", "/comporta/api/gates", f"/comporta/api/gates/{gate.gate}"):
            assert nobody.get(path).status_code == 401
        assert nobody.post("/comporta/api/gates/decide", json={}).status_code == 401
        assert nobody.patch(_form(gate), json={"chosen_options": ["Go"], "params_input": {}}).status_code == 401
    assert (current(airflow, gate).state, current(airflow, gate).votes) == ("open", ())


@pytest.mark.timeout(400)
def test_the_record_outlives_the_run(airflow: PrivateAirflow) -> None:
    run_id = airflow.trigger("pair")
    gates = [gate_of(airflow, "pair", run_id, task) for task in ("ship", "announce")]
    decide(airflow, "po", gates)
    assert airflow.wait_for_run("pair", run_id) == "success"
    with airflow.client() as client:
        client.delete(f"/api/v2/dags/pair/dagRuns/{run_id}").raise_for_status()
    assert [current(airflow, gate).state for gate in gates] == ["go", "go"]
    kept = mirrored(airflow, "pair", run_id)
    ended = {each["payload"].get("task") for each in kept if each["payload"].get("state") == "success"}
    assert {"deploy", "tell", "ship", "announce"} <= ended
