"""The drills on real servers: a crash and a promotion, a rebuilt ledger, a crashed shadow. What they must notice, too."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer import Typer
from typer.testing import CliRunner

from comporta.drills import control as control_drill
from comporta.drills import shadow as shadow_drill
from comporta.drills import target as target_drill
from comporta.drills.catalogue import NAMES
from comporta.drills.commands import drill as drill_command
from comporta.drills.model import Context, DrillResult, Outcome
from comporta.drills.objectives import load_plan
from comporta.ledger import EventType, Ledger, NewEvent, migrate
from comporta.settings import Settings
from comporta.shadow.clone import Shadow

if TYPE_CHECKING:
    from tests.postgres.conftest import Servers

PROJECT = Path(__file__).resolve().parents[2]


def context(**dsns: str) -> Context:
    return Context(Settings(home=PROJECT, **dsns), load_plan(PROJECT / "config/drills.yaml", NAMES))  # type: ignore[arg-type]


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies are made in a folder of this test, which must be empty afterwards, with no server left in it."""
    with tempfile.TemporaryDirectory(prefix="drills-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert list(Path(folder).iterdir()) == []
        in_there = [path for path in Path("/proc").glob("[0-9]*/cwd") if _cwd(path).startswith(folder)]
        assert in_there == []


def _cwd(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


@pytest.fixture
def ledger_dsn(control: str) -> str:
    """A ledger with a few events."""
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn, PROJECT / "sql/control")
    with Ledger(control) as ledger:
        for number in range(3):
            event = NewEvent(event_type=EventType.CHANGE_APPLIED, feature="f", actor="test", payload={"n": number})
            ledger.append("dry_run/1", [event])
    return control


@pytest.mark.usefixtures("nothing_left")
def test_the_promoted_standby_holds_every_acknowledged_write(target_dsn: str) -> None:
    result = target_drill.DRILL.perform(context(target_dsn=target_dsn))
    assert (result.outcome, result.lost, result.reason) == (Outcome.RECOVERED, 0, "")
    assert result.recovery_seconds is not None
    assert 0 < result.recovery_seconds < 30
    assert result.evidence["acknowledged_writes"] > result.evidence["acknowledged_after_the_crash"] > 0
    with psycopg.connect(target_dsn) as conn:
        row = conn.execute("select count(*), pg_is_in_recovery() from catalogue.geometrias").fetchone()
    assert row == (5_000, False)


@pytest.mark.usefixtures("nothing_left")
def test_a_standby_that_was_not_followed_synchronously_shows_as_lost_writes(
    target_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drill can fail: here replay and reception are cut off, and commits do not wait for them."""

    def asynchronous(primary: target_drill.Copy) -> None:
        with psycopg.connect(primary.dsn("postgres"), autocommit=True) as conn:
            conn.execute("alter system set max_wal_senders = 0")
        primary.cluster.restart()

    monkeypatch.setattr(target_drill, "_make_synchronous", asynchronous)
    result = target_drill.DRILL.perform(context(target_dsn=target_dsn))
    assert result.outcome == Outcome.RECOVERED
    assert result.lost
    assert result.judge(load_plan(PROJECT / "config/drills.yaml", NAMES).of("target"))[0] == "missed"


@pytest.mark.usefixtures("nothing_left")
def test_a_role_without_the_right_to_replicate_is_told_so_before_anything_is_made(
    servers: Servers, target_dsn: str
) -> None:
    with psycopg.connect(target_dsn, autocommit=True) as conn:
        conn.execute("drop role if exists drill_reader")
        conn.execute("create role drill_reader login password 'x'")
    result = target_drill.DRILL.perform(
        context(target_dsn=make_conninfo(target_dsn, user="drill_reader", password="x"))
    )
    assert result.outcome == Outcome.NOT_INSTALLED
    assert "drill_reader may not replicate" in result.reason


@pytest.mark.usefixtures("nothing_left")
def test_an_interrupted_drill_leaves_neither_a_server_nor_a_file(
    target_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target_drill, "_promote", interrupted)
    with pytest.raises(KeyboardInterrupt):
        target_drill.DRILL.perform(context(target_dsn=target_dsn))


@pytest.mark.usefixtures("nothing_left")
def test_the_ledger_is_proved_in_a_rebuilt_control_server(ledger_dsn: str) -> None:
    result = control_drill.DRILL.perform(context(control_dsn=ledger_dsn))
    assert (result.outcome, result.lost, result.evidence["events"]) == (Outcome.RECOVERED, 0, 3)
    assert result.evidence["head"] == result.evidence["live_head_before_the_backup"]


@pytest.mark.usefixtures("nothing_left")
def test_airflow_in_the_backup_is_counted(servers: Servers, ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as conn:
        conn.execute("create table dag_run as select from generate_series(1, 7)")
    result = control_drill.DRILL.perform(context(control_dsn=ledger_dsn))
    assert result.evidence["airflow"]["dag_runs"] == 7


@pytest.mark.usefixtures("nothing_left")
def test_a_tampered_ledger_is_noticed_in_the_copy(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as conn:
        conn.execute("alter table comporta.event disable trigger append_only")
        conn.execute("update comporta.event set payload = '{\"n\": 9}' where id = 2")
        conn.execute("alter table comporta.event enable always trigger append_only")
    result = control_drill.DRILL.perform(context(control_dsn=ledger_dsn))
    assert result.outcome == Outcome.FAILED
    assert "event 2 of block 2 is not the one that was appended" in result.reason


def test_an_empty_ledger_proves_nothing(control: str) -> None:
    with psycopg.connect(control, autocommit=True) as conn:
        migrate(conn, PROJECT / "sql/control")
    result = control_drill.DRILL.perform(context(control_dsn=control))
    assert result.outcome == Outcome.NOT_INSTALLED


@pytest.fixture
def durable_shadow(servers: Servers, free_shadow: str) -> Iterator[str]:
    """The shadow with commits that wait for the disk: what a crash may lose otherwise is no finding."""
    shadow = servers.shadow.database("postgres")
    with psycopg.connect(shadow, autocommit=True) as conn:
        conn.execute("alter system set synchronous_commit = on")
        conn.execute("select pg_reload_conf()")
    yield free_shadow
    with psycopg.connect(shadow, autocommit=True) as conn:
        conn.execute("alter system reset synchronous_commit")
        conn.execute("select pg_reload_conf()")


def _databases(shadow: Shadow) -> dict[str, int]:
    with shadow.maintenance() as conn:
        return dict(conn.execute("select datname, oid from pg_database").fetchall())


def _drill_shadow(target: str, shadow: str) -> DrillResult:
    return shadow_drill.DRILL.perform(context(target_dsn=target, shadow_dsn=shadow))


@pytest.mark.usefixtures("nothing_left")
def test_a_crashed_shadow_answers_again_and_is_rebuilt_beside_the_golden_copy(
    target_dsn: str, durable_shadow: str
) -> None:
    shadow = Shadow(target_dsn, durable_shadow)
    first = _drill_shadow(target_dsn, durable_shadow)
    assert (first.outcome, first.lost, first.evidence["rebuilt_as"]) == (Outcome.RECOVERED, 0, shadow.golden)
    golden = _databases(shadow)[shadow.golden]
    result = _drill_shadow(target_dsn, durable_shadow)
    assert (result.outcome, result.lost, result.reason) == (Outcome.RECOVERED, 0, "")
    assert result.evidence["rebuilt_as"] == shadow_drill.SCRATCH
    assert _databases(shadow)[shadow.golden] == golden
    assert shadow_drill.SCRATCH not in _databases(shadow)


def test_a_shadow_in_use_is_not_crashed(target_dsn: str, durable_shadow: str) -> None:
    with psycopg.connect(durable_shadow, application_name="somebody's run") as at_work:
        result = _drill_shadow(target_dsn, durable_shadow)
        assert at_work.execute("select 1").fetchone() == (1,)
    assert result.outcome == Outcome.NOT_INSTALLED
    assert "in use by somebody's run on gis" in result.reason


def test_a_shadow_that_is_the_target_is_not_crashed(target_dsn: str) -> None:
    result = _drill_shadow(target_dsn, target_dsn)
    assert result.outcome == Outcome.NOT_INSTALLED
    assert "the target's own server" in result.reason


@pytest.mark.usefixtures("nothing_left")
def test_a_drill_is_recorded_and_the_list_tells_of_it(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPORTA_HOME", str(PROJECT))
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", ledger_dsn)
    app = Typer()
    app.command("drill")(drill_command)
    ran = CliRunner().invoke(app, ["control", "--json"])
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["verdict"] == "met"
    listed = [json.loads(line) for line in CliRunner().invoke(app, ["--json"]).stdout.splitlines()]
    assert [row["name"] for row in listed] == list(NAMES)
    last = {row["name"]: row["last"] and row["last"]["verdict"] for row in listed}
    assert last == {**dict.fromkeys(NAMES), "control": "met"}
    with Ledger(ledger_dsn) as ledger:
        (event,) = ledger.latest(1, stream="drill/control")
        assert ledger.verify().ok
    assert (event.event_type, event.feature, event.payload["objective"]["lost"]) == (
        "drill_finished",
        "control database",
        0,
    )
