"""Who looks: one process at a time, whatever happens to it, to the target and to the control database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import Result
from tests.postgres.conftest import Servers
from tests.postgres.gate_desk import CLOCK
from tests.postgres.gate_desk import open_desk as open_gate_desk
from typer.testing import CliRunner

from comporta import health
from comporta.errors import UnreachableServer
from comporta.gates import GateRefusal, RefusalCode
from comporta.gates.evidence import Collector
from comporta.gates.policy import load_policy
from comporta.health import BreakerBook, Health, Monitor, monitoring
from comporta.health.commands import app
from comporta.ledger import PROJECTIONS, Event, Ledger, migrate
from comporta.local.supervisor import HEALTH_MONITOR, commands
from comporta.postgres.connection import with_database
from comporta.release.model import Release, load_release
from comporta.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
QUICK = {
    "every_s": 0.05, "window_s": 1.0, "min_samples": 2, "open_s": 0.05, "probes": 2, "stale_s": 5.0, "timeout_ms": 1_000,
    "baseline_runs": 2, "canaries": ["by_id"],
}  # fmt: skip
SIGNALS = {"latency": {"times": 1000, "floor": 60_000}, "disk": {"free_share_at_least": 0, "free_bytes_at_least": 1}}


@pytest.fixture
def settings(tmp_path: Path, control: str, target_dsn: str) -> Settings:
    """A project with the shipped release, watched quickly, on a fresh catalogue that was analyzed."""
    (tmp_path / "sql").symlink_to(PROJECT / "sql")
    (tmp_path / "config").mkdir()
    made = Settings(home=tmp_path, control_dsn=control, target_dsn=target_dsn)
    write_release(made)
    with psycopg.connect(control, autocommit=True) as owner:
        migrate(owner)
    with psycopg.connect(target_dsn, autocommit=True) as owner:
        owner.execute("analyze")
    return made


def write_release(settings: Settings, **plan: Any) -> None:
    content = yaml.safe_load((PROJECT / "config/release.yaml").read_text(encoding="utf-8"))
    content["health"] |= QUICK | {"signals": SIGNALS} | plan
    settings.release_path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture
def release(settings: Settings) -> Release:
    return load_release(settings.release_path, settings.home / "sql")


class Clock:
    """The clock of the control database, which was replaced by one that stands until a test moves it."""

    def __init__(self, owner: psycopg.Connection) -> None:
        self._owner = owner

    def pass_time(self, seconds: float) -> None:
        self._owner.execute("update public.test_clock set now = now + make_interval(secs => %s)", [seconds])


@pytest.fixture
def clock(settings: Settings) -> Iterator[Clock]:
    with psycopg.connect(settings.control_dsn, autocommit=True) as owner:
        owner.execute(CLOCK)
        yield Clock(owner)


@pytest.fixture
def monitor(settings: Settings, release: Release) -> Iterator[Monitor]:
    with Monitor(settings.control_dsn, settings.target_dsn, release) as made:
        yield made


def look_on(monitor: Monitor, clock: Clock, times: int = 1, every_s: float = 0.1) -> None:
    for _ in range(times):
        clock.pass_time(every_s)
        monitor.step()


def positions(found: Health) -> dict[str, str]:
    return {each.name: each.position for each in found.breakers if each.position != "closed"}


@contextmanager
def broken(settings: Settings) -> Iterator[None]:
    """The catalogue's table is gone while the body runs."""
    with psycopg.connect(settings.target_dsn, autocommit=True) as owner:
        owner.execute("alter table catalogue.geometrias rename to elsewhere")
        try:
            yield
        finally:
            owner.execute("alter table catalogue.elsewhere rename to geometrias")


# -- one process -----------------------------------------------------------------------------------------------------


def test_a_target_that_is_looked_at_often_enough_is_in_good_health(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock
) -> None:
    assert health.look(settings, release).state == "no data"
    health.take_baseline(settings, release, actor="dba")
    look_on(monitor, clock, 2)
    found = health.look(settings, release)
    assert (found.state, found.why) == ("ok", ())
    assert health.look(settings.control_dsn, release) == found


def test_without_a_baseline_limits_that_are_relative_to_one_keep_a_target_from_being_in_good_health(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock
) -> None:
    look_on(monitor, clock, 4)
    found = health.look(settings, release)
    assert (found.state, len(found.why)) == ("no data", 1)
    assert found.why[0].startswith("latency: its limit is relative to a baseline")


def test_a_breaker_opens_is_probed_and_closes_as_the_target_falls_ill_and_recovers(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock
) -> None:
    health.take_baseline(settings, release, actor="dba")
    with broken(settings):
        look_on(monitor, clock, 2)
        assert positions(health.look(settings, release)) == {"errors": "open"}
        look_on(monitor, clock)
        assert positions(health.look(settings, release)) == {"errors": "open"}, "a bad probe"
    look_on(monitor, clock)
    assert positions(health.look(settings, release)) == {"errors": "half-open"}
    look_on(monitor, clock, 2)
    assert health.look(settings, release).state == "ok"
    with Ledger(settings.control_dsn) as ledger:
        story = [event.event_type for event in ledger.read(f"health/{release.name}")]
    assert story == [
        "health_baseline_taken",
        "breaker_opened", "breaker_probing",
        "breaker_opened", "breaker_probing", "breaker_closed",
    ]  # fmt: skip


def test_an_absent_target_is_no_data_and_no_error(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock, servers: Servers
) -> None:
    health.take_baseline(settings, release, actor="dba")
    look_on(monitor, clock, 2)
    assert health.look(settings, release).state == "ok"
    servers.target.stop("immediate")
    try:
        look_on(monitor, clock, 10, every_s=1)
        found = health.look(settings, release)
        with pytest.raises(UnreachableServer):
            health.take_baseline(settings, release, actor="dba")
        newcomer = Monitor(settings.control_dsn, settings.target_dsn, release)
        monitor.close()
        assert newcomer.step() is not None, "who never reached it knows which one it was"
        newcomer.close()
    finally:
        servers.target.start()
    assert found.state == "no data"
    assert len(found.why) == 7
    assert "cannot connect" in found.why[0]


def test_a_target_that_nobody_ever_reached_is_told_of_once(settings: Settings, release: Release) -> None:
    said: list[str] = []
    nowhere = settings.target_dsn + " port=1"
    with Monitor(settings.control_dsn, nowhere, release, say=said.append) as lost:
        assert (lost.step(), lost.step()) == (None, None)
    assert len(said) == 1
    assert "cannot connect" in said[0]
    assert health.look(settings, release).state == "no data"


def test_a_control_database_that_is_away_is_told_of_and_tried_again(
    settings: Settings, release: Release, monitor: Monitor, servers: Servers
) -> None:
    said: list[str] = []
    with Monitor(settings.control_dsn, settings.target_dsn, release, say=said.append) as watcher:
        assert watcher.step() is not None
        servers.control.stop("immediate")
        try:
            assert (watcher.step(), watcher.step()) == (None, None)
        finally:
            servers.control.start()
        assert watcher.step() is not None
    assert "not sampled" in said[1]


def test_a_target_that_was_made_anew_is_sampled_under_its_own_name(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock
) -> None:
    """Here another database of the server takes the place of the first, under its name."""
    look_on(monitor, clock)
    first = health.look(settings, release).target
    with psycopg.connect(with_database(settings.target_dsn, "postgres"), autocommit=True) as owner:
        owner.execute("drop database if exists gis_other")
        owner.execute("create database gis_other")
        monitor._target_dsn = with_database(settings.target_dsn, "gis_other")
        look_on(monitor, clock)
        assert health.look(settings, release).target == first
        look_on(monitor, clock)
        found = health.look(settings, release)
        owner.execute("drop database gis_other with (force)")
    assert found.target == str(first).replace("/gis", "/gis_other")
    assert found.state == "no data"


# -- several ---------------------------------------------------------------------------------------------------------

SAMPLES = """
import sys
from pathlib import Path
from comporta.health import Monitor
from comporta.release.model import load_release
home, control, target = sys.argv[1:]
monitor = Monitor(control, target, load_release(Path(home) / "config/release.yaml", Path(home) / "sql"))
print(monitor.step() is not None, flush=True)
sys.stdin.readline()
"""


def test_a_sampler_that_is_killed_is_followed_by_another(
    settings: Settings, release: Release, monitor: Monitor, clock: Clock
) -> None:
    dying = subprocess.Popen(
        [sys.executable, "-c", SAMPLES, str(settings.home), settings.control_dsn, settings.target_dsn],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert dying.stdout is not None
    assert dying.stdout.readline() == "True\n"
    assert monitor.step() is None
    os.kill(dying.pid, signal.SIGKILL)
    dying.communicate()
    assert monitor.step() is None
    clock.pass_time(release.health.stale_s)
    assert monitor.step() is not None
    with BreakerBook(settings.control_dsn) as book:
        assert {each.holder == monitor.holder for each in book.samples(release.name)} == {True, False}


def test_while_a_process_monitors_samples_are_taken(settings: Settings, release: Release) -> None:
    """With the clock of the database as it is: the body waits for what the thread records."""
    health.take_baseline(settings, release, actor="dba")
    said: list[str] = []
    with broken(settings), monitoring(settings, release, said.append), Ledger(settings.control_dsn) as ledger:
        opened = next(each for each in ledger.tail(0, stop=lambda: False) if each.event_type == "breaker_opened")
    assert opened.phase == "errors"
    assert any("sampling" in each for each in said)
    with BreakerBook(settings.control_dsn) as book:
        target = book.target(release.name)
        assert target is not None
        assert book.become_sampler(release.name, target, "the next", release.health), "the lease was given back"


def test_while_another_process_samples_monitoring_takes_no_sample(
    settings: Settings, release: Release, monitor: Monitor
) -> None:
    assert monitor.step() is not None
    told = threading.Event()
    with monitoring(settings, release, lambda text: told.set() if "another process samples" in text else None):
        assert told.wait(60)
    with BreakerBook(settings.control_dsn) as book:
        assert {each.holder for each in book.samples(release.name)} == {monitor.holder}


def test_monitoring_an_absent_target_leaves_the_body_alone(settings: Settings, release: Release) -> None:
    nowhere = settings.model_copy(update={"target_dsn": settings.target_dsn + " port=1"})
    with monitoring(nowhere, release):
        found = health.look(nowhere, release)
    assert found.state == "no data"


# -- the supervised process ------------------------------------------------------------------------------------------


@contextmanager
def watching(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """The process that the supervisor starts, by the same command."""
    _, *words = commands(Path("bin"))[HEALTH_MONITOR]
    process = subprocess.Popen(
        [sys.executable, "-c", "from comporta.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "COMPORTA_HOME": str(settings.home),
            "COMPORTA_CONTROL_DSN": settings.control_dsn,
            "COMPORTA_TARGET_DSN": settings.target_dsn,
        },
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def heard(process: subprocess.Popen[str], words: str) -> str:
    """The next line of its log with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words}")


def recorded(ledger: Ledger, event_type: str, after: int = 0) -> Event:
    """The next event of a type, waited for."""
    return next(each for each in ledger.tail(after, stop=lambda: False) if each.event_type == event_type)


@pytest.mark.timeout(180)
def test_the_health_monitor_looks_opens_probes_and_closes_until_it_is_ended(
    settings: Settings, release: Release
) -> None:
    health.take_baseline(settings, release, actor="dba")
    with watching(settings) as process, Ledger(settings.control_dsn) as ledger:
        assert "sampling" in heard(process, release.name)
        with broken(settings):
            opened = recorded(ledger, "breaker_opened")
            assert (opened.phase, opened.actor.split(":")[0]) == ("errors", "health")
            recorded(ledger, "breaker_probing", opened.id)
        closed = recorded(ledger, "breaker_closed", opened.id)
        write_release(settings, signals={**SIGNALS, "sql": {"queue": {"query": "select 7", "at_most": 1}}})
        heard(process, "was read again")
        assert recorded(ledger, "breaker_opened", closed.id).phase == "queue"
        settings.release_path.write_text("name: [", encoding="utf-8")
        heard(process, "as it was before is watched on")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert [str(each) for projection in PROJECTIONS for each in ledger.differences(projection)] == []


# -- the gate --------------------------------------------------------------------------------------------------------


def test_an_open_breaker_blocks_a_go_while_the_gate_waits_and_voids_what_was_voted(
    settings: Settings, control: str, project: Path, monitor: Monitor, release: Release
) -> None:
    file = load_policy(project / "config/gates.yaml")
    assert "health_ok" in file.gates["rollout"].requires
    plan = file.gates["rollout"].model_copy(update={"evidence": ("scripts",), "requires": ("health_ok",)})
    file = file.model_copy(update={"gates": {**file.gates, "rollout": plan}})
    health.take_baseline(settings, release, actor="dba")
    with open_gate_desk(control) as desk:
        clock = Clock(desk.owner)

        def now() -> Any:
            found = Collector(settings, file).of("rollout", "decision", {})
            return {"evidence": found.items, "blockers": found.blockers}

        gate = desk.open(**now())
        assert gate.blockers[0].startswith("health_ok: no data: errors, latency, lock_waits")
        with pytest.raises(GateRefusal) as refused:
            desk.vote(gate, "po")
        assert refused.value.refusal.code == RefusalCode.BLOCKED
        look_on(monitor, clock, 2)
        gate = desk.book.renew(gate.gate, actor="test", **now())
        assert gate.blockers == ()
        gate = desk.vote(gate, "po")
        assert gate.state == "go"
        with broken(settings):
            look_on(monitor, clock, 2)
        gate = desk.book.renew(gate.gate, actor="test", **now())
        assert (gate.state, gate.votes, gate.blockers) == (
            "open",
            (),
            ("health_ok: open: errors (comporta health status)",),
        )
        same = desk.book.renew(gate.gate, actor="test", **now())
        assert same.revision == gate.revision


# -- the command line ------------------------------------------------------------------------------------------------

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COMPORTA_HOME", str(settings.home))
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", settings.control_dsn)
    monkeypatch.setenv("COMPORTA_TARGET_DSN", settings.target_dsn)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("getpass.getuser", lambda: "paula")
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_status_is_a_table_or_json_and_its_exit_status_tells(run: Run, monitor: Monitor, clock: Clock) -> None:
    never = run("status")
    assert (never.exit_code, "never looked at" in never.stdout) == (1, True)
    assert run("status", "--sampled").exit_code == 1
    assert run("baseline").exit_code == 0
    look_on(monitor, clock, 2)
    told = run("status")
    assert told.exit_code == 0
    assert "catalogue-2029: ok" in told.stdout
    assert "p95 of canaries" in told.stdout
    found = json.loads(run("status", "--json").stdout)
    assert (found["state"], len(found["breakers"])) == ("ok", 7)
    assert run("status", "--sampled").exit_code == 0
    clock.pass_time(5)
    assert run("status", "--sampled").exit_code == 1


def test_a_person_holds_and_releases_with_a_reason(run: Run, settings: Settings, release: Release) -> None:
    held = run("hold", "--reason", "a call from operations")
    assert (held.exit_code, "all breakers are held open by cli:paula" in held.stdout) == (0, True)
    assert run("hold", "disk", "--reason", "its own").exit_code == 0
    told = run("status")
    assert told.exit_code == 1
    assert "all breakers are held open by cli:paula: a call from operations" in told.stdout
    released = run("release", "--reason", "they are content")
    assert "held by cli:paula" in released.stdout
    assert "disk is held open by cli:paula: its own" in released.stdout
    assert [each.breaker for each in health.look(settings, release).holds] == ["disk"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hold",), "needs a person and a reason"),
        (("hold", "dsk", "--reason", "x"), 'no breaker "dsk"'),
        (("release", "--reason", "x"), "nobody holds all breakers"),
    ],
    ids=["no reason", "no such breaker", "nothing held"],
)
def test_what_is_refused_is_refused_in_words(run: Run, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(health.HealthError, match=said):
        run(*arguments)


def test_a_baseline_is_shown_and_recorded_and_taken_once_where_one_is_enough(
    run: Run, settings: Settings, release: Release
) -> None:
    first = run("baseline", "--json", "--if-none")
    assert set(json.loads(first.stdout)) == {"canaries", "signals", "target"}
    assert "has a baseline already" in run("baseline", "--if-none").stderr
    told = run("baseline").stdout
    assert "p95 ms" in told
    with Ledger(settings.control_dsn) as ledger:
        events = ledger.read(f"health/{release.name}")
    assert [(each.event_type, each.phase, each.actor) for each in events] == [
        ("health_baseline_taken", "baseline", "cli:paula")
    ] * 2
    with BreakerBook(settings.control_dsn) as book:
        last = book.baseline(release.name, json.loads(first.stdout)["target"])
        assert book.baseline(release.name, "4711/gis") is None
    assert last is not None
    assert last.event == events[-1].id


def test_a_hold_is_for_the_release_that_was_named(settings: Settings, release: Release) -> None:
    other = replace(release, name="other")
    health.hold(settings, other, actor="dba", reason="x", breaker="disk")
    assert health.look(settings, release).holds == ()
    assert health.release_hold(settings, other, actor="dba", reason="y", breaker="disk") == ("dba",)
