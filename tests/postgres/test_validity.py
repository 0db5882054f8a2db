"""`comporta proofs` by a real ledger, after a real proof: valid until a script or the target is another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
import yaml
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from comporta.ledger import migrate
from comporta.local import ports
from comporta.settings import Settings
from comporta.validation.commands import proofs
from comporta.validation.runner import open_validation

ALL_VALID, NOT_ALL_VALID = 0, 1
RELEASE: dict[str, Any] = {
    "name": "trial",
    "title": "Trial",
    "author": "somebody",
    "changes": {"T1": {"stem": "T1_notes", "title": "A table for notes"}},
    "proof": {"scenarios": ["restore"], "orders": False, "reads_per_s": 0, "writes_per_s": 0},
}
SCRIPTS = {
    "apply/T1_notes.sql": "create table catalogue.notes (id bigint primary key, note text);\n",
    "verify/T1_notes.sql": "select 'catalogue.notes'::regclass;\n",
    "rollback/ROLLBACK_T1_notes.sql": "drop table if exists catalogue.notes;\n",
}
app = typer.Typer()
app.command()(proofs)


@dataclass
class World:
    """A project with one change, its servers, and the command as somebody types it."""

    settings: Settings

    def prove(self, **options: Any) -> None:
        now = datetime.now(UTC)
        with open_validation(
            self.settings, run_id=f"run-{now:%H%M%S%f}", started=now, actor="tester", say=lambda _: None, **options
        ) as validation:
            _, verdict = validation.run_all()
        assert verdict == "pass"

    def proofs(self, *arguments: str, **environment: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments], env=environment, terminal_width=200)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, " ".join(done.output.split())

    def alone(self, **environment: str) -> dict[str, Any]:
        """The one proof that this release owes."""
        _, output = self.proofs("--json", **environment)
        status: dict[str, Any] = json.loads(output)
        return status

    def on_target(self, statement: str) -> None:
        with psycopg.connect(self.settings.target_dsn, autocommit=True) as conn:
            conn.execute(statement.encode())

    def write(self, name: str, text: str) -> Path:
        file = self.settings.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file


@pytest.fixture
def world(
    tmp_path: Path, target_dsn: str, free_shadow: str, control: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn)
    settings = Settings(home=tmp_path, target_dsn=target_dsn, shadow_dsn=free_shadow, control_dsn=control)
    for name in ("target", "shadow", "control"):
        monkeypatch.setenv(f"COMPORTA_{name.upper()}_DSN", settings.require(name))
    monkeypatch.setenv("COMPORTA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    made = World(settings)
    made.write("config/release.yaml", yaml.safe_dump(RELEASE, sort_keys=False))
    for name, text in SCRIPTS.items():
        made.write(f"sql/{name}", text)
    return made


def test_what_was_never_proved_is_missing_and_the_exit_status_says_so(world: World) -> None:
    status, output = world.proofs()
    assert status == NOT_ALL_VALID
    assert "T1 restore missing never proved" in output


@pytest.mark.timeout(180)
def test_a_proof_is_valid_until_the_target_or_a_script_is_another_one(world: World, tmp_path: Path) -> None:
    world.prove()
    status, output = world.proofs()
    assert (status, "1 of 1 proofs are valid." in output) == (ALL_VALID, True)
    valid = world.alone()
    assert (valid["state"], valid["by"], valid["reasons"]) == ("valid", "tester", [])
    assert (world.settings.archives_path / valid["report"]).is_file()

    world.on_target("create index of_somebody_else on catalogue.geometrias (name)")
    drifted = world.alone()
    assert (drifted["state"], len(drifted["reasons"])) == ("stale", 1)
    assert drifted["reasons"][0].startswith("the target drifted: ")
    assert "catalogue.of_somebody_else" in drifted["reasons"][0]
    assert world.proofs()[0] == NOT_ALL_VALID
    world.on_target("drop index catalogue.of_somebody_else")
    assert world.alone()["state"] == "valid"

    tried = world.write("tried.sql", "drop table if exists catalogue.notes cascade;\n")
    world.prove(only=["T1"], rollback=tried)
    assert (world.alone()["state"], world.alone()["run"]) == ("valid", valid["run"])

    nobody = make_conninfo(world.settings.target_dsn, port=ports.first_free(55_990))
    unreachable = world.alone(COMPORTA_TARGET_DSN=nobody)
    assert unreachable["state"] == "stale"
    assert unreachable["reasons"][0].startswith("the target cannot be reached: cannot connect to ")

    world.write("sql/rollback/ROLLBACK_T1_notes.sql", "drop table if exists catalogue.notes restrict;\n")
    assert world.alone()["reasons"][0].startswith("the rollback script of T1 changed since (")
