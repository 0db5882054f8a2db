"""A target to roll out to, small and quick: the real release or a tiny one, everything proved, a Go in force, health watched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from comporta.gates import GateBook
from comporta.ledger import Event, EventType, Ledger, NewEvent
from comporta.postgres.connection import connect
from comporta.proof import fingerprint
from comporta.release.model import Release, load_release
from comporta.rollout.engine import Rollout, open_rollout
from comporta.rollout.errors import RolloutRefused
from comporta.rollout.go import Go, use_or_ask
from comporta.rollout.standing import State
from comporta.settings import Settings
from comporta.validation import model
from comporta.validation.model import script_digests

PROJECT = Path(__file__).resolve().parents[2]
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
QUICK: Mapping[str, Any] = {
    "every_s": 0.2,
    "window_s": 5.0,
    "min_samples": 3,
    "stale_s": 12.0,
    "timeout_ms": 5_000,
    "baseline_runs": 5,
    # Whether the target is slow is not what these tests are about, and no test depends on how fast a machine is.
    "signals": {"latency": {"at_most": 60_000, "times": None, "floor": None}},
}
TINY: Mapping[str, tuple[str, str, str]] = {
    "A": (
        "alter table catalogue.layers add column if not exists colour text;\n"
        "create index if not exists layers_colour on catalogue.layers (colour);",
        "do $$ begin perform colour from catalogue.layers limit 1; end $$;",
        "drop index if exists catalogue.layers_colour;\nalter table catalogue.layers drop column if exists colour;",
    ),
    "B": (
        "create or replace view catalogue.coloured as select code, colour from catalogue.layers;",
        "do $$ begin perform from catalogue.coloured limit 1; end $$;",
        "drop view if exists catalogue.coloured;",
    ),
    "C": (
        "create or replace function catalogue.answer() returns integer language sql immutable as $$ select 42 $$;",
        "do $$ begin if catalogue.answer() <> 42 then raise exception 'the answer is wrong'; end if; end $$;",
        "drop function if exists catalogue.answer();",
    ),
}
REQUIRES = {"B": ["A"]}


@dataclass
class Ground:
    """A project's folder of its own over real servers. ``said`` is everything that runs told."""

    settings: Settings
    said: list[str] = field(default_factory=list)
    runs: int = 0
    proved_on: fingerprint.Fingerprint | None = None

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def release(self) -> Release:
        return load_release(self.settings.release_path, self.home / "sql")

    @property
    def target_dsn(self) -> str:
        return self.settings.require("target")

    def script(self, role: str, change: str) -> Path:
        """The file of a change's script."""
        path: Path = getattr(self.release.change(change), role).path
        return path

    @contextmanager
    def run(self, name: str = "") -> Iterator[Rollout]:
        """A rollout run; a new one unless named."""
        self.runs += not name
        with open_rollout(
            self.settings,
            run=name or f"cli-{self.runs}",
            started=datetime.now(UTC),
            actor="cli:ana",
            say=self.said.append,
        ) as opened:
            yield opened

    def prove(self, changes: Sequence[str] | None = None) -> None:
        """Put on record what STAGE 2 and STAGE 3 would of the scripts of now, on the target as it was at the first call."""
        release = self.release
        self.proved_on = self.proved_on or self.look()
        target = self.proved_on.digest_without(*fingerprint.NOT_OF_THE_SCHEMA)
        self.settings.archives_path.mkdir(exist_ok=True)
        (self.settings.archives_path / "proved_on.json").write_text(json.dumps(self.proved_on.as_json()))
        events = [
            NewEvent(
                event_type=EventType.VALIDATION_STARTED,
                feature=release.name,
                actor="test",
                payload={"fingerprint": target, "facts": "proved_on.json"},
            )
        ]
        events += [
            NewEvent(
                event_type=EventType.CHANGE_APPLIED,
                feature=release.name,
                actor="test",
                phase=change.name,
                payload={"script": change.apply.sha256, "disk_growth_peak_bytes": 1_000_000},
            )
            for change in release.changes
        ]
        events += [
            NewEvent(
                event_type=EventType.PROOF_RECORDED,
                feature=release.name,
                actor="test",
                phase=f"{subject.name}/{scenario}",
                payload={
                    "verdict": "holds",
                    "scripts": script_digests(release, subject),
                    "conditions": release.proof.conditions,
                    "target": target,
                },
            )
            for subject, scenario in model.owed(release)
            if changes is None or subject.name in changes
        ]
        with Ledger(self.settings.require("control")) as ledger:
            ledger.append("rollback_validation/test", events)

    def go(self, rollout: Rollout) -> Go:
        """A Go for this run: asked for, given by the PO, and used."""
        try:
            return use_or_ask(self.settings, rollout.release, run=rollout.run, login="ana")
        except RolloutRefused:
            with GateBook(self.settings.require("control")) as book:
                (gate,) = book.list(states=("open",), name="rollout", limit=1)
                book.vote(gate.gate, "go", actor="po", reason="read it", digest=gate.digest, via="test")
            return use_or_ask(self.settings, rollout.release, run=rollout.run, login="ana")

    def roll_out(self, *names: str) -> bool:
        """A run over these changes, or all: preflight, Go, every step."""
        with self.run() as rollout:
            rollout.preflight()
            return rollout.carry(names or [change.name for change in rollout.release.changes], self.go(rollout))

    def states(self) -> dict[str, State]:
        """Where each change stands by the ledger."""
        with self.run("look") as rollout:
            return {name: each.state for name, each in rollout.record.board().standings.items()}

    def events(self, event_type: EventType | None = None) -> list[Event]:
        """What the rollout recorded, oldest first."""
        with Ledger(self.settings.require("control")) as ledger:
            return ledger.latest(1_000, stream=f"rollout/{self.release.name}", event_type=event_type)

    def look(self) -> fingerprint.Fingerprint:
        """The target's fingerprint now."""
        with connect(self.target_dsn, name="test") as conn:
            return fingerprint.take(conn)

    def sql(self, text: str) -> None:
        """Do something to the target by hand."""
        with psycopg.connect(self.target_dsn, autocommit=True) as conn:
            conn.execute(text.encode())


def make_ground(folder: Path, *, target: str, control: str, tiny: bool, **health: Any) -> Ground:
    """A ground under ``folder``; the tiny release has three changes, of which B requires A."""
    shutil.copytree(PROJECT / "sql", folder / "sql")
    (folder / "config").mkdir()
    release = yaml.safe_load((PROJECT / "config" / "release.yaml").read_text(encoding="utf-8"))
    release["proof"] = {"scenarios": ["restore"], "orders": False}
    release["rollout"] = {"soak_s": 0.3}
    release["health"] = {**release.get("health", {}), **QUICK, **health}
    if tiny:
        release["changes"] = {
            name: {
                "stem": name,
                "title": f"Change {name}",
                "requires": REQUIRES.get(name, []),
                "tables": ["catalogue.layers"],
            }
            for name in TINY
        }
        for name, (apply, verify, rollback) in TINY.items():
            (folder / "sql/apply" / f"{name}.sql").write_text(apply)
            (folder / "sql/verify" / f"{name}.sql").write_text(verify)
            (folder / "sql/rollback" / f"ROLLBACK_{name}.sql").write_text(rollback)
    (folder / "config/release.yaml").write_text(yaml.safe_dump(release, sort_keys=False))
    (folder / "config/gates.yaml").write_text(yaml.safe_dump(dict(GATES), sort_keys=False))
    ground = Ground(Settings(home=folder, target_dsn=target, control_dsn=control, archives=folder / "archives"))
    ground.sql("analyze")  # a copied database has not counted its rows, and no count is no data
    return ground
