"""Anchors: signed statements, kept outside the database, that the chain had this head at that time.

One line of JSON each: block, last event, hash, time, id of the key, the sha256 of the line before, and an Ed25519 signature over
everything in front of it. A line cannot be edited or taken out of the middle: the next one says so. That lines were cut off at the
end shows in the second copy, and in whatever an auditor kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag

import psycopg
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from comporta.errors import ConfigurationError, UnreachableServer
from comporta.ledger.errors import AnchorRefused
from comporta.ledger.store import Ledger
from comporta.ledger.verification import Anchored, Head
from comporta.settings import Settings

DECISIONS = frozenset({"gate_decided", "gate_consumed", "gate_expired"})
"""Types of event that are anchored at once."""

_FIRST = "0" * 64
_SIGNATURE = b',"signature":"'
_PURPOSE = b"comporta anchor 1\n"  # a signature made for something else is none for an anchor
_END_OF_KEY = "-----END PUBLIC KEY-----\n"

log = logging.getLogger("comporta.ledger.anchor")


@dataclass(frozen=True)
class Anchors:
    """What the files of anchors say: the anchors that hold, and what is wrong with the others."""

    held: tuple[Anchored, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where anchors and keys are. The private key belongs to who anchors; the public one, to everybody who verifies."""

    file: Path
    key: Path
    copy: Path | None = None
    public_key: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """The places that the settings name; a copy that is a folder holds a file of the same name."""
        copy = settings.anchor_copy_path
        if copy is not None and (copy.is_dir() or not copy.suffix):
            copy = copy / settings.anchors_path.name
        return cls(settings.anchors_path, settings.anchor_key_path, copy)

    @property
    def public(self) -> Path:
        """Public keys, PEM, one after the other: an old key stays valid for what it signed."""
        return self.public_key or self.file.with_suffix(".pub.pem")

    @property
    def known(self) -> bool:
        """True when there is anything of anchors here: then all of it must be here."""
        return any(path.exists() for path in (self.file, self.public, *([self.copy] if self.copy else ())))


# --- keys ------------------------------------------------------------------------------------------------------------


def make_key(places: Places) -> str:
    """Make a key and return its id; the private half is only for this account. AnchorRefused when there is one already."""
    if places.key.exists():
        raise AnchorRefused(
            f"{places.key} holds a key already; nothing was changed",
            remedy="Move it away first. What it signed stays valid: its public half stays in " + str(places.public),
        )
    private = Ed25519PrivateKey.generate()
    places.key.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(places.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    places.public.parent.mkdir(parents=True, exist_ok=True)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(places.public, pem)
    if not places.file.exists():  # from now on, a file that is gone is missed
        _write(places.file, b"")
        if places.copy is not None and not places.copy.exists():
            places.copy.parent.mkdir(parents=True, exist_ok=True)
            _write(places.copy, b"")
    return key_id(private.public_key())


def set_aside(places: Places) -> Path | None:
    """Move the anchors of a ledger that is no more into a folder beside them, named by the time; None when there are none."""
    if not places.known:
        return None
    folder = places.file.parent / f"until-{datetime.now(UTC):%Y-%m-%dT%H%M%S}"
    folder.mkdir(parents=True)
    for path in (places.file, places.public):
        if path.exists():
            path.rename(folder / path.name)
    return folder


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the sha256 of the raw public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key; ConfigurationError when there is none, or others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: no key to sign anchors with: {error.strerror}",
            remedy="Make one with `comporta events anchor --new-key`, or set COMPORTA_ANCHOR_KEY.",
        ) from error
    if mode & 0o077:
        raise ConfigurationError(
            f"{path}: others may read this private key (mode {mode:04o}, expected 0600)",
            remedy="It may be known to others by now: `chmod 600` it, or better make a new one.",
        )
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: no private key in PEM: {error}", remedy="Restore it.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: expected an Ed25519 key", remedy="Make one with --new-key.")
    return key


def load_public_keys(path: Path) -> dict[str, Ed25519PublicKey]:
    """Public keys by id; ConfigurationError when there are none, or one is of another kind."""
    keys: dict[str, Ed25519PublicKey] = {}
    try:
        for pem in path.read_text().split(_END_OF_KEY)[:-1]:
            key = load_pem_public_key((pem + _END_OF_KEY).encode())
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("not an Ed25519 key")
            keys[key_id(key)] = key
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{path}: no public keys to check anchors with: {error}",
            remedy="Name the copy that you keep with --public-key.",
        ) from error
    if not keys:
        raise ConfigurationError(f"{path}: holds no public key", remedy="Name your copy with --public-key.")
    return keys


# --- reading ---------------------------------------------------------------------------------------------------------


def read(places: Places) -> Anchors:
    """Check every line of the file and compare the copy. What does not hold is told in words, and not relied upon."""
    keys = load_public_keys(places.public)
    main, copy = _both(places)
    if main is None:
        held, faults = _checked(copy or b"", keys, places.copy or places.file)
        return Anchors(held, (f"the anchors {places.file} are gone", *faults))
    held, faults = _checked(main, keys, places.file)
    if places.copy is not None and copy != main:
        faults = (*faults, _difference(main, copy, places))
    return Anchors(held, faults)


def _checked(
    content: bytes, keys: dict[str, Ed25519PublicKey], path: Path
) -> tuple[tuple[Anchored, ...], tuple[str, ...]]:
    held: list[Anchored] = []
    faults: list[str] = []
    before = _FIRST
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            held.append(_check(number, line, before, keys))
        except _Fault as fault:
            faults.append(f"anchor {number} ({path}, line {number}) does not hold: {fault}")
        before = hashlib.sha256(line).hexdigest()
    return tuple(held), tuple(faults)


class _Fault(Exception):
    pass


def _check(number: int, line: bytes, before: str, keys: dict[str, Ed25519PublicKey]) -> Anchored:
    signed, _, signature = line.partition(_SIGNATURE)
    try:
        said = json.loads(line)
        head = Head(int(said["n"]), int(said["last_id"]), bytes.fromhex(said["hash"]))
        at, key, former = datetime.fromisoformat(said["time"]), str(said["key"]), str(said["before"])
    except (ValueError, KeyError, TypeError):
        raise _Fault("it cannot be read") from None
    if key not in keys:
        raise _Fault(f"it is signed with the key {key}, which is not one of those trusted ({', '.join(keys)})")
    try:
        keys[key].verify(bytes.fromhex(signature.decode().removesuffix('"}')), _PURPOSE + signed)
    except (InvalidSignature, ValueError):
        raise _Fault("its signature is not over what it says: it was edited") from None
    if former != before:
        raise _Fault("a line before it was removed, added or edited")
    return Anchored(number, head, at)


def _both(places: Places) -> tuple[bytes | None, bytes | None]:
    """File and copy; a moment is given to whoever is between the two writes."""
    for _ in range(4):
        copy = _read(places.copy) if places.copy is not None else None
        main = _read(places.file)
        if places.copy is None or copy == main:
            break
        time.sleep(0.25)
    return main, copy


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _difference(main: bytes, copy: bytes | None, places: Places) -> str:
    if copy is None:
        return f"the copy of the anchors {places.copy} is gone"
    one, other = main.splitlines(), copy.splitlines()
    same = next((number for number, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if same is not None:
        return f"anchor {same + 1} differs between {places.file} and its copy {places.copy}"
    shorter = places.file if len(one) < len(other) else places.copy
    return f"{shorter} ends after anchor {min(len(one), len(other))}; its copy has {max(len(one), len(other))}"


# --- writing ---------------------------------------------------------------------------------------------------------


def anchor(ledger: Ledger, places: Places, *, now: datetime | None = None) -> Anchored | None:
    """Sign the ledger's head and write it down, file and copy, fsynced; None when the last anchor covers it already.

    AnchorRefused when the ledger no longer contains the block of the last anchor, or the file is gone and its copy is not.
    A copy that differs is left as it is, for ``read`` to tell.
    """
    key = load_key(places.key)
    with _locked(places.file, "lock", wait=True):
        content = _read(places.file)
        copy = _read(places.copy) if places.copy is not None else None
        if content is None:
            raise AnchorRefused(
                f"the anchors {places.file} are gone; nothing was written",
                remedy=f"Restore them from {places.copy or 'a backup'}; the first time, `comporta events anchor --new-key`.",
            )
        lines = content.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # a power cut while it was written: nobody was told of it
            log.warning("%s: the last line is incomplete and is dropped", places.file)
            os.truncate(places.file, len(content) - len(lines.pop()))
        last = _last(lines, places)
        head = ledger.head()
        _refuse_another_history(ledger, last, head)
        if head is None or (last is not None and last.head == head):
            return None
        at = now or datetime.now(UTC)
        line = _signed(head, at, hashlib.sha256(lines[-1][:-1]).hexdigest() if lines else _FIRST, key)
        if places.copy is not None:  # first: a reader who finds it shorter then knows that lines were cut
            if copy == b"".join(lines):
                _write(places.copy, line)
            else:
                log.error("the copy %s differs and is left as it is: `comporta events verify` says how", places.copy)
        _write(places.file, line)
        return Anchored(len(lines) + 1, head, at)


def _last(lines: Sequence[bytes], places: Places) -> Anchored | None:
    if not lines:
        return None
    before = hashlib.sha256(lines[-2][:-1]).hexdigest() if len(lines) > 1 else _FIRST
    try:
        return _check(len(lines), lines[-1][:-1], before, load_public_keys(places.public))
    except _Fault as fault:
        raise AnchorRefused(
            f"the last anchor of {places.file} does not hold: {fault}; nothing was written",
            remedy="Keep the file as it is, and see `comporta events verify`.",
        ) from fault


def _refuse_another_history(ledger: Ledger, last: Anchored | None, head: Head | None) -> None:
    if last is None:
        return
    if ledger.hash_of(last.head.n) != last.head.hash:
        raise AnchorRefused(
            f"anchor {last.number} was signed for block {last.head.n}, which the ledger does not contain any more "
            f"(it ends at block {head.n if head else 0}); nothing was signed",
            remedy="Keep the database and the anchors as they are, and see `comporta events verify`.",
        )


def _signed(head: Head, at: datetime, before: str, key: Ed25519PrivateKey) -> bytes:
    said = {
        "n": head.n,
        "last_id": head.last_id,
        "hash": head.hash.hex(),
        "time": at.isoformat(),
        "key": key_id(key.public_key()),
        "before": before,
    }
    signed = json.dumps(said, separators=(",", ":")).encode()[:-1]
    return signed + _SIGNATURE + key.sign(_PURPOSE + signed).hex().encode() + b'"}\n'


def _write(path: Path, content: bytes) -> None:
    """Append and see it to the disk, with the folder when the file is new."""
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _locked(path: Path, suffix: str, *, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(f".{suffix}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise AnchorRefused(
                f"another process follows the ledger and anchors it into {path}", remedy="One is enough."
            ) from None
        yield


# --- following -------------------------------------------------------------------------------------------------------


def follow(dsn: str, places: Places, *, ending: Flag, every_s: float = 60.0) -> None:
    """Anchor at every decision and, when anything was recorded, every ``every_s`` seconds, until ``ending`` is set.

    A control database that is away is waited for. AnchorRefused ends it: someone has to look.
    """

    def say(state: RetryCallState) -> None:
        outcome = state.outcome
        error = outcome.exception() if outcome else None
        log.warning("the control database is away, next try in %.0f s: %s", state.upcoming_sleep, error)

    def pause(seconds: float) -> None:
        ending.wait(seconds)

    with _locked(places.file, "follow.lock", wait=False):
        while not ending.is_set():
            for attempt in Retrying(
                retry=retry_if_exception_type((psycopg.OperationalError, UnreachableServer)),
                wait=wait_exponential(0.5, max=30),
                stop=lambda _: ending.is_set(),
                sleep=pause,
                before_sleep=say,
                reraise=True,
            ):
                with attempt:
                    if ending.is_set():
                        return
                    _until_due(dsn, places, ending, every_s)


def _until_due(dsn: str, places: Places, ending: Flag, every_s: float) -> None:
    """Anchor what there is, then each decision as it comes, for ``every_s`` seconds."""
    due = time.monotonic() + every_s
    with Ledger(dsn) as ledger:
        covered = _anchor(ledger, places) or (ledger.head() or Head(0, 0, b"")).last_id
        for event in ledger.tail(
            covered, wake_up_timeout_s=min(1.0, every_s), stop=lambda: ending.is_set() or time.monotonic() >= due
        ):
            if event.event_type in DECISIONS and event.id > covered:
                covered = _anchor(ledger, places) or covered
            if ending.is_set():
                return


def _anchor(ledger: Ledger, places: Places) -> int | None:
    made = anchor(ledger, places)
    if made is None:
        return None
    log.info("anchored block %s, event %s, as anchor %s", made.head.n, made.head.last_id, made.number)
    return made.head.last_id
