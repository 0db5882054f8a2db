"""A project's folder of its own with the real scripts, proved on the target as it is now, and a gate that one person opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from comporta.errors import ComportaError
from comporta.gates import GateBook
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.proof import fingerprint
from comporta.release.model import Release, load_release
from comporta.rollout.engine import Rollout
from comporta.rollout.errors import RolloutRefused
from comporta.rollout.expected import schema_digest
from comporta.rollout.go import Go, use_or_ask
from comporta.settings import Settings, project_root
from comporta.validation import model
from comporta.validation.model import script_digests

ACTOR = "bench"
SOAK_S = 2.0
GATES: Mapping[str, Any] = {
    "people": {
        "po": {"name": "PO", "email": "po@localhost"},
        "dba": {"name": "DBA", "email": "dba@localhost"},
    },
    "roles": {"PO": ["po"], "DBA": ["dba"]},
    "gates": {
        "rollout": {
            "title": "Rollout",
            "question": "May it?",
            "needs": {"PO": 1},
            "evidence": ["scripts"],
            "requires": [],
        }
    },
    "readiness": {"owners": ["PO"], "sla_min": 120},
    "daily_sync": {"gates": ["rollout"]},
}
# What is timed is the work, not the waiting: a short window, and no limit of latency that two busy cores would pass.
HEALTH: Mapping[str, Any] = {
    "every_s": 1.0,
    "window_s": 15.0,
    "min_samples": 3,
    "stale_s": 45.0,
    "timeout_ms": 20_000,
    "signals": {"latency": {"at_most": 60_000, "times": None, "floor": None}},
}


Left = Mapping[frozenset[str], fingerprint.Fingerprint]


class CannotProve(ComportaError):
    """What was found out on one catalogue says nothing about another."""


def make_project(folder: Path, *, target: str, control: str) -> Settings:
    """The release of this checkout under ``folder``, with the soak and the health of a bench."""
    shutil.copytree(project_root() / "sql", folder / "sql")
    (folder / "config").mkdir()
    (folder / "archives").mkdir()
    release = yaml.safe_load((project_root() / "config" / "release.yaml").read_text(encoding="utf-8"))
    release["rollout"] = {"soak_s": SOAK_S}
    release["health"] = {**release.get("health", {}), **HEALTH}
    (folder / "config" / "release.yaml").write_text(yaml.safe_dump(release, sort_keys=False), encoding="utf-8")
    (folder / "config" / "gates.yaml").write_text(yaml.safe_dump(dict(GATES), sort_keys=False), encoding="utf-8")
    return Settings(home=folder, target_dsn=target, control_dsn=control, archives=folder / "archives")


def release_of(settings: Settings) -> Release:
    """The release of a project."""
    return load_release(settings.release_path, settings.home / "sql")


def look(dsn: str) -> fingerprint.Fingerprint:
    """The fingerprint of a target now."""
    with connect(dsn, name=ACTOR) as conn:
        return fingerprint.take(conn)


def left_standing(dsn: str, release: Release) -> Left:
    """How a catalogue looks after each rollback of one change, with what stands on it, out of all five. As STAGE 3 finds it out: by
    doing it, here on a small copy, which this uses up."""
    everything = [change.name for change in release.changes]
    left: dict[frozenset[str], fingerprint.Fingerprint] = {frozenset(): look(dsn)}
    with connect(dsn, name=ACTOR) as conn:
        for script in release.support:
            run_script(conn, script)
        standing: set[str] = set()
        for change in release.changes:
            for name in [each for each in everything if each not in standing]:
                run_script(conn, release.change(name).apply)
                standing.add(name)
            for gone in (*release.dependants(change.name), change):
                run_script(conn, gone.rollback)
                standing.remove(gone.name)
            left[frozenset(standing)] = look(dsn)
    return left


def prove(settings: Settings, left: Left | None = None) -> None:
    """Put on record what STAGE 2 and STAGE 3 would: every proof that the release owes, on the target as it is now.

    ``left`` is what ``left_standing`` found; CannotProve when its catalogue was another one before.
    """
    release, found = release_of(settings), look(settings.require("target"))
    target = found.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)
    if left and schema_digest(left[frozenset()]) != target:
        raise CannotProve(
            "the small copy has another schema than the target", remedy="See fingerprint.diff of the two."
        )
    (settings.archives_path / "proved_on.json").write_text(json.dumps(found.as_json()), encoding="utf-8")
    started = {"fingerprint": target, "facts": "proved_on.json"}
    events = [_event(EventType.VALIDATION_STARTED, release, None, started)]
    for change in release.changes:
        applied = {"script": change.apply.sha256, "disk_growth_peak_bytes": 1_000_000}
        events.append(_event(EventType.CHANGE_APPLIED, release, change.name, applied))
    for subject, scenario in model.owed(release):
        proof = {
            "verdict": "holds",
            "scripts": script_digests(release, subject),
            "conditions": release.proof.conditions,
            "target": target,
        }
        if after := (left or {}).get(frozenset(subject.reference)):
            name = f"left_{'_'.join(subject.reference) or 'none'}.json"
            (settings.archives_path / name).write_text(json.dumps(after.as_json()), encoding="utf-8")
            proof |= {"schema_after": schema_digest(after), "facts_after": name}
        events.append(_event(EventType.PROOF_RECORDED, release, f"{subject.name}/{scenario}", proof))
    with Ledger(settings.require("control")) as ledger:
        ledger.append("rollback_validation/bench", events)


def say_go(control: str) -> None:
    """The PO says Go to the gate that is open."""
    with GateBook(control) as book:
        (gate,) = book.list(states=("open",), name="rollout", limit=1)
        book.vote(gate.gate, "go", actor="po", reason="read it", digest=gate.digest, via=ACTOR)


def go_of(rollout: Rollout) -> Go:
    """A Go for this run: asked for, given, and used."""
    try:
        return use_or_ask(rollout.settings, rollout.release, run=rollout.run, login="dba")
    except RolloutRefused:
        say_go(rollout.settings.require("control"))
        return use_or_ask(rollout.settings, rollout.release, run=rollout.run, login="dba")


def _event(event_type: EventType, release: Release, phase: str | None, payload: Mapping[str, Any]) -> NewEvent:
    return NewEvent(event_type=event_type, feature=release.name, actor=ACTOR, phase=phase, payload=dict(payload))
