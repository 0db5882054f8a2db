"""Breakers: one state for all processes, which only samples, probes and people change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

import psycopg
import pytest
from tests.postgres.health_desk import PLAN, RELEASE, TARGET, HealthDesk, open_desk, sample

from comporta.health import BreakerBook, HealthError, NotHeld
from comporta.ledger import GuardedStream, Ledger, NewEvent

OTHER = "4712/gis"


@pytest.fixture
def desk(control: str) -> Iterator[HealthDesk]:
    with open_desk(control) as made:
        yield made


# -- closed ----------------------------------------------------------------------------------------------------------


def test_a_breaker_that_nobody_reported_on_has_no_data(desk: HealthDesk) -> None:
    assert (desk.look().state, desk.status().state, desk.position()) == ("no data", "no data", "closed")


def test_good_samples_enough_of_them_are_good(desk: HealthDesk) -> None:
    desk.see("ok", "ok", "ok")
    assert desk.status().state == "no data"
    desk.see("ok")
    assert desk.status().state == "ok"


@pytest.mark.parametrize(
    ("seen", "position"),
    [
        (["bad", "bad", "bad"], "closed"),
        (["bad", "bad", "bad", "no data", "no data"], "closed"),
        (["bad", "bad", "ok", "ok"], "open"),
        (["ok", "ok", "ok", "bad"], "closed"),
        (["ok", "ok", "bad", "bad"], "open"),
        (["no data"] * 10, "closed"),
        (["no data", "no data", "ok", "ok", "bad", "bad"], "open"),
    ],
    ids=["too few", "too few with data", "half", "a quarter", "half, at the end", "nothing seen", "half of those with data"],
)  # fmt: skip
def test_it_opens_when_the_share_of_bad_samples_is_reached(desk: HealthDesk, seen: list[str], position: str) -> None:
    desk.see(*seen)  # type: ignore[arg-type]
    assert desk.position() == position


def test_what_is_older_than_the_window_does_not_count(desk: HealthDesk) -> None:
    desk.see("bad", "bad", "bad")
    desk.pass_time(PLAN.window_s)
    desk.see("ok", "ok", "ok", "bad")
    found = desk.status()
    assert (found.position, found.n, found.bad) == ("closed", 4, 1)


def test_the_window_slides(desk: HealthDesk) -> None:
    """Of two bad samples among four, the first has left by the time of the fourth."""
    desk.see("bad")
    desk.see("ok", "ok", every_s=9)
    desk.see("bad", every_s=2)
    assert (desk.position(), desk.status().bad) == ("closed", 1)


def test_it_opens_when_the_share_of_slow_runs_is_reached_though_no_sample_was_bad(desk: HealthDesk) -> None:
    desk.see("ok", "ok", "ok", runs=4, slow=2)
    assert desk.position() == "closed"
    reported = desk.see("ok", runs=4, slow=2)
    assert reported is not None
    assert [(each.breaker, each.state, each.reason) for each in reported.changed] == [
        ("latency", "open", "8 of 16 canary runs were slow")
    ]


def test_an_opening_says_why_and_on_what(desk: HealthDesk) -> None:
    desk.see("bad", "bad", "ok", "ok", why="p95 is 900 ms", value=900.0, bound=300.0)
    (event,) = desk.events()
    assert (event.event_type, event.phase, event.workflow, event.actor) == (
        "breaker_opened",
        "latency",
        "health",
        "one",
    )
    assert event.payload == {
        "since": "2026-11-24T10:00:04.000000+00:00",
        "reason": "2 of 4 samples were bad, the last: p95 is 900 ms",
        "window": {"n": 4, "bad": 2, "no_data": 0, "runs": 0, "slow": 0},
        "last": 900.0,
        "limit": 300.0,
        "target": TARGET,
    }  # fmt: skip
    assert (
        desk.look().why[0]
        == "latency: open since 2026-11-24 10:00:04 UTC: 2 of 4 samples were bad, the last: p95 is 900 ms"
    )


def test_breakers_do_not_touch_each_other(desk: HealthDesk) -> None:
    desk.open("disk")
    assert (desk.position("disk"), desk.position("latency")) == ("open", "closed")


def test_a_target_that_was_made_anew_starts_without_a_past(desk: HealthDesk) -> None:
    desk.open()
    desk.book.become_sampler(RELEASE, OTHER, "one", PLAN)
    desk.book.report(RELEASE, OTHER, "one", [sample("ok")], PLAN)
    assert (desk.look().target, desk.position()) == (OTHER, "closed")
    assert desk.status().state == "no data"


def test_what_was_good_is_no_data_once_nobody_looks_any_more(desk: HealthDesk) -> None:
    desk.see("ok", "ok", "ok", "ok")
    desk.pass_time(PLAN.stale_s - 0.1)
    assert desk.status().state == "ok"
    desk.pass_time(0.1)
    assert desk.status().state == "no data"


def test_one_look_is_reported_as_a_whole(desk: HealthDesk) -> None:
    with pytest.raises(HealthError, match="nothing was recorded"):
        desk.report(sample("ok"), sample("splendid", "disk"))  # type: ignore[arg-type]
    assert desk.book.samples(RELEASE) == []


def test_samples_are_kept_for_as_long_as_the_release_says(desk: HealthDesk) -> None:
    desk.see("ok", "ok")
    desk.pass_time(PLAN.keep_h * 3600)
    desk.see("ok")
    assert len(desk.book.samples(RELEASE)) == 1


def test_samples_can_be_read_by_time(desk: HealthDesk) -> None:
    desk.see("ok", "bad", "no data", value=3.0, detail={"ms": {"a": 3}})
    since = datetime(2026, 11, 24, 10, 0, 2, tzinfo=UTC)
    found = desk.book.samples(RELEASE, since=since, target=TARGET)
    assert [(each.verdict, each.value, each.detail) for each in found] == [
        ("bad", 3.0, {"ms": {"a": 3}}),
        ("no_data", 3.0, {"ms": {"a": 3}}),
    ]
    assert desk.book.samples(RELEASE, until=since, target=OTHER) == []


# -- open and half-open ----------------------------------------------------------------------------------------------


def test_nobody_probes_a_closed_breaker_or_one_that_is_open_not_long_enough(desk: HealthDesk) -> None:
    assert not desk.admit()
    desk.open()
    desk.pass_time(PLAN.open_s - 0.1)
    assert not desk.admit()
    assert desk.position() == "open"
    desk.pass_time(0.1)
    assert desk.admit()
    assert desk.position() == "half-open"
    assert desk.status().state == "bad"


def test_good_probes_in_a_row_close_it(desk: HealthDesk) -> None:
    desk.half_open()
    assert desk.probe("ok") == "half-open"
    assert desk.probe("ok") == "closed"
    assert desk.event_types() == ["breaker_opened", "breaker_probing", "breaker_closed"]
    assert desk.events()[-1].payload["probes"] == 2


def test_a_bad_probe_opens_it_again_and_the_time_starts_anew(desk: HealthDesk) -> None:
    desk.half_open()
    desk.probe("ok")
    assert desk.probe("bad") == "open"
    assert desk.events()[-1].payload["reason"] == "bad while it was half-open: it was bad"
    assert not desk.admit()
    desk.pass_time(PLAN.open_s)
    assert desk.probe("ok") == "half-open"


def test_a_probe_without_data_neither_closes_nor_opens_and_breaks_the_row(desk: HealthDesk) -> None:
    desk.half_open()
    assert desk.probe("ok") == "half-open"
    assert desk.probe("no data") == "half-open"
    assert desk.probe("ok") == "half-open"
    assert desk.probe("ok") == "closed"


def test_samples_that_are_no_probes_do_not_close_it_but_a_bad_one_opens_it_again(desk: HealthDesk) -> None:
    desk.half_open()
    desk.probe("ok")
    desk.see("ok", "ok", "ok")
    assert desk.position() == "half-open"
    desk.see("bad")
    assert desk.position() == "open"


def test_what_opened_it_does_not_open_it_again_once_it_closed(desk: HealthDesk) -> None:
    """The bad samples are still in the window, but from before the probes."""
    desk.plan = PLAN.model_copy(update={"open_s": 1})
    desk.half_open()
    desk.probe("ok")
    desk.probe("ok")
    desk.see("ok", "ok")
    found = desk.status()
    assert (found.position, found.state, found.n, found.bad) == ("closed", "ok", 4, 0)


def test_one_process_at_a_time_probes_and_the_next_as_soon_as_it_has_reported(desk: HealthDesk) -> None:
    desk.half_open()
    assert [desk.admit("one"), desk.admit("two"), desk.admit("one")] == [True, False, True]
    desk.report(sample("ok", probe=True), holder="one")
    assert [desk.admit("two"), desk.admit("one")] == [True, False]


def test_a_prober_that_died_is_followed_by_another_once_its_time_is_over(desk: HealthDesk) -> None:
    desk.half_open()
    assert desk.admit("dead")
    desk.pass_time(PLAN.stale_s - 0.1)
    assert not desk.admit("two")
    desk.pass_time(0.1)
    assert desk.admit("two")
    assert desk.events()[-1].payload["instead_of"] == "dead"
    since = desk.status().since
    desk.report(sample("bad", probe=True), holder="dead")
    assert (desk.position(), desk.status().since) == ("half-open", since), "too late: it is not the dead one's to say"
    assert desk.probe("ok", "two") == "half-open"
    assert desk.probe("ok", "two") == "closed"


def test_a_probe_of_somebody_who_was_not_admitted_is_none(desk: HealthDesk) -> None:
    desk.half_open()
    assert desk.admit("one")
    reported = desk.report(sample("ok", probe=True), holder="stranger")
    assert (reported.sampling, reported.taken) == (False, ())


ASKS = """
import sys
from comporta.health import BreakerBook
from comporta.release.health import HealthPlan
dsn, plan = sys.argv[1], HealthPlan.model_validate_json(sys.argv[2])
with BreakerBook(dsn) as book:
    print("ready", flush=True)
    sys.stdin.readline()
    print(book.admit("catalogue", "4711/gis", "latency", sys.argv[3], plan), flush=True)
    sys.stdin.readline()
"""


@contextmanager
def process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a process of its own; it is killed at the end."""
    made = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        yield made
    finally:
        made.kill()
        with suppress(BrokenPipeError):
            made.communicate()


def said(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    return one.stdout.readline().strip()


def tell(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


@pytest.mark.timeout(180)
def test_of_twenty_processes_that_ask_at_once_exactly_one_probes(desk: HealthDesk) -> None:
    desk.half_open()
    with processes(20, desk) as asking:
        assert [said(each) for each in asking] == ["ready"] * 20
        for each in asking:
            tell(each)
        assert sorted(said(each) for each in asking) == ["False"] * 19 + ["True"]
    assert desk.event_types() == ["breaker_opened", "breaker_probing"]


@contextmanager
def processes(count: int, desk: HealthDesk) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(process(ASKS, desk.dsn, PLAN.model_dump_json(), f"asker {number}"))
            for number in range(count)
        ]


def test_a_prober_that_is_killed_leaves_nothing_to_clear_away(desk: HealthDesk) -> None:
    desk.half_open()
    with process(ASKS, desk.dsn, PLAN.model_dump_json(), "dead") as prober:
        assert said(prober) == "ready"
        tell(prober)
        assert said(prober) == "True"
        prober.kill()
        prober.wait()
    assert not desk.admit("two")
    desk.pass_time(PLAN.stale_s)
    assert desk.admit("two")


# -- sampling --------------------------------------------------------------------------------------------------------


def test_one_process_samples_and_another_when_it_has_ended(desk: HealthDesk) -> None:
    assert not desk.book.become_sampler(RELEASE, TARGET, "two", PLAN)
    assert desk.book.become_sampler(RELEASE, OTHER, "two", PLAN), "another target is another matter"
    assert desk.report(sample("ok"), holder="two").taken == ()
    desk.book.stop_sampling(RELEASE, TARGET, "two")
    assert not desk.book.become_sampler(RELEASE, TARGET, "two", PLAN), "only one's own"
    desk.book.stop_sampling(RELEASE, TARGET, "one")
    assert desk.report(sample("ok"), holder="two").taken == (), "nobody samples without having asked"
    assert desk.book.become_sampler(RELEASE, TARGET, "two", PLAN)
    assert desk.report(sample("ok"), holder="two").taken == ("latency",)


def test_a_report_extends_the_time_of_who_samples(desk: HealthDesk) -> None:
    for _ in range(4):
        desk.pass_time(PLAN.stale_s - 1)
        assert desk.report(sample("ok"), holder="one").sampling
    assert not desk.book.become_sampler(RELEASE, TARGET, "two", PLAN)
    desk.pass_time(PLAN.stale_s)
    assert desk.book.become_sampler(RELEASE, TARGET, "two", PLAN)


def test_a_probe_counts_though_another_process_samples(desk: HealthDesk) -> None:
    desk.half_open()
    assert desk.admit("prober")
    reported = desk.report(sample("ok", probe=True), sample("ok", "disk"), holder="prober")
    assert (reported.sampling, reported.taken) == (False, ("latency",))


# -- people ----------------------------------------------------------------------------------------------------------


def test_a_hold_lies_over_whatever_was_found_until_a_person_ends_it(desk: HealthDesk) -> None:
    desk.book.hold(RELEASE, "all", actor="dba", reason="a call from operations")
    desk.see("ok", "ok", "ok", "ok")
    desk.pass_time(10 * PLAN.open_s)
    desk.see("ok", "ok", "ok", "ok")
    assert (desk.look().state, desk.status().state) == ("bad", "ok")
    assert desk.look().why[0] == "all breakers are held open by dba: a call from operations"
    assert desk.book.release(RELEASE, "all", actor="po", reason="operations are content") == ("dba",)
    assert not any("held" in line for line in desk.look().why)
    held, released = desk.events()
    assert (held.event_type, held.phase, held.actor) == ("breaker_held", "all", "dba")
    assert (released.event_type, released.actor, released.payload["held_by"]) == ("breaker_released", "po", "dba")


def test_good_probes_do_not_end_a_hold(desk: HealthDesk) -> None:
    desk.half_open()
    desk.book.hold(RELEASE, "latency", actor="dba", reason="not before I have looked")
    desk.probe("ok")
    assert desk.probe("ok") == "closed"
    assert desk.status().state == "bad"
    desk.book.release(RELEASE, "latency", actor="dba", reason="looked")
    desk.see("ok", "ok", "ok", "ok")
    assert desk.status().state == "ok"


def test_releasing_a_hold_does_not_close_what_the_machine_opened(desk: HealthDesk) -> None:
    desk.open()
    desk.book.hold(RELEASE, "latency", actor="dba", reason="x")
    desk.book.release(RELEASE, "latency", actor="dba", reason="y")
    assert desk.position() == "open"


def test_a_hold_is_for_every_target_of_the_release(desk: HealthDesk) -> None:
    desk.book.hold(RELEASE, "latency", actor="dba", reason="x")
    desk.book.become_sampler(RELEASE, OTHER, "one", PLAN)
    desk.book.report(RELEASE, OTHER, "one", [sample("ok")], PLAN)
    assert (desk.look().target, desk.status().state) == (OTHER, "bad")


def test_each_hold_is_its_own_and_a_release_names_all_that_it_ends(desk: HealthDesk) -> None:
    for login in ("dba", "po"):
        desk.pass_time(1)
        desk.book.hold(RELEASE, "all", actor=login, reason=f"{login} says so")
    desk.book.hold(RELEASE, "disk", actor="dba", reason="its own")
    assert [hold.held_by for hold in desk.look().holds if hold.breaker == "all"] == ["dba", "po"]
    assert desk.book.release(RELEASE, "all", actor="po", reason="over") == ("dba", "po")
    assert [(hold.breaker, hold.held_by) for hold in desk.look().holds] == [("disk", "dba")]


def test_a_hold_and_a_release_need_a_reason_and_a_release_needs_a_hold(desk: HealthDesk) -> None:
    with pytest.raises(HealthError, match="needs a person and a reason"):
        desk.book.hold(RELEASE, "all", actor="dba", reason=" ")
    with pytest.raises(NotHeld, match="nobody holds all breakers of release catalogue"):
        desk.book.release(RELEASE, "all", actor="dba", reason="x")
    desk.book.hold(RELEASE, "all", actor="dba", reason="x")
    with pytest.raises(HealthError, match="needs a person and a reason"):
        desk.book.release(RELEASE, "all", actor="dba", reason="")
    with pytest.raises(NotHeld, match="nobody holds breaker disk"):
        desk.book.release(RELEASE, "disk", actor="dba", reason="x")
    assert desk.event_types() == ["breaker_held"]


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_the_live_tables_are_what_the_events_say(desk: HealthDesk) -> None:
    desk.half_open()
    desk.open("disk")
    desk.probe("ok")
    desk.book.hold(RELEASE, "all", actor="dba", reason="x")
    desk.book.hold(RELEASE, "disk", actor="po", reason="y")
    desk.book.release(RELEASE, "all", actor="dba", reason="z")
    assert desk.differences() == []
    desk.probe("ok")
    assert (desk.position(), desk.position("disk")) == ("closed", "open")
    assert desk.differences() == []
    desk.owner.execute("update comporta.breaker set state = 'closed' where breaker = 'disk'")
    assert desk.differences() == [f"breakers: {RELEASE}, {TARGET}, disk: state is 'closed', expected 'open'"]


def test_nobody_writes_breakers_past_their_functions(desk: HealthDesk) -> None:
    forged = NewEvent(event_type="breaker_closed", feature=RELEASE, actor="po", workflow="health", phase="latency")
    with Ledger(desk.dsn) as ledger:
        with pytest.raises(GuardedStream, match="belongs to breakers"):
            ledger.append(f"health/{RELEASE}", [forged])
        ledger.append("elsewhere", [forged])
        for statement in (
            "update comporta.breaker set state = 'closed'",
            "delete from comporta.breaker_hold",
            "delete from comporta.breaker_sample",
            "delete from comporta.health_lease",
            "select comporta.breaker_record('catalogue', '4711/gis', 'latency', 'breaker_closed', 'x', '{}')",
            "select comporta.breaker_hold_record('catalogue', '[]')",
            "select comporta.health_take('catalogue', '4711/gis', 'latency', 'x', 60)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ledger.connection.execute(statement.encode())
    assert desk.differences() == []


def test_functions_that_run_with_the_owners_rights_find_only_what_is_meant(desk: HealthDesk) -> None:
    unsafe = desk.owner.execute(
        "select proname from pg_proc join pg_namespace n on n.oid = pronamespace where nspname = 'comporta' and prosecdef"
        " and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']"
    ).fetchall()
    public = desk.owner.execute(
        "select proname from pg_proc join pg_namespace n on n.oid = pronamespace where nspname = 'comporta' and prosecdef"
        " and has_function_privilege('pg_read_all_stats', pg_proc.oid, 'execute')"
    ).fetchall()
    assert (unsafe, public) == ([], [])


def test_a_control_database_without_breakers_is_named(control: str) -> None:
    with psycopg.connect(control, autocommit=True) as owner:
        owner.execute("select 1")
        with BreakerBook(owner) as book, pytest.raises(HealthError, match="has no breakers"):
            book.look(RELEASE, PLAN)
