"""What can go wrong with the ledger. After any of these, nothing of the refused call was written.

LedgerError                 the call itself is wrong, or the server refused it
├── VersionConflict         someone appended to the stream since the caller read it
├── IdempotencyConflict     the key names an event with other content
├── UnknownEventType        the event type is not in the catalogue
├── LedgerBusy              another writer held the ledger for longer than the lock budget
├── AnchorRefused               an anchor cannot be made without vouching for something untrue
├── ExportRefused               a copy was not written, or cannot be verified
├── LedgerNotInstalled      the control database has no ledger yet
└── MigrationRefused        the migrations on disk and in the database contradict each other
"""

from __future__ import annotations

from comporta.errors import ComportaError


class LedgerError(ComportaError):
    """The ledger refused a call: what was expected and found is named, nothing was written."""


class VersionConflict(LedgerError):
    """Someone appended to the stream since the caller read it; read again, decide again."""

    def __init__(self, stream: str, *, expected: int, found: int) -> None:
        super().__init__(
            f'stream "{stream}" is at version {found}, expected {expected}; nothing was written',
            remedy="Read the stream again, decide again, and append with the version found.",
        )
        self.stream = stream
        self.expected = expected
        self.found = found


class IdempotencyConflict(LedgerError):
    """The idempotency key already names an event (``event_id``) whose content differs in the fields named."""

    def __init__(self, key: str, *, event_id: int | None, differs: str) -> None:
        where = f"already names event {event_id}, which differs in: {differs}" if event_id else differs
        super().__init__(
            f'idempotency key "{key}" {where}; nothing was written',
            remedy="A new intent needs a new key; a repeated one must be repeated unchanged.",
        )
        self.key = key
        self.event_id = event_id


class UnknownEventType(LedgerError):
    """The event type is not in the catalogue ``comporta.ledger.EventType``."""


class GuardedStream(LedgerError):
    """The stream belongs to a gate or to breakers; their functions check what is asked and write it."""


class LedgerBusy(LedgerError):
    """Another writer held the ledger for longer than the lock budget."""


class AnchorRefused(LedgerError):
    """An anchor was not made: keys, files or the ledger are not as the last anchor left them."""


class ExportRefused(LedgerError):
    """A copy of the ledger was not written, or is of a kind that cannot be verified."""


class LedgerNotInstalled(LedgerError):
    """The control database has no ledger yet, or an older one than this code."""


class MigrationRefused(LedgerError):
    """The migrations on disk and those recorded in the database contradict each other; nothing was applied."""
