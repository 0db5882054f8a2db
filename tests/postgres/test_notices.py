"""Mail about gates, against a real mail server on loopback: nothing is lost, nothing is sent twice, and no gate waits for it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from psycopg.conninfo import conninfo_to_dict
from tests.postgres.gate_desk import FOUR, ONE, Desk, open_desk, request
from typer.testing import CliRunner

from comporta.gates import GateRequest
from comporta.gates.policy import GatesFile, load_policy
from comporta.health import BreakerBook
from comporta.health.sample import Sample
from comporta.ledger import Ledger, NewEvent
from comporta.notices.backoff import Patience
from comporta.notices.commands import app as mail_commands
from comporta.notices.errors import MailDeferred, MailRefused, MailServerAway
from comporta.notices.letters import Pages
from comporta.notices.model import Mail, MailState
from comporta.notices.outbox import Delivery, Outbox, look_around
from comporta.release.health import HealthPlan

HOUR = 3600
PAGES = Pages("http://127.0.0.1:8080")
Post = Callable[[], AbstractContextManager[Callable[[Mail], None]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MailServer:
    """Takes mail, or answers as a test tells it: by address, or for all."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, EmailMessage]] = []
        self.answers: dict[str, str] = {}
        self.silent_s = 0.0
        self.port = free_port()
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if answer := self.answers.get(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self.silent_s:
            await asyncio.sleep(self.silent_s)
            return "451 too late"
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken += [(address, message) for address in envelope.rcpt_tos]
        return "250 taken"

    def subjects(self, address: str) -> list[str]:
        return [str(message["Subject"]) for to, message in self.taken if to == address]


@pytest.fixture
def server() -> Iterator[MailServer]:
    made = MailServer()
    made.controller.start()
    yield made
    made.controller.stop()


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Airflow's SMTP provider as the task uses it; Airflow itself has nothing but an empty home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        from comporta.orchestration.mail import post as opened

        yield opened


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Points the connection ``smtp_default`` at a port; a server that is slow is given up after a second."""

    def to(port: int) -> None:
        uri = f"smtp://127.0.0.1:{port}/?disable_ssl=true&disable_tls=true&timeout=1&from_email=comporta%40localhost"
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", uri)

    return to


@pytest.fixture
def send(post: Post, server: MailServer, connect: Callable[[int], None]) -> Iterator[Callable[[Mail], None]]:
    connect(server.port)
    with post() as sending:
        yield sending


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


@pytest.fixture
def outbox(desk: Desk, control: str) -> Iterator[Outbox]:
    with Outbox(control) as made:
        yield made


@pytest.fixture(scope="module")
def directory(project: Path) -> GatesFile:
    return load_policy(project / "config" / "gates.yaml")


def readiness(owner: str, login: str, nth: int = 0) -> GateRequest:
    from comporta.gates import Need, Policy

    return request(
        "readiness",
        asker=f"daily_sync/run1/collect_readiness/{nth}",
        kind="readiness",
        question=f"Is {owner} ready?",
        policy=Policy((Need(owner),), {owner: (login,)}),
    )


def states(outbox: Outbox) -> dict[str, str]:
    return {mail.recipient: mail.state for mail in outbox.mails(limit=500)}


def test_an_opened_gate_is_told_to_those_who_may_decide_it(
    desk: Desk, outbox: Outbox, directory: GatesFile, server: MailServer, send: Callable[[Mail], None]
) -> None:
    gate = desk.open(policy=FOUR)
    assert outbox.take_up(directory, PAGES) == 4
    done = outbox.deliver(send)
    assert (len(done.sent), done.put_off, done.failed) == (4, [], [])
    assert {to for to, _ in server.taken} == {f"{who}@localhost" for who in ("cfo", "po", "compliance", "security")}
    _, message = server.taken[0]
    assert message["Subject"] == f"[Comporta] Go or No-Go? rollout, by 12:00 UTC (gate {gate.gate})"
    assert message["From"] == "comporta@localhost"
    assert message["Auto-Submitted"] == "auto-generated"


def test_a_mail_carries_text_and_html_with_the_evidence_and_the_way_to_the_page(
    desk: Desk, outbox: Outbox, directory: GatesFile, server: MailServer, send: Callable[[Mail], None]
) -> None:
    desk.open(policy=ONE, question="May <b>ação</b> go?")
    outbox.take_up(directory, PAGES)
    outbox.deliver(send)
    message = server.taken[0][1]
    assert message.get_content_type() == "multipart/alternative"
    plain, html = (part.get_content() for part in message.iter_parts())
    for body in (plain, html):
        assert "STAGE 3 report" in body
        assert "http://127.0.0.1:8080/comporta/reports/2026-11-24/stage3-x/report.html" in body
        assert "http://127.0.0.1:8080/comporta/gates" in body
        assert "silence is never a Go" in body
    assert "May <b>ação</b> go?" in plain
    assert "May &lt;b&gt;ação&lt;/b&gt; go?" in html


def test_a_silent_owner_becomes_a_blocker_after_two_hours_with_two_reminders_sent(
    desk: Desk,
    outbox: Outbox,
    directory: GatesFile,
    server: MailServer,
    post: Post,
    connect: Callable[[int], None],
) -> None:
    """Nobody looks at the gate: the post alone keeps the time."""
    connect(server.port)
    asked = desk.book.open("sync/dba", readiness("DBA", "dba"), actor="airflow:scheduler")
    seen: list[tuple[int, str, int]] = []
    for minute in range(0, 131, 10):
        look_around(outbox, desk.book, directory, PAGES)
        with post() as sending:
            outbox.deliver(sending)
        seen.append((minute, desk.book.get(asked.gate).word, len(server.subjects("dba@localhost"))))
        desk.pass_time(600)
    assert [each for each in seen if each[0] in (0, 50, 60, 80, 90, 110, 120)] == [
        (0, "open", 1),
        (50, "open", 1),
        (60, "open", 2),
        (80, "open", 2),
        (90, "open", 3),
        (110, "open", 3),
        (120, "Blocker (silent)", 4),
    ]
    assert [subject.removeprefix("[Comporta] ") for subject in server.subjects("dba@localhost")] == [
        f"Ready or Blocker? readiness of DBA, by 12:00 UTC (gate {asked.gate})",
        f"Reminder 1: Ready or Blocker? readiness of DBA, by 12:00 UTC (gate {asked.gate})",
        f"Reminder 2: Ready or Blocker? readiness of DBA, by 12:00 UTC (gate {asked.gate})",
        f"Blocker by silence: readiness of DBA (gate {asked.gate})",
    ]
    assert server.subjects("po@localhost") == [f"[Comporta] Blocker by silence: readiness of DBA (gate {asked.gate})"]


def test_who_answered_is_not_reminded(desk: Desk, outbox: Outbox, directory: GatesFile) -> None:
    asked = desk.book.open("sync/dba", readiness("DBA", "dba"), actor="airflow:scheduler")
    desk.vote(asked, "dba", reason="all scripts proved")
    desk.pass_time(3 * HOUR)
    look_around(outbox, desk.book, directory, PAGES)
    assert [mail.notice for mail in outbox.mails()] == ["decided"]


def test_a_request_that_was_answered_before_it_was_told_is_not_told(
    desk: Desk, outbox: Outbox, directory: GatesFile
) -> None:
    """The post was away for a while: people hear the answer, and are not asked for it."""
    gate = desk.open(policy=FOUR)
    desk.vote(gate, "cfo", "no_go", "the window is too short")
    outbox.take_up(directory, PAGES)
    assert {mail.notice for mail in outbox.mails()} == {"no_go"}
    assert all("the window is too short" in mail.plain for mail in outbox.mails())


def test_a_mail_server_that_is_down_loses_nothing_and_holds_up_no_decision(
    desk: Desk,
    outbox: Outbox,
    directory: GatesFile,
    server: MailServer,
    post: Post,
    connect: Callable[[int], None],
) -> None:
    connect(free_port())
    gate = desk.open(policy=ONE)
    outbox.take_up(directory, PAGES)
    for _ in range(20):
        with post() as sending:
            done = outbox.deliver(sending)
        assert (done.sent, done.failed) == ([], [])
        desk.pass_time(180)
    assert desk.vote(gate, "po").state == "go"
    outbox.take_up(directory, PAGES)
    waiting = {mail.message_id for mail in outbox.mails(MailState.WAITING)}
    assert waiting
    assert "refused" in outbox.mails()[-1].said
    connect(server.port)
    desk.pass_time(HOUR)
    with post() as sending:
        done = outbox.deliver(sending)
    assert {message["Message-ID"] for _, message in server.taken} == waiting
    assert len(done.sent) == len(waiting) == len(server.taken)
    assert outbox.mails(MailState.WAITING) == []


def test_a_server_that_is_away_is_asked_once_a_round_and_not_once_a_mail(
    desk: Desk, outbox: Outbox, directory: GatesFile
) -> None:
    """A slow server costs its time-out at each try: twenty mails must not cost twenty of them."""
    tries: list[str] = []

    def away(mail: Mail) -> None:
        tries.append(mail.recipient)
        raise MailServerAway("timed out")

    desk.open(policy=FOUR)
    outbox.take_up(directory, PAGES)
    done = outbox.deliver(away)
    assert (len(tries), len(done.put_off)) == (1, 4)
    assert len({mail.next_due for mail in outbox.mails()}) == 4


def test_a_slow_server_is_given_up_after_its_time_out_and_tried_again(
    desk: Desk,
    outbox: Outbox,
    directory: GatesFile,
    server: MailServer,
    post: Post,
    connect: Callable[[int], None],
) -> None:
    connect(server.port)
    desk.open(policy=ONE)
    outbox.take_up(directory, PAGES)
    server.silent_s = 3
    with post() as sending:
        done = outbox.deliver(sending)
    assert (done.sent, done.failed, len(done.put_off)) == ([], [], 1)
    assert "timed out" in outbox.mails()[0].said
    server.silent_s = 0
    desk.pass_time(120)
    with post() as sending:
        assert len(outbox.deliver(sending).sent) == 1
    assert len(server.subjects("po@localhost")) == 1


def test_a_mail_that_the_server_puts_off_is_tried_again_and_the_others_go_out(
    desk: Desk, outbox: Outbox, directory: GatesFile, server: MailServer, send: Callable[[Mail], None]
) -> None:
    server.answers["cfo@localhost"] = "451 greylisted, come back later"
    desk.open(policy=FOUR)
    outbox.take_up(directory, PAGES)
    done = outbox.deliver(send)
    assert (len(done.sent), len(done.put_off), done.failed) == (3, 1, [])
    assert states(outbox) == {"cfo": "waiting", "po": "sent", "compliance": "sent", "security": "sent"}
    assert outbox.deliver(send) == Delivery()  # not before its pause is over
    server.answers.clear()
    desk.pass_time(60)
    assert len(outbox.deliver(send).sent) == 1
    assert sorted(to for to, _ in server.taken) == sorted(f"{who}@localhost" for who in states(outbox))


def test_a_refused_address_fails_alone_and_the_next_in_line_is_told(
    desk: Desk,
    outbox: Outbox,
    directory: GatesFile,
    server: MailServer,
    send: Callable[[Mail], None],
    control: str,
) -> None:
    server.answers["compliance@localhost"] = "550 <compliance@localhost> no such user here"
    gate = desk.open(policy=FOUR)
    outbox.take_up(directory, PAGES)
    done = outbox.deliver(send)
    assert (len(done.sent), len(done.failed)) == (3, 1)
    failed = outbox.mails(MailState.FAILED)[0]
    assert (failed.recipient, failed.tries) == ("compliance", 1)
    with Ledger(control) as ledger:
        event = ledger.latest(1, event_type="mail_failed")[0]
    assert event.payload["recipient"] == "compliance"
    assert "550" in event.payload["said"]
    assert "@" not in event.payload["said"], "an address in the ledger could never be erased"
    # Reminders go to whoever is silent: that is the next line of the matrix.
    outbox.take_up(directory, PAGES)
    outbox.deliver(send)
    told = [to for to, message in server.taken if "was not reached" in str(message["Subject"])]
    assert sorted(told) == ["cfo@localhost", "po@localhost", "security@localhost"]
    assert desk.book.get(gate.gate).state == "open"


def test_a_mail_about_somebody_who_was_not_reached_starts_no_chain(
    desk: Desk, outbox: Outbox, directory: GatesFile
) -> None:
    def refuse(mail: Mail) -> None:
        raise MailRefused("550 no")

    desk.open(policy=FOUR)
    for _ in range(6):
        outbox.take_up(directory, PAGES)
        outbox.deliver(refuse)
    assert {mail.notice for mail in outbox.mails(limit=500)} == {"opened", "unreached"}


def test_a_mail_that_is_put_off_too_often_and_for_too_long_has_failed_until_somebody_retries(
    desk: Desk, control: str, directory: GatesFile
) -> None:
    def later(mail: Mail) -> None:
        raise MailDeferred("451 later")

    desk.open(policy=ONE)
    with Outbox(control, patience=Patience(tries=3, hours=1)) as outbox:
        outbox.take_up(directory, PAGES)
        outcomes = []
        for _ in range(8):
            done = outbox.deliver(later)
            outcomes.append("failed" if done.failed else "put off" if done.put_off else "nothing due")
            desk.pass_time(900)
        assert outcomes == ["put off"] * 4 + ["failed"] + ["nothing due"] * 3
        assert outbox.retry(directory) == 1
        sent: list[Mail] = []
        assert len(outbox.deliver(sent.append).sent) == 1
        assert sent[0].recipient == "po"


def test_a_person_without_an_address_is_a_mail_that_failed(desk: Desk, outbox: Outbox, directory: GatesFile) -> None:
    people = {**directory.people, "po": directory.people["po"].model_copy(update={"email": None})}
    desk.open(policy=ONE)
    outbox.take_up(directory.model_copy(update={"people": people}), PAGES)
    outbox.deliver(lambda _: None)
    failed = outbox.mails(MailState.FAILED)[0]
    assert failed.said == "config/gates.yaml has no mail address of po"
    outbox.retry(directory)  # the file was corrected
    assert outbox.mails()[0].address == "po@localhost"


def test_taking_up_the_ledger_again_owes_nothing_twice(desk: Desk, control: str, directory: GatesFile) -> None:
    desk.open(policy=FOUR)
    with Outbox(control) as first:
        assert first.take_up(directory, PAGES) == 4
    with Outbox(control) as restarted:
        assert restarted.take_up(directory, PAGES) == 0
        desk.owner.execute("update comporta.mail_cursor set event = 0")  # even from the start of the ledger
        assert restarted.take_up(directory, PAGES) == 0


def test_a_kill_while_taking_up_the_ledger_leaves_it_as_it_was(desk: Desk, control: str, directory: GatesFile) -> None:
    gate = desk.open(policy=FOUR)
    before = desk.owner.execute("select event from comporta.mail_cursor").fetchone()
    with psycopg.connect(control, autocommit=True) as conn, Outbox(conn) as outbox:
        conn.execute("set session characteristics as transaction read only")
        with pytest.raises(psycopg.Error):
            outbox.take_up(directory, PAGES)
    assert desk.owner.execute("select event from comporta.mail_cursor").fetchone() == before
    with Outbox(control) as outbox:
        assert outbox.take_up(directory, PAGES) == 4
    assert gate.gate


def test_a_sender_that_is_killed_before_it_says_so_sends_the_same_mail_again(
    desk: Desk, control: str, directory: GatesFile
) -> None:
    """The mail server may have taken it: the same Message-ID makes it one mail for whoever reads it."""
    seen: list[str] = []

    def killed(mail: Mail) -> None:
        seen.append(mail.message_id)
        raise KeyboardInterrupt

    desk.open(policy=ONE)
    with Outbox(control) as outbox:
        outbox.take_up(directory, PAGES)
        with pytest.raises(KeyboardInterrupt):
            outbox.deliver(killed)
        outbox.deliver(lambda mail: seen.append(mail.message_id))
    assert len(seen) == 2
    assert len(set(seen)) == 1


def test_two_senders_side_by_side_send_every_mail_once(desk: Desk, control: str, directory: GatesFile) -> None:
    for number in range(10):
        desk.open(f"k{number}", policy=FOUR, asker=f"rollout/run{number}/gate/-1")
    with Outbox(control) as outbox:
        assert outbox.take_up(directory, PAGES) == 40
    sent: list[str] = []

    def run() -> None:
        with Outbox(control) as outbox:
            outbox.deliver(lambda mail: sent.append(mail.message_id))

    senders = [threading.Thread(target=run) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(timeout=60)
    assert len(sent) == len(set(sent)) == 40


def test_what_was_sent_is_in_the_ledger_under_the_name_of_the_person(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str
) -> None:
    gate = desk.open(policy=ONE)
    outbox.take_up(directory, PAGES)
    outbox.deliver(lambda _: None)
    with Ledger(control) as ledger:
        event = ledger.latest(1, event_type="mail_sent")[0]
    assert event.stream == f"mail/{gate.gate}/po"
    assert {name: event.payload[name] for name in ("event", "recipient", "notice", "gate")} == {
        "event": gate.gate,
        "recipient": "po",
        "notice": "opened",
        "gate": gate.gate,
    }


def test_whose_vote_is_void_is_told_that_the_evidence_changed(desk: Desk, outbox: Outbox, directory: GatesFile) -> None:
    from comporta.gates import EvidenceItem

    gate = desk.open(policy=FOUR)
    desk.vote(gate, "cfo")
    desk.book.renew(gate.gate, [EvidenceItem("scripts", "Scripts", "c" * 64)], [], actor="dba")
    outbox.take_up(directory, PAGES)
    told = {mail.recipient: mail for mail in outbox.mails() if mail.notice == "evidence_changed"}
    assert "cfo" in told
    assert "scripts: aaaaaa.. -> cccccc.." in told["cfo"].plain


def test_minutes_go_to_everyone(desk: Desk, outbox: Outbox, directory: GatesFile, control: str) -> None:
    minutes = {
        "date": "2026-11-24",
        "run_id": "scheduled__2026-11-24",
        "sentence": "1 blocker.",
        "readiness": [{"owner": "DBA", "word": "Ready", "by": "dba", "reason": "proved"}],
        "blockers": [{"owner": "PO", "what": "no capacity plan is recorded", "age": "for 2 days, 3 syncs"}],
        "decisions": [{"name": "rollout", "word": "No-Go", "by": ["cfo"], "reason": "too early"}],
        "actions": [{"who": "PO", "what": "record a capacity plan"}],
    }
    with Ledger(control) as ledger:
        ledger.append(
            "daily_sync/run1",
            [
                NewEvent(
                    event_type="minutes_written",
                    feature="catalogue",
                    actor="daily_sync",
                    payload={"report": "2026-11-24/daily_sync-run1/minutes.html", "minutes": minutes},
                )
            ],
        )
    outbox.take_up(directory, PAGES)
    mails = outbox.mails()
    assert {mail.recipient for mail in mails} == set(directory.people)
    assert mails[0].subject == "[Comporta] Daily sync 2026-11-24: 1 blocker; rollout: No-Go"
    for text in (
        "DBA: Ready by dba: proved",
        "PO: no capacity plan is recorded (for 2 days, 3 syncs)",
        "PO: record a capacity plan",
    ):
        assert text in mails[0].plain
    assert "http://127.0.0.1:8080/comporta/reports/2026-11-24/daily_sync-run1/minutes.html" in mails[0].html


def record(control: str, stream: str, *told: tuple[str, str, dict[str, object]]) -> None:
    """Events of a stream, each (type, phase, payload), by the rollout of one run."""
    with Ledger(control) as ledger:
        events = [
            NewEvent(
                event_type=event_type,
                feature="catalogue-2029",
                phase=phase,
                actor="airflow:po",
                payload={"run": "rollout/run1", "target": "1/gis", **payload},
            )
            for event_type, phase, payload in told
        ]
        ledger.append(stream, events)


def test_a_rollout_that_rolls_back_and_ends_is_told_to_those_who_are_needed_and_its_end_to_everyone(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str, server: MailServer, send: Callable[[Mail], None]
) -> None:
    failed = {"error": "11 rows, expected 12", "of": 3}
    begun = {"why": "automatic", "because": "verify failed 3 times", "root": "OPT3"}
    record(
        control,
        "rollout/catalogue-2029",
        *(("rollout_verify_failed", "OPT3", {**failed, "attempt": attempt}) for attempt in (1, 2, 3)),
        ("rollback_started", "OPT3", begun),
        ("rollback_finished", "OPT3", {"root": "OPT3", "restored": True, "seconds": 3.0, "proof": "OPT3 · restore"}),
        (
            "rollout_finished",
            "outcome",
            {"verdict": "stop", "changes": {"OPT3": "rolled back"}, "report": "x/rollout.html"},
        ),
    )
    assert outbox.take_up(directory, PAGES) == 2 + 2 + len(directory.people)
    outbox.deliver(send)
    assert server.subjects("dba@localhost") == [
        "[Comporta] Rollout stopped at OPT3: verify failed 3 times",
        "[Comporta] OPT3 was rolled back: the catalogue is as it must be",
        "[Comporta] Rollout of catalogue-2029 finished, stop: OPT3 rolled back",
    ]
    assert server.subjects("cfo@localhost") == ["[Comporta] Rollout of catalogue-2029 finished, stop: OPT3 rolled back"]
    rolled_back = next(mail for mail in outbox.mails() if mail.notice == "rolled_back")
    assert "by itself: verify failed 3 times" in rolled_back.plain
    assert rolled_back.gate is None


def test_what_a_rollback_began_with_is_looked_up_also_when_it_was_taken_up_long_before(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str
) -> None:
    """The post looks every moment: the letter on the end needs what was told and taken up before."""
    stream = "rollout/catalogue-2029"
    begun = {"why": "cleared", "because": "cleared", "root": "OPT1", "cleared_by": "dba", "note": "the map is slow"}
    record(control, stream, ("rollback_started", "OPT2", begun))
    record(control, stream, ("rollback_finished", "OPT2", {"root": "OPT1", "restored": True, "seconds": 2.5}))
    record(control, stream, ("rollback_started", "OPT1", begun))
    assert outbox.take_up(directory, PAGES) == 0
    record(control, stream, ("rollback_finished", "OPT1", {"root": "OPT1", "restored": True, "seconds": 21.0}))
    assert outbox.take_up(directory, PAGES) == 2
    mail = outbox.mails()[0]
    assert mail.subject == "[Comporta] OPT1 was rolled back with OPT2: the catalogue is as it must be"
    assert "because dba cleared its task: the map is slow" in mail.plain


def test_a_breaker_that_fails_its_probes_all_night_is_one_mail_to_each(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str
) -> None:
    plan = HealthPlan()
    with BreakerBook(control) as book:

        def look(*, probe: bool) -> None:
            sample = Sample(
                breaker="disk", verdict="bad", why="used 0.99, at most 0.95", value=0.99, bound=0.95, probe=probe
            )
            book.report("catalogue-2029", "1/gis", "runner", [sample], plan)

        assert book.become_sampler("catalogue-2029", "1/gis", "runner", plan)
        for _ in range(plan.min_samples):
            look(probe=False)
            desk.pass_time(plan.every_s)
        for _ in range(10):
            desk.pass_time(plan.open_s)
            assert book.admit("catalogue-2029", "1/gis", "disk", "runner", plan)
            look(probe=True)
        book.hold("catalogue-2029", "all", actor="dba", reason="the disk is being changed")
    with Ledger(control) as ledger:
        assert len(ledger.latest(100, event_type="breaker_opened")) == 11
    outbox.take_up(directory, PAGES)
    told = sorted((mail.recipient, mail.notice) for mail in outbox.mails())
    assert told == [(who, notice) for who in ("dba", "po") for notice in ("breaker_held", "breaker_opened")]


def test_a_mail_server_that_is_down_keeps_no_rollout_waiting(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str
) -> None:
    def away(mail: Mail) -> None:
        raise MailServerAway("timed out")

    record(
        control, "rollout/catalogue-2029", ("rollout_refused", "OPT1", {"step": "apply", "reasons": ["a stale proof"]})
    )
    outbox.take_up(directory, PAGES)
    outbox.deliver(away)
    record(control, "rollout/catalogue-2029", ("rollout_apply_started", "OPT1", {"gate": None}))
    assert {mail.state for mail in outbox.mails()} == {"waiting"}


def test_the_application_role_can_read_and_send_and_cannot_delete(desk: Desk, outbox: Outbox, control: str) -> None:
    desk.open(policy=ONE)
    with psycopg.connect(control, autocommit=True) as conn:
        conn.execute("set role comporta_app")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("delete from comporta.mail")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("delete from comporta.mail_cursor")


def test_a_new_installation_does_not_tell_of_the_past(desk: Desk, control: str) -> None:
    """The cursor starts at the end of the ledger as the migration finds it."""
    found = desk.owner.execute("select event from comporta.mail_cursor").fetchone()
    assert found == (0,)


def test_the_command_line_lists_what_failed_and_makes_it_due_again(
    desk: Desk, outbox: Outbox, directory: GatesFile, control: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPORTA_HOME", str(project))
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", control)

    def refuse(mail: Mail) -> None:
        raise MailRefused("550 no such user")

    assert CliRunner().invoke(mail_commands, ["list", "--failed"]).exit_code == 0
    desk.open(policy=ONE)
    outbox.take_up(directory, PAGES)
    outbox.deliver(refuse)
    listed = CliRunner().invoke(mail_commands, ["list", "--failed", "--json"])
    assert listed.exit_code == 1
    row = json.loads(listed.stdout)
    assert (row["recipient"], row["state"], row["said"]) == ("po", "failed", "550 no such user")
    assert CliRunner().invoke(mail_commands, ["retry"]).stdout == "1 mail due again\n"
    assert outbox.mails()[0].state == "waiting"


@pytest.fixture
def fired(post: Post, control: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], bool]:
    """Runs the trigger of the DAG ``post`` for so many seconds: did it fire?"""
    parts = {name: str(value) for name, value in conninfo_to_dict(control).items()}
    account = f"{parts['user']}:{quote(parts.get('password', ''), safe='')}"
    monkeypatch.setenv(
        "AIRFLOW_CONN_CONTROL", f"postgres://{account}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    )
    monkeypatch.setenv("COMPORTA_HOME", str(project))
    from comporta.orchestration import post as module

    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    monkeypatch.setattr(module, "RETRY_AFTER_S", 0.2)

    async def first_event() -> bool:
        async for _ in module.PostTrigger().run():  # type: ignore[no-untyped-call]
            return True
        return False

    def run(seconds: float) -> bool:
        try:
            return asyncio.run(asyncio.wait_for(first_event(), seconds))
        except TimeoutError:
            return False

    return run


def test_the_trigger_fires_for_a_mail_that_is_due_and_not_without_one(
    desk: Desk, fired: Callable[[float], bool]
) -> None:
    assert not fired(1)
    desk.open(policy=ONE)
    assert fired(10)


def test_the_trigger_is_woken_by_the_ledger(desk: Desk, fired: Callable[[float], bool]) -> None:
    """It looks by itself each half minute; this is sooner."""
    asking = threading.Timer(1.0, lambda: desk.open(policy=ONE))
    asking.start()
    assert fired(10)
    asking.join()


def test_the_trigger_keeps_the_time_of_gates(
    desk: Desk, outbox: Outbox, directory: GatesFile, fired: Callable[[float], bool]
) -> None:
    desk.book.open("sync/dba", readiness("DBA", "dba"), actor="airflow:scheduler")
    outbox.take_up(directory, PAGES)
    outbox.deliver(lambda _: None)
    desk.pass_time(7200)
    assert fired(10)
    assert desk.book.list()[0].word == "Blocker (silent)"


def test_the_trigger_waits_for_a_database_that_is_away(
    desk: Desk, fired: Callable[[float], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.open(policy=ONE)
    away, there = f"postgres://nobody@127.0.0.1:{free_port()}/none", os.environ["AIRFLOW_CONN_CONTROL"]
    monkeypatch.setenv("AIRFLOW_CONN_CONTROL", away)
    assert not fired(1)
    back = threading.Timer(1.0, lambda: monkeypatch.setenv("AIRFLOW_CONN_CONTROL", there))
    back.start()
    assert fired(10)
    back.join()
