"""How long does a decision take to be one, and to move the run on? Beside Airflow's own ApprovalOperator, in one run.

    python bench/gates.py [--rounds 20] [--dir FOLDER]

Starts an Airflow and a PostgreSQL of its own under FOLDER (`.comporta-test/bench`), and ends them. Prints JSON. Two parts:

many      50 gates decided in one call: through the ledger, and through the page's REST route (which collects the evidence anew).
latency   from the answer (the request is sent) to the start of the next task, in turns: a gate decided through REST, a gate
          answered under Required Actions, and the stock ApprovalOperator answered the same way. Every answer is given 4 s after
          its task parked: sooner, Airflow may drop it (and Comporta holds it back), which would compare something else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comporta.gates import Choice, EvidenceItem, GateBook, GateRequest, Need, Policy, list_digest
from comporta.local.private import PrivateAirflow, private_airflow

PROJECT = Path(__file__).resolve().parents[1]
SETTLED_S = 4.0
MANY = 50


def many_in_the_ledger(airflow: PrivateAirflow) -> dict[str, Any]:
    """Seconds for one call that decides 50 gates of 50 runs, five times over."""
    seconds = []
    with GateBook(airflow.control) as book:
        for turn in range(5):
            gates = [
                book.open(f"bench/{turn}/{n}", request(f"bench/{turn}-{n}/ask/-1"), actor="bench") for n in range(MANY)
            ]
            shown = [Choice(gate.gate, gate.digest) for gate in gates]
            began = time.perf_counter()
            result = book.decide(
                shown,
                "go",
                actor="po",
                reason="read",
                shown=shown,
                list_digest=list_digest(shown),
                via="bench",
                atomic=True,
            )
            seconds.append(time.perf_counter() - began)
            assert len(result.decided) == MANY
    return {
        "gates": MANY,
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_worst": round(max(seconds), 3),
    }


def request(asker: str) -> GateRequest:
    return GateRequest(
        name="ship",
        question="May it?",
        feature="catalogue-2029",
        asker=asker,
        asked_by=dict(zip(("dag_id", "run_id", "task_id", "map_index"), asker.split("/"), strict=True)),
        policy=Policy((Need("PO"),), {"PO": ("po", "deputy")}, {"dba": "author of the release"}),
        evidence=(EvidenceItem("scripts", "Scripts", "0" * 64),),
    )


def many_through_rest(airflow: PrivateAirflow) -> dict[str, Any]:
    """Seconds for one request that decides 50 gates; the list has been drawn before, the evidence is collected again."""
    with GateBook(airflow.control) as book:
        gates = [book.open(f"rest/{n}", request(f"ours/rest-{n}/ask/-1"), actor="bench") for n in range(MANY)]
    with airflow.client("po") as client:
        drawn = client.get("/comporta/api/gates").raise_for_status().json()
        time.sleep(SETTLED_S)  # what was collected for the list is no longer kept
        began = time.perf_counter()
        answer = client.post("/comporta/api/gates/decide", json=ballot(drawn, [gate.gate for gate in gates]))
        seconds = time.perf_counter() - began
    return {"gates": len(answer.raise_for_status().json()["decided"]), "seconds": round(seconds, 3)}


def ballot(drawn: dict[str, Any], gates: list[int]) -> dict[str, Any]:
    return {
        "decision": "go",
        "reason": "read",
        "gates": gates,
        "shown": [{"gate": each["gate"], "digest": each["digest"]} for each in drawn["gates"]],
        "list_digest": drawn["list_digest"],
        "atomic": False,
    }


def latency(airflow: PrivateAirflow, rounds: int) -> dict[str, Any]:
    """Seconds from answer to next start, by way of answering."""
    ways: dict[str, tuple[str, Callable[[PrivateAirflow, str], float]]] = {
        "gate_rest": ("ours", through_rest),
        "gate_required_actions": ("ours", lambda found, run: through_form(found, "ours", run, "Go")),
        "stock_approval": ("stock", lambda found, run: through_form(found, "stock", run, "Approve")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        runs = {name: airflow.trigger(dag_id) for name, (dag_id, _) in ways.items()}
        for name, (dag_id, _) in ways.items():
            airflow.wait_for(dag_id, runs[name], "approve", "deferred", "awaiting_input")
        time.sleep(SETTLED_S)
        for name in [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]:  # none is always the first, or the last
            dag_id, answer = ways[name]
            answered = answer(airflow, runs[name])
            airflow.wait_for_run(dag_id, runs[name])
            if turn:  # the first one warms up
                seconds[name].append(start_of(airflow, dag_id, runs[name], "after") - answered)
            print(f"{turn}/{rounds} {name}", file=sys.stderr)
    summary: dict[str, Any] = {name: figures(found) for name, found in seconds.items()}
    for name in ("gate_rest", "gate_required_actions"):
        summary[f"ratio_{name}_to_stock"] = round(summary[name]["median_s"] / summary["stock_approval"]["median_s"], 2)
    return summary


def figures(found: list[float]) -> dict[str, Any]:
    ordered = sorted(found)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]  # nearest rank
    return {
        "n": len(found),
        "median_s": round(statistics.median(found), 2),
        "p95_s": round(p95, 2),
        "worst_s": round(ordered[-1], 2),
    }


def through_rest(airflow: PrivateAirflow, run_id: str) -> float:
    with airflow.client("po") as client:
        drawn = client.get("/comporta/api/gates").raise_for_status().json()
        number = next(each["gate"] for each in drawn["gates"] if each["asked_by"]["run_id"] == run_id)
        answered = datetime.now(UTC).timestamp()
        client.post("/comporta/api/gates/decide", json=ballot(drawn, [number])).raise_for_status()
    return answered


def through_form(airflow: PrivateAirflow, dag_id: str, run_id: str, option: str) -> float:
    form = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    with airflow.client("po") as client:
        params = client.get(form).raise_for_status().json()["params"]
        given = {"reason": "read", "evidence": params["evidence"]["value"]} if params else {}
        answered = datetime.now(UTC).timestamp()
        client.patch(form, json={"chosen_options": [option], "params_input": given}).raise_for_status()
    return answered


def start_of(airflow: PrivateAirflow, dag_id: str, run_id: str, task: str) -> float:
    with airflow.client() as client:
        found = client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}").raise_for_status().json()
    return datetime.fromisoformat(found["start_date"]).timestamp()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dir", type=Path, default=PROJECT / ".comporta-test" / "bench")
    options = parser.parse_args()
    e2e = PROJECT / "tests" / "e2e"
    with private_airflow(PROJECT, options.dir, dags=e2e / "dags", gates=e2e / "gates.yaml") as airflow:
        for dag_id in ("ours", "stock"):
            airflow.airflow.wait_for_dag(dag_id, within_s=90)
        report = {
            "many_in_the_ledger": many_in_the_ledger(airflow),
            "many_through_rest": many_through_rest(airflow),
            "latency": latency(airflow, options.rounds),
        }
    json.dump(report, sys.stdout, indent=2)
    print()
    return (
        0 if report["many_in_the_ledger"]["seconds_worst"] <= 1 and report["many_through_rest"]["seconds"] <= 1 else 1
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(main())
