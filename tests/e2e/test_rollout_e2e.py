"""The release in a real Airflow, and its way back in a browser: clear ``OPT1.rollback``, then ``OPT1.apply``, under traffic."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.e2e.conftest import PICTURES, SignIn
from tests.e2e.rollout_stage import LONG_S, Stage, rollout_stage
from tests.postgres.conftest import Servers, servers  # noqa: F401 - a fixture of this module as well

from comporta.demo.traffic import Traffic, lost_writes
from comporta.ledger import EventType, Ledger
from comporta.local.private import PrivateAirflow
from comporta.proof import fingerprint
from comporta.rollout.standing import State
from comporta.validation.model import ORDER
from comporta.validation.runner import open_validation


@pytest.fixture(scope="module")
def stage(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:  # noqa: F811
    """OPT1 to OPT5, and what STAGE 3 says of rolling OPT1 back out of all five, proved in fact."""
    with rollout_stage(servers, tmp_path_factory.mktemp("rollout"), tiny=False) as made:
        config = made.ground.settings.release_path
        config.write_text(config.read_text().replace("orders: false", "orders: true"))
        made.ground.prove()
        with open_validation(
            made.ground.settings,
            run_id="s3",
            started=datetime.now(UTC),
            actor="test",
            say=made.ground.said.append,
            only=["OPT1"],
            scenarios=[ORDER],
        ) as validation:
            assert validation.run_all()[1] == "pass", "\n".join(made.ground.said)
        yield made


@pytest.fixture(scope="module")
def airflow(stage: Stage) -> PrivateAirflow:
    """The one that people sign in to."""
    return stage.airflow


def clear_in_the_browser(page: Page, run_id: str, task: str, note: str) -> None:
    """As a person does it: open the task, Clear, say why, Confirm. What the dialog preselects stays."""
    page.goto(f"/dags/rollout/runs/{run_id}/tasks/{task}")
    page.get_by_role("button", name="Press shift+c to clear").click(timeout=30_000)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Downstream")).to_be_visible()
    dialog.get_by_role("button", name="Note", exact=True).click()
    dialog.locator("[data-part=preview]").click()
    dialog.locator("textarea").fill(note)
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"clear-{task}.png")
    dialog.get_by_role("button", name="Confirm").click()
    expect(dialog).to_be_hidden(timeout=30_000)


def cleared(stage: Stage, run_id: str, task: str) -> bool:
    """Whether the ledger has the clear of a task. The dialog closes before Airflow has answered."""
    with Ledger(stage.airflow.control) as ledger:
        events = ledger.read(f"cleared/rollout/{run_id}", event_type=EventType.TASK_CLEARED)
    return any(task in event.payload["tasks"] for event in events)


@pytest.mark.timeout(1_200)
def test_clearing_opt1_brings_it_back_with_what_stands_on_it_and_clearing_its_apply_puts_it_in_again(
    stage: Stage, sign_in: SignIn
) -> None:
    before = stage.ground.look()
    with Traffic(stage.ground.target_dsn, 20, 20) as traffic:
        run_id = stage.begin()
        assert stage.airflow.wait_for_run("rollout", run_id, within_s=2 * LONG_S) == "success", stage.ground.states()
        assert set(stage.ground.states().values()) == {State.IN_PLACE}

        page = sign_in("dba", viewport={"width": 1400, "height": 900})
        clear_in_the_browser(page, run_id, "OPT1.rollback", "the map is slow")
        stage.airflow.wait_for("rollout", run_id, "OPT1.rollback", "success", within_s=LONG_S)
        assert stage.airflow.wait_for_run("rollout", run_id, within_s=LONG_S) == "success"
        page.reload()  # the page does not ask for notes again by itself
        expect(page.get_by_text("rolled back: dba cleared the task: the map is slow").first).to_be_visible(
            timeout=30_000
        )
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / "rolled-back.png")

        finished = stage.events(EventType.ROLLBACK_FINISHED)
        assert [event.phase for event in finished] == ["OPT4", "OPT2", "OPT1"]
        states = stage.ground.states()
        assert {name for name, state in states.items() if state == State.ROLLED_BACK} == {"OPT1", "OPT2", "OPT4"}
        assert {name for name, state in states.items() if state == State.IN_PLACE} == {"OPT3", "OPT5"}
        last = finished[-1].payload
        assert (last["restored"], last["proof"]) == (True, "OPT1 out of all \N{MIDDLE DOT} order")
        assert {event.payload["cleared_by"] for event in stage.events(EventType.ROLLBACK_STARTED)} == {"dba"}

        clear_in_the_browser(page, run_id, "OPT1.apply", "once more")
        stage.airflow.until(lambda: cleared(stage, run_id, "OPT1.apply"), "the clear", within_s=LONG_S)
        assert stage.airflow.wait_for_run("rollout", run_id, within_s=2 * LONG_S) == "success"
        assert set(stage.ground.states().values()) == {State.IN_PLACE}
        armed = [event.phase for event in stage.events(EventType.ROLLBACK_ARMED)]
        assert armed == ["OPT1", "OPT2", "OPT3", "OPT4", "OPT5"] * 2
        assert stage.airflow.states("rollout", run_id)["OPT1.rollback"] == "skipped"
    record = traffic.stop()
    assert record.acknowledged
    assert lost_writes(stage.ground.target_dsn, record) == []
    with stage.ground.run() as rollout:
        assert rollout.roll_back("OPT1", why="asked", because="the end") == ("OPT4", "OPT2", "OPT1")
        assert rollout.roll_back("OPT3", why="asked", because="the end") == ("OPT5", "OPT3")
    assert fingerprint.diff(before, stage.ground.look(), ignore=[fingerprint.SEQUENCE_PROGRESS]) == []
    assert lost_writes(stage.ground.target_dsn, record) == []
