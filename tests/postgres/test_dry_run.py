"""`comporta dry-run` from end to end, and every wrong input: a message, an exit status, and a target that was only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.ledger import Ledger
from comporta.ledger.migration import migrate
from comporta.local import ports
from comporta.proof import fingerprint
from comporta.proof.checksum import TableChecksum, checksum_tables

PROJECT = Path(__file__).resolve().parents[2]
BAD_CHANGES = Path(__file__).with_name("bad_changes")
WRONG_PASSWORD = "hunter2-is-wrong"
PASS_OR_WARN, STOP, BAD_INPUT = 0, 1, 2

RELEASE: dict[str, Any] = {
    "name": "trial",
    "title": "Trial",
    "author": "somebody",
    "changes": {"T1": {"stem": "T1_notes", "title": "A table for notes", "tables": ["catalogue.notes"]}},
    # The machine may be slow; what is tested here is that a harmless change passes, not how fast.
    "budget": {"longest_stall_ms": 20_000, "longest_exclusive_lock_ms": 20_000},
    "dry_run": {
        "reads_per_s": 20,
        "writes_per_s": 20,
        "settle_s": 0.2,
        "queries": {"one": "select id, name from catalogue.geometrias where id = 1"},
    },
}
SCRIPTS = {
    "apply/T1_notes.sql": (
        "-- são\nset lock_timeout = '2s';\ncreate table if not exists catalogue.notes (id bigint primary key, note text);\n"
        "alter table catalogue.notes owner to gis_owner;\nanalyze catalogue.notes;\n"
    ),
    "verify/T1_notes.sql": (
        "do $$ begin if to_regclass('catalogue.notes') is null then raise 'catalogue.notes is missing'; end if; end $$;\n"
    ),
    "rollback/ROLLBACK_T1_notes.sql": "drop table if exists catalogue.notes;\n",
}


@dataclass
class World:
    """A project folder of its own and three servers, and the command line started in it."""

    home: Path
    target: str
    shadow: str
    control: str
    release: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(RELEASE)))

    def write(self, name: str, text: str) -> Path:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def dry_run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        release = self.home / "config/release.yaml"
        if not release.exists():
            self.write("config/release.yaml", yaml.safe_dump(self.release, sort_keys=False))
        settings = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT / "plugins"),
            "COMPORTA_HOME": str(self.home),
            "COMPORTA_TARGET_DSN": self.target,
            "COMPORTA_SHADOW_DSN": self.shadow,
            "COMPORTA_CONTROL_DSN": self.control,
        }
        return subprocess.run(
            [sys.executable, "-c", "from comporta.cli import main; main()", "dry-run", *arguments],
            env={key: value for key, value in {**settings, **environment}.items() if value},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def state(self) -> tuple[str, dict[str, TableChecksum]]:
        with psycopg.connect(self.target, autocommit=True) as conn:
            return fingerprint.take(conn).digest, checksum_tables(conn)

    def secrets(self) -> set[str]:
        return {str(conninfo_to_dict(dsn)["password"]) for dsn in (self.target, self.shadow, self.control)}

    def reports(self) -> list[Path]:
        return sorted((self.home / "archives").rglob("report.*"))


@pytest.fixture(scope="module")
def two_servers(servers: Any, free_shadow: str) -> tuple[str, str]:
    """Target and shadow."""
    return servers.target.fresh_catalogue(), free_shadow


@pytest.fixture
def world(two_servers: tuple[str, str], control: str, tmp_path: Path) -> World:
    with psycopg.connect(control) as conn:
        migrate(conn, PROJECT / "sql/control")
    home = tmp_path / "home"
    made = World(home, *two_servers, control)
    for name, text in SCRIPTS.items():
        made.write(f"sql/{name}", text)
    (home / "sql/support").symlink_to(PROJECT / "sql/support")
    return made


def test_a_harmless_change_passes_with_a_report_and_the_whole_story_in_the_ledger(world: World) -> None:
    before = world.state()
    done = world.dry_run("--json")
    assert done.returncode == PASS_OR_WARN, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] in {"pass", "warn"}
    [change] = document["changes"]
    assert change["name"] == "T1"
    assert change["numbers"]["failed"] == 0
    assert change["numbers"]["lost_writes"] == 0
    page, data = world.reports()
    assert (page.name, data.name) == ("report.html", "report.json")
    assert json.loads(data.read_text(encoding="utf-8"))["digest"] == document["digest"]
    assert document["digest"] in page.read_text(encoding="utf-8")
    with Ledger(world.control) as ledger:
        events = list(ledger.read())
        assert ledger.verify().ok
    assert [(event.event_type, event.phase) for event in events] == [
        ("dry_run_started", None),
        ("preflight_finished", None),
        ("clone_made", None),
        ("change_applied", "T1"),
        ("change_verified", "T1"),
        ("change_measured", "T1"),
        ("dry_run_finished", None),
    ]
    assert events[-1].payload["digest"] == document["digest"]
    assert (world.home / "archives" / events[-1].payload["report"]) == page
    written = done.stdout + done.stderr + page.read_text(encoding="utf-8") + str(events)
    assert [secret for secret in world.secrets() if secret in written] == []
    assert world.state() == before


def test_a_script_of_no_release_is_rehearsed_without_a_control_database(world: World) -> None:
    before = world.state()
    done = world.dry_run(str(BAD_CHANGES / "long_lock.sql"), "--keep-clone", COMPORTA_CONTROL_DSN="")
    assert done.returncode == STOP, done.stderr
    assert "verdict: stop" in done.stderr
    assert "catalogue.geometrias" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(world.reports()) == 2
    assert world.state() == before


def test_a_statement_that_fails_stops_the_dry_run_and_is_in_the_report(world: World) -> None:
    before = world.state()
    world.write("sql/apply/T1_notes.sql", "select 1;\n\nselect * from catalogue.absent;\nselect 2;\n")
    done = world.dry_run("--keep-clone")
    assert done.returncode == STOP, done.stderr
    assert "T1_notes.sql:3: statement 2 failed (select * from catalogue.absent)" in done.stderr
    assert "Traceback" not in done.stderr
    page, data = world.reports()
    assert "catalogue.absent" in page.read_text(encoding="utf-8")
    assert json.loads(data.read_text(encoding="utf-8"))["verdict"] == "stop"
    with Ledger(world.control) as ledger:
        story = [event.event_type for event in ledger.read()]
    assert story[-2:] == ["change_failed", "dry_run_finished"]
    assert world.state() == before


def unknown_key(world: World) -> tuple[str, ...]:
    world.release["changes"]["T1"]["reqires"] = ["T0"]
    return ()


def key_twice(world: World) -> tuple[str, ...]:
    world.write("config/release.yaml", "name: one\nname: two\n")
    return ()


def missing_script(world: World) -> tuple[str, ...]:
    (world.home / "sql/verify/T1_notes.sql").unlink()
    return ()


def cycle(world: World) -> tuple[str, ...]:
    first = world.release["changes"]["T1"]
    world.release["changes"] = {"T1": {**first, "requires": ["T2"]}, "T2": {**first, "requires": ["T1"]}}
    return ()


def syntax_error(world: World) -> tuple[str, ...]:
    world.write("sql/apply/T1_notes.sql", "-- são\nselect 1;\ncreate tabel notes ();\n")
    return ()


def unreachable_target(world: World) -> tuple[str, ...]:
    world.target = make_conninfo(world.target, port=ports.first_free(56_980))
    return ()


def unreadable_shadow(world: World) -> tuple[str, ...]:
    world.shadow = f"host=127.0.0.1 password={WRONG_PASSWORD} {WRONG_PASSWORD}"
    return ()


def wrong_password(world: World) -> tuple[str, ...]:
    world.target = make_conninfo(world.target, password=WRONG_PASSWORD)
    return ()


def shadow_is_target(world: World) -> tuple[str, ...]:
    world.shadow = make_conninfo(world.target, host="localhost", dbname="postgres")
    return ()


def no_shadow(world: World) -> tuple[str, ...]:
    world.shadow = ""
    return ()


def unknown_change(_: World) -> tuple[str, ...]:
    return ("--change", "T9")


def absent_file(world: World) -> tuple[str, ...]:
    return (str(world.home / "absent.sql"),)


def meta_command(world: World) -> tuple[str, ...]:
    return (str(world.write("any.sql", "select 1;\n\\i other.sql\n")),)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(unknown_key, "changes.T1.reqires: unknown key", id="unknown-key"),
        pytest.param(key_twice, "key 'name' is given twice", id="key-given-twice"),
        pytest.param(missing_script, "sql/verify/T1_notes.sql", id="missing-script"),
        pytest.param(cycle, "circle: ", id="dependency-cycle"),
        pytest.param(syntax_error, 'T1_notes.sql:3:8: syntax error at or near "tabel"', id="syntax-error"),
        pytest.param(unreachable_target, "cannot connect to postgres@127.0.0.1:5698", id="unreachable-target"),
        pytest.param(unreadable_shadow, "COMPORTA_SHADOW_DSN cannot be read", id="unreadable-connection-string"),
        pytest.param(wrong_password, "password authentication failed", id="wrong-password"),
        pytest.param(shadow_is_target, "the shadow is the target's own server", id="shadow-is-target"),
        pytest.param(no_shadow, "COMPORTA_SHADOW_DSN", id="no-shadow"),
        pytest.param(unknown_change, "no change 'T9' in release trial: it has T1", id="unknown-change"),
        pytest.param(absent_file, "absent.sql: cannot be read", id="absent-file"),
        pytest.param(meta_command, "any.sql:2:1: \\i is a psql meta-command", id="meta-command"),
    ],
)
def test_a_wrong_input_is_named_with_exit_status_2_and_the_target_stays_as_it_was(
    world: World, spoil: Any, expected: str
) -> None:
    before, target, secrets = world.state(), world.target, world.secrets()
    done = world.dry_run(*spoil(world))
    assert done.returncode == BAD_INPUT, done.stderr
    assert done.stdout == ""
    assert expected in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [secret for secret in {*secrets, WRONG_PASSWORD} if secret in done.stderr] == []
    assert world.reports() == []
    world.target = target
    assert world.state() == before


def test_the_preflight_tells_what_changed_on_the_target_since_the_last_dry_run(world: World) -> None:
    """Drift is rehearsed, so it warns; nobody should learn of it from the proofs that went stale."""
    assert world.dry_run().returncode == PASS_OR_WARN
    with psycopg.connect(world.target, autocommit=True) as conn:
        conn.execute("comment on table catalogue.layers is 'Somebody was here.'")
    try:
        done = world.dry_run("--keep-clone")
    finally:
        with psycopg.connect(world.target, autocommit=True) as conn:
            conn.execute("comment on table catalogue.layers is 'Thematic layers; every geometry belongs to one.'")
    assert "comment of table catalogue.layers" in done.stderr
    assert "Somebody was here." in done.stderr


def test_a_script_can_be_judged_without_live_traffic_and_the_report_says_that_stalls_are_unknown(world: World) -> None:
    """No data is not good news: it is a warning."""
    file = world.write(
        "note.sql",
        "set lock_timeout = '1s';\ncreate table catalogue.scratch (id bigint);\nanalyze catalogue.scratch;\n",
    )
    done = world.dry_run(str(file), "--keep-clone", "--reads", "0", "--writes", "0", "--json")
    assert done.returncode == PASS_OR_WARN, done.stderr
    change = json.loads(done.stdout)["changes"][0]
    assert change["verdict"] == "warn"
    assert "F03" in {hazard["code"] for hazard in change["hazards"]}
    assert change["numbers"]["longest_stall"] is None
