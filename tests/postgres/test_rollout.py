"""Rolling out on a real target: what is refused, what is applied, what goes by itself, and what a person takes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import yaml
from tests.postgres.rollout_ground import Ground, make_ground

from comporta.gates import GateBook
from comporta.health import hold
from comporta.ledger import EventType
from comporta.local.databases import prepare_control
from comporta.postgres.stopping import StopSwitch
from comporta.proof import fingerprint
from comporta.rollout.errors import RolloutRefused, TargetBusy
from comporta.rollout.go import Go, use_or_ask
from comporta.rollout.standing import State
from comporta.rollout.target import claimed

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ground(target_dsn: str, control: str, tmp_path: Path) -> Ground:
    """The tiny release A, B (on A), C, proved on the target of now."""
    prepare_control(control, PROJECT)
    made = make_ground(tmp_path, target=target_dsn, control=control, tiny=True)
    made.prove()
    return made


def schema(ground: Ground) -> str:
    return ground.look().digest_without(*fingerprint.NOT_OF_THE_SCHEMA)


def test_a_release_is_carried_through_and_every_change_is_armed(ground: Ground) -> None:
    assert ground.roll_out(), "\n".join(ground.said)
    assert set(ground.states().values()) == {State.IN_PLACE}
    assert [event.phase for event in ground.events(EventType.ROLLBACK_ARMED)] == ["A", "B", "C"]


def test_a_rollback_takes_what_stands_on_it_first_leaves_the_rest_and_restores_the_target(ground: Ground) -> None:
    ground.roll_out("C")
    before = ground.look()
    ground.roll_out("A", "B")
    with ground.run() as rollout:
        assert rollout.roll_back("A", why="asked", because="slow") == ("B", "A")
    assert ground.states() == {"A": State.ROLLED_BACK, "B": State.ROLLED_BACK, "C": State.IN_PLACE}
    assert fingerprint.diff(before, ground.look()) == []
    assert [event.payload["restored"] for event in ground.events(EventType.ROLLBACK_FINISHED)] == [True, True]


def test_a_rollback_that_leaves_something_behind_is_told_with_its_name(ground: Ground) -> None:
    ground.script("rollback", "C").write_text("select 1;")
    ground.prove()
    ground.roll_out("C")
    with ground.run() as rollout:
        rollout.roll_back("C", why="asked", because="second thoughts")
        assert "catalogue.answer" in "".join(rollout.not_restored("C"))


def test_a_change_rolled_back_can_be_applied_again(ground: Ground) -> None:
    ground.roll_out()
    with ground.run() as rollout:
        rollout.roll_back("A", why="asked", because="slow")
    assert ground.roll_out()
    assert set(ground.states().values()) == {State.IN_PLACE}


def test_a_run_over_changes_in_place_touches_nothing(ground: Ground) -> None:
    ground.roll_out()
    ground.script("apply", "A").write_text("select 1/0;")
    ground.prove()
    assert ground.roll_out()
    assert [event.payload["already"] for event in ground.events(EventType.ROLLOUT_APPLY_FINISHED)][-3:] == [True] * 3


# -- refused before the first statement ------------------------------------------------------------------------------


def refused(ground: Ground, change: str = "A") -> str:
    """What an apply says that is refused; nothing may have changed on the target."""
    with ground.run() as rollout:
        go = ground.go(rollout)
        before = schema(ground)
        with pytest.raises(RolloutRefused) as info:
            rollout.apply(change, go)
    assert schema(ground) == before
    assert not [each for each in ground.events(EventType.ROLLOUT_APPLY_STARTED) if each.phase == change]
    assert ground.events(EventType.ROLLOUT_REFUSED)[-1].payload["reasons"] == list(info.value.reasons)
    return str(info.value)


def test_a_script_that_changed_since_its_proof_is_refused_by_name(ground: Ground) -> None:
    script = ground.script("rollback", "A")
    script.write_text(script.read_text() + "\n-- another comment")
    assert "the rollback script of A changed since" in refused(ground)


def test_a_change_that_was_never_proved_is_refused(ground: Ground) -> None:
    ground.script("apply", "C").write_text("create schema fresh;")
    ground.prove(["A", "B"])
    assert "the proof C · restore is stale: the apply script of C changed since" in refused(ground, "C")


def test_a_target_that_drifted_from_its_proof_is_refused_with_what_differs(ground: Ground) -> None:
    ground.sql("comment on table catalogue.layers is 'somebody was here'")
    assert "comment of table catalogue.layers" in refused(ground)


def test_a_target_that_drifted_after_a_change_was_applied_is_refused_with_what_differs(ground: Ground) -> None:
    ground.roll_out("A")
    ground.sql("grant select on catalogue.layers to public")
    assert "SELECT on table catalogue.layers to public: expected absent, found present" in refused(ground, "B")
    assert len(ground.events(EventType.ROLLOUT_DRIFTED)) == 1


def test_a_change_is_refused_while_what_it_requires_is_not_in_place(ground: Ground) -> None:
    assert "A is not applied: B requires it in place" in refused(ground, "B")


def test_a_run_without_a_go_is_refused(ground: Ground) -> None:
    with ground.run() as rollout, pytest.raises(RolloutRefused, match="no Go was given to this run"):
        rollout.apply("A", Go(ground.settings.require("control"), None, rollout.run))


def test_a_go_that_another_run_used_is_refused(ground: Ground) -> None:
    with ground.run() as first:
        used = ground.go(first)
    with ground.run() as second, pytest.raises(RolloutRefused, match="was used by cli-1, not by this run"):
        second.apply("A", Go(used.control_dsn, used.gate, second.run))


def test_a_go_that_was_taken_back_before_it_was_used_is_none(ground: Ground) -> None:
    control = ground.settings.require("control")
    with ground.run() as rollout:
        with pytest.raises(RolloutRefused, match=r"waits for 1 x PO \(po\)"):
            use_or_ask(ground.settings, rollout.release, run=rollout.run, login="ana")
        with GateBook(control) as book:
            (gate,) = book.list(states=("open",), name="rollout")
            book.vote(gate.gate, "go", actor="po", reason="read it", digest=gate.digest, via="test")
            book.revoke(gate.gate, actor="po", reason="second thoughts", via="test")
        with pytest.raises(RolloutRefused, match="no Go is in force"):
            use_or_ask(ground.settings, rollout.release, run=rollout.run, login="ana")


def test_a_go_that_expired_is_refused(ground: Ground, at: Callable[[timedelta], None]) -> None:
    with ground.run() as rollout:
        rollout.preflight()
        go = ground.go(rollout)
        rollout.apply("A", go)
        rollout.verify("A")
        rollout.watch("A")
        at(timedelta(hours=25))
        with pytest.raises(RolloutRefused, match="was in force until"):
            rollout.apply("C", go)


@pytest.fixture
def at(control: str) -> Callable[[timedelta], None]:
    """Move the control database's clock on."""

    def move(by: timedelta) -> None:
        seconds = by.total_seconds()
        with psycopg.connect(control, autocommit=True) as conn:
            conn.execute(
                "create or replace function comporta.now() returns timestamptz language sql volatile"
                f" set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + make_interval(secs => {seconds}) $$"
            )

    return move


def test_a_preflight_without_a_measured_peak_of_disk_stops(target_dsn: str, control: str, tmp_path: Path) -> None:
    prepare_control(control, PROJECT)
    ground = make_ground(tmp_path, target=target_dsn, control=control, tiny=True)
    with ground.run() as rollout, pytest.raises(RolloutRefused) as info:
        rollout.preflight()
    said = str(info.value)
    assert "no dry run of exactly these scripts measured how much disk they take" in said
    assert "proof A · restore: missing: never proved" in said


def test_a_preflight_notes_where_a_restore_would_stop(ground: Ground) -> None:
    with ground.run() as rollout:
        rollout.preflight()
    backup = ground.events(EventType.ROLLOUT_PREFLIGHTED)[-1].payload["backup"]
    assert backup["lsn"]
    assert backup["restore_point"] == "comporta cli-1"


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_verify_that_fails_three_times_rolls_the_change_back_and_stops_the_rest(ground: Ground) -> None:
    ground.script("verify", "B").write_text("do $$ begin raise exception 'two rows are missing'; end $$;")
    ground.prove()
    before = schema(ground)
    assert not ground.roll_out()
    assert ground.states() == {"A": State.IN_PLACE, "B": State.ROLLED_BACK, "C": State.ABSENT}
    assert [event.payload["attempt"] for event in ground.events(EventType.ROLLOUT_VERIFY_FAILED)] == [1, 2, 3]
    (started,) = ground.events(EventType.ROLLBACK_STARTED)
    assert (started.payload["why"], started.phase) == ("automatic", "B")
    assert "two rows are missing" in started.payload["because"]
    with ground.run() as rollout:
        rollout.roll_back("A", why="asked", because="all of it")
    assert schema(ground) == before


def test_an_apply_that_fails_half_way_is_rolled_back(ground: Ground) -> None:
    script = ground.script("apply", "A")
    script.write_text(script.read_text() + "\nselect 1/0;")
    ground.prove()
    before = schema(ground)
    assert not ground.roll_out()
    assert ground.states()["A"] == State.ROLLED_BACK
    assert schema(ground) == before
    (failed,) = ground.events(EventType.ROLLOUT_APPLY_FAILED)
    assert (failed.payload["sqlstate"], failed.payload["statement"], failed.payload["transient"]) == ("22012", 3, False)


def test_a_lock_that_is_not_had_is_tried_again(ground: Ground) -> None:
    config = ground.settings.release_path
    config.write_text(config.read_text().replace("lock_timeout_ms: 2000", "lock_timeout_ms: 100"))
    holder = psycopg.connect(ground.target_dsn)
    holder.execute("lock table catalogue.layers in access share mode")
    with ground.run() as rollout:
        rollout.preflight()
        go = ground.go(rollout)

        def let_go(text: str) -> None:
            ground.said.append(text)
            if text.startswith("again in"):
                holder.rollback()

        rollout.say = let_go
        assert rollout.carry(["A"], go)
    holder.close()
    (failed,) = ground.events(EventType.ROLLOUT_APPLY_FAILED)
    assert (failed.payload["sqlstate"], failed.payload["transient"]) == ("55P03", True)
    assert ground.events(EventType.ROLLOUT_APPLY_STARTED)[-1].payload["resumed"] is True


# -- by hand, and at once --------------------------------------------------------------------------------------------


def test_a_rollback_by_hand_is_noticed_explained_and_does_not_stop_what_comes(ground: Ground) -> None:
    ground.roll_out()
    ground.sql(ground.script("rollback", "B").read_text())
    with ground.run() as rollout:
        looked = rollout.look()
    assert looked.unexplained == ()
    assert ground.states()["B"] == State.ROLLED_BACK
    (found,) = ground.events(EventType.ROLLOUT_CHANGE_FOUND)
    assert (found.phase, found.payload["found"], found.payload["by"]) == ("B", "absent", "outside Comporta")
    with ground.run() as rollout:
        assert rollout.roll_back("A", why="asked", because="slow") == ("A",)
    assert ground.events(EventType.ROLLBACK_FINISHED)[-1].payload["restored"] is True


def test_an_apply_by_hand_is_noticed(ground: Ground) -> None:
    ground.roll_out()
    ground.sql(ground.script("rollback", "C").read_text())
    with ground.run() as rollout:
        rollout.look()
    ground.sql(ground.script("apply", "C").read_text())
    with ground.run() as rollout:
        assert rollout.look().unexplained == ()
    assert ground.states()["C"] == State.IN_PLACE


def test_drift_that_nothing_explains_is_told_and_is_not_held_against_a_rollback(ground: Ground) -> None:
    ground.roll_out()
    ground.sql("comment on table catalogue.layers is 'somebody was here'")
    with ground.run() as rollout:
        assert rollout.roll_back("C", why="asked", because="slow") == ("C",)
        assert rollout.not_restored("C") == []
    (drifted,) = ground.events(EventType.ROLLOUT_DRIFTED)
    assert "comment of table catalogue.layers" in drifted.payload["differences"][0]


def test_of_two_who_roll_back_at_once_one_does_it_and_the_other_is_told(ground: Ground) -> None:
    ground.roll_out()
    gone: dict[str, tuple[str, ...]] = {}
    both = threading.Barrier(2)

    def one(name: str) -> None:
        with ground.run(f"cli-{name}") as rollout:
            both.wait(30)
            gone[name] = rollout.roll_back(name, why="asked", because="slow")

    threads = [threading.Thread(target=one, args=(name,)) for name in ("A", "B")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(gone["A"] + gone["B"]) == ["A", "B"]
    assert len(ground.events(EventType.ROLLBACK_STARTED)) == 2


def test_who_finds_the_target_claimed_is_told_by_whom(ground: Ground) -> None:
    quick = {"say": ground.said.append, "stop": StopSwitch(), "patience_s": 0}
    with (
        claimed(ground.target_dsn, run="cli-first", **quick),
        pytest.raises(TargetBusy, match=r"is being changed by pid \d+ .comporta/cli-first"),
        claimed(ground.target_dsn, run="cli-second", **quick),
    ):
        raise AssertionError("two at once")


def test_the_record_of_another_target_says_nothing_about_this_one(ground: Ground) -> None:
    ground.roll_out("C")
    with ground.run() as rollout:
        rollout.record.__dict__["target"] = "7/elsewhere"
        assert rollout.record.board().standing == ()


# -- health ----------------------------------------------------------------------------------------------------------


def hold_health(ground: Ground) -> None:
    hold(ground.settings, ground.release, actor="ana", reason="the disk smells")


def test_nothing_is_applied_while_somebody_holds_the_breakers_open(ground: Ground) -> None:
    with ground.run() as rollout:
        rollout.preflight()
        go = ground.go(rollout)
        hold_health(ground)
        with pytest.raises(RolloutRefused, match="held open by ana: the disk smells"):
            rollout.apply("A", go)


def test_a_preflight_of_a_target_that_is_unwell_stops(ground: Ground) -> None:
    hold_health(ground)
    with ground.run() as rollout, pytest.raises(RolloutRefused, match=r"health of the target: bad: .*the disk smells"):
        rollout.preflight()


def test_no_data_is_not_well(ground: Ground) -> None:
    config = ground.settings.release_path
    release = yaml.safe_load(config.read_text())
    release["health"]["signals"]["sql"] = {"mystery": {"query": "select null::integer", "at_most": 1}}
    config.write_text(yaml.safe_dump(release, sort_keys=False))
    with ground.run() as rollout:
        go = ground.go(rollout)
        with pytest.raises(RolloutRefused, match="the health of the target is no data: mystery"):
            rollout.apply("A", go)


def test_a_breaker_that_opens_while_a_change_is_watched_rolls_it_back_and_stops_the_rest(ground: Ground) -> None:
    config = ground.settings.release_path
    config.write_text(config.read_text().replace("soak_s: 0.3", "soak_s: 600"))
    before = schema(ground)
    with ground.run() as rollout:
        rollout.preflight()
        go = ground.go(rollout)

        def hear(text: str) -> None:
            ground.said.append(text)
            if text.startswith("A: watches"):
                hold_health(ground)

        rollout.say = hear
        assert not rollout.carry(["A", "B"], go)
    assert ground.states() == {"A": State.ROLLED_BACK, "B": State.ABSENT, "C": State.ABSENT}
    (failed,) = ground.events(EventType.ROLLOUT_WATCH_FAILED)
    assert "held open by ana" in failed.payload["reasons"][0]
    assert schema(ground) == before


def test_a_breaker_that_opens_while_a_script_runs_cancels_its_statement(ground: Ground) -> None:
    script = ground.script("apply", "A")
    script.write_text(script.read_text() + "\nselect pg_sleep(600);")
    ground.prove()
    before = schema(ground)
    with ground.run() as rollout:
        rollout.preflight()
        go = ground.go(rollout)

        def hear(text: str) -> None:
            ground.said.append(text)
            if "pg_sleep" in text and "3/3" in text:
                hold_health(ground)

        rollout.say = hear
        assert not rollout.carry(["A"], go)
    (failed,) = ground.events(EventType.ROLLOUT_APPLY_FAILED)
    assert "was stopped in the middle" in failed.payload["error"]
    assert (ground.states()["A"], schema(ground)) == (State.ROLLED_BACK, before)
