"""The outbox: events of the ledger become mail that is owed, and mail that is owed is sent, put off, or given up."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg.rows import class_row

from comporta.errors import ComportaError
from comporta.gates import Gate, GateBook, UnknownGate
from comporta.gates.policy import GatesFile
from comporta.ledger import Event, EventType, Ledger, NewEvent
from comporta.notices.backoff import Patience, pause
from comporta.notices.errors import MailError, MailRefused, MailServerAway
from comporta.notices.letters import Pages, about_gate, about_minutes
from comporta.notices.matrix import told
from comporta.notices.model import Letter, Mail, MailState, Notice
from comporta.notices.rollouts import TOLD_OF as ROLLOUT_TOLD_OF
from comporta.notices.rollouts import about_rollout
from comporta.postgres.queries import load

Send = Callable[[Mail], None]
"""Hands one mail to a mail server; raises a MailError when it was not taken."""

ACTOR = "post"
WORKFLOW = "mail"
_PAGE = 200
_TOLD_OF = frozenset(
    {
        "gate_opened",
        "gate_reminded",
        "gate_decided",
        "gate_expired",
        "gate_withdrawn",
        "gate_reopened",
        "gate_evidence_changed",
        EventType.MINUTES_WRITTEN,
        EventType.MAIL_FAILED,
    }
    | ROLLOUT_TOLD_OF
)
_BEFORE = 500

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LastMail:
    """How the last mail to a person ended."""

    recipient: str
    state: str
    tries: int
    said: str
    at: datetime


@dataclass
class Delivery:
    """What came of one round of sending, as ids of mails."""

    sent: list[int] = field(default_factory=list)
    put_off: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


class Outbox:
    """The table ``comporta.mail`` behind the control database's connection string; one thread at a time.

    Two of them side by side do no harm: a mail is locked while it is on its way, and the cursor while it moves.
    """

    def __init__(self, source: str | psycopg.Connection, *, patience: Patience | None = None) -> None:
        self._ledger = Ledger(source)
        self._conn = self._ledger.connection
        self._book = GateBook(self._conn)
        self._patience = patience or Patience()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.close()

    # -- the ledger becomes mail -------------------------------------------------------------------------------------

    def take_up(self, directory: GatesFile, pages: Pages) -> int:
        """Owe a mail to everybody who is to be told of what was recorded since the last call; how many were added.

        Mail and cursor move in one transaction: a kill at any moment neither loses an event nor tells of it twice.
        """
        added = 0
        while True:
            with self._conn.transaction():
                row = self._conn.execute(load("comporta.notices", "cursor.sql")).fetchone()
                assert row is not None, "the migration wrote it"
                events = self._ledger.read(after=row[0], limit=_PAGE)
                if not events:
                    return added
                added += sum(self._owe(event, directory, pages) for event in events if event.event_type in _TOLD_OF)
                self._conn.execute(load("comporta.notices", "cursor_move.sql"), (events[-1].id,))

    def _owe(self, event: Event, directory: GatesFile, pages: Pages) -> int:
        try:
            gate = self._gate_of(event)
        except UnknownGate as error:  # only a ledger that somebody tampered with has such an event
            log.warning("event %s (%s): %s; nobody is told", event.id, event.event_type, error.message)
            return 0
        before = self._before(event) if event.event_type in ROLLOUT_TOLD_OF else ()
        added = 0
        for recipient, notice in told(event, gate, directory, before).items():
            person = directory.people[recipient]
            values = {
                "event": event.id,
                "recipient": recipient,
                "address": person.email or "",
                "notice": notice,
                "feature": event.feature,
                "gate": gate and gate.gate,
                "message_id": message_id(event, recipient),
                **vars(_letter(notice, event, gate, before, pages, person.name)),
            }
            added += self._conn.execute(load("comporta.notices", "owe.sql"), values).rowcount
        return added

    def _before(self, event: Event) -> Sequence[Event]:
        """What its stream told before it, as far as a letter may have to look back."""
        return self._all(Event, "before.sql", {"stream": event.stream, "version": event.version, "limit": _BEFORE})

    def _gate_of(self, event: Event) -> Gate | None:
        number = event.id if event.event_type == "gate_opened" else event.payload.get("gate")
        return None if number is None else self._book.get(int(number))

    # -- mail is sent ------------------------------------------------------------------------------------------------

    def deliver(self, send: Send) -> Delivery:
        """Send everything that is due, each mail in a transaction of its own; never raises for what a mail server does.

        Once the server itself is away, what else is due is put off without trying: each try may last until its time-out.
        """
        done, away = Delivery(), None
        while (outcome := self._deliver_one(send, done, away)) is not None:
            away = outcome.away
        return done

    def _deliver_one(self, send: Send, done: Delivery, away: MailServerAway | None) -> _Outcome | None:
        with self._conn.transaction():
            mail = self._one(Mail, "due.sql", {})
            if mail is None:
                return None
            try:
                if away is not None:
                    raise away
                if not mail.address:
                    raise MailRefused(f"config/gates.yaml has no mail address of {mail.recipient}")
                send(mail)
            except MailError as error:
                (done.put_off if self._not_sent(mail, error) else done.failed).append(mail.id)
                return _Outcome(error if isinstance(error, MailServerAway) else away)
            self._settle(mail, MailState.SENT, mail.tries + 1, "")
            done.sent.append(mail.id)
            return _Outcome(away)

    def _not_sent(self, mail: Mail, error: MailError) -> bool:
        """Put the mail off, True, or give it up."""
        tries, now = mail.tries + 1, self.now()
        said = error.message.replace(mail.address, mail.recipient) if mail.address else error.message
        over = self._patience.ended(tries, now - mail.created_at, away=isinstance(error, MailServerAway))
        if over or isinstance(error, MailRefused):
            self._settle(mail, MailState.FAILED, tries, said)
            return False
        next_due = now + pause(tries, mail.message_id, self._patience)
        values = {"id": mail.id, "tries": tries, "said": said, "next_due": next_due}
        self._conn.execute(load("comporta.notices", "put_off.sql"), values)
        return True

    def _settle(self, mail: Mail, state: MailState, tries: int, said: str) -> None:
        values = {"id": mail.id, "state": state, "tries": tries, "said": said}
        self._conn.execute(load("comporta.notices", "settle.sql"), values)
        self._ledger.append(
            f"mail/{mail.event}/{mail.recipient}",
            [
                NewEvent(
                    event_type=EventType.MAIL_SENT if state == MailState.SENT else EventType.MAIL_FAILED,
                    feature=mail.feature,
                    workflow=WORKFLOW,
                    phase=mail.notice,
                    actor=ACTOR,
                    # The login and not the address: what is in the ledger can never be erased.
                    payload={
                        "event": mail.event,
                        "recipient": mail.recipient,
                        "notice": mail.notice,
                        "gate": mail.gate,
                        "message_id": mail.message_id,
                        "tries": tries,
                        "said": said,
                    },
                )
            ],
        )

    # -- looking at it -----------------------------------------------------------------------------------------------

    def next_due_s(self) -> float | None:
        """Seconds until the next mail is due, at most 0 when one is; None when no mail waits."""
        row = self._conn.execute(load("comporta.notices", "next_due.sql")).fetchone()
        return row[0] if row else None

    def mails(self, state: MailState | None = None, limit: int = 50) -> list[Mail]:
        """The newest mails, newest first."""
        return self._all(Mail, "list.sql", {"state": state, "limit": limit})

    def last_of_each(self) -> dict[str, LastMail]:
        """The last mail to each person of which the outcome is known."""
        return {each.recipient: each for each in self._all(LastMail, "last_of_each.sql", {})}

    def retry(self, directory: GatesFile, ids: Sequence[int] | None = None) -> int:
        """Make failed mails due again, all or those named, to the addresses of now; how many there were."""
        with self._conn.transaction():
            found = self._conn.execute(load("comporta.notices", "failed.sql"), {"ids": ids and list(ids)}).fetchall()
            for number, recipient in found:
                person = directory.people.get(recipient)
                values = {"id": number, "address": person.email or "" if person else ""}
                self._conn.execute(load("comporta.notices", "retry.sql"), values)
        return len(found)

    def now(self) -> datetime:
        """By the clock of the control database, as everything that is due."""
        row = self._conn.execute(load("comporta.notices", "now.sql")).fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def _all(self, kind: type[T], name: str, values: dict[str, Any]) -> list[T]:
        with self._conn.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(load("comporta.notices", name), values).fetchall()

    def _one(self, kind: type[T], name: str, values: dict[str, Any]) -> T | None:
        return next(iter(self._all(kind, name, values)), None)


@dataclass(frozen=True)
class _Outcome:
    away: MailServerAway | None


def message_id(event: Event, recipient: str) -> str:
    """The Message-ID of the mail on one event to one person: always the same, and no other installation's."""
    named = f"{event.id}/{event.stream}/{event.version}/{event.timestamp.isoformat()}/{recipient}"
    return f"<{event.id}.{hashlib.sha256(named.encode()).hexdigest()[:24]}@comporta.localhost>"


def _letter(
    notice: Notice, event: Event, gate: Gate | None, before: Sequence[Event], pages: Pages, reached: str
) -> Letter:
    if notice == Notice.MINUTES:
        return about_minutes(event, pages)
    if gate is None:
        return about_rollout(notice, event, before, pages)
    return about_gate(notice, event, gate, pages, reached=reached)


def look_around(outbox: Outbox, book: GateBook, directory: GatesFile, pages: Pages) -> float | None:
    """One look at everything that time and people have brought: sweep the gates, take up the ledger, see what is due.

    Seconds until a mail is due (not above 0: now), None when none waits. ComportaError when the database is away.
    """
    try:
        book.sweep()
        outbox.take_up(directory, pages)
        return outbox.next_due_s()
    except psycopg.OperationalError as error:
        raise ComportaError(f"the control database went away: {' '.join(str(error).split())}") from error
