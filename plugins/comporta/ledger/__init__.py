"""The ledger: an append-only, gap-free, hash-chained log in the control database, and what is folded from it."""

from comporta.ledger.errors import (
    AnchorRefused,
    GuardedStream,
    IdempotencyConflict,
    LedgerBusy,
    LedgerError,
    LedgerNotInstalled,
    MigrationRefused,
    UnknownEventType,
    VersionConflict,
)
from comporta.ledger.event import Event, EventType, NewEvent, fold
from comporta.ledger.migration import migrate, migrations_folder
from comporta.ledger.state import StreamState, project
from comporta.ledger.store import Ledger
from comporta.ledger.verification import Anchored, Head, Verification, verify

__all__ = [
    "AnchorRefused",
    "Anchored",
    "Event",
    "EventType",
    "GuardedStream",
    "Head",
    "IdempotencyConflict",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "LedgerNotInstalled",
    "MigrationRefused",
    "NewEvent",
    "StreamState",
    "UnknownEventType",
    "Verification",
    "VersionConflict",
    "fold",
    "migrate",
    "migrations_folder",
    "project",
    "verify",
]
