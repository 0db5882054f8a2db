"""The fingerprint: every fact of a catalogue that a change could lose, canonical, so that two compare by name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, LiteralString

from psycopg import Connection, Cursor, errors, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from comporta.errors import ComportaError
from comporta.postgres.queries import load
from comporta.postgres.tools import run_client

Facts = Mapping[tuple[str, str], Mapping[str, str]]

FORMAT = 1
_PARTS = ("relations", "columns", "attached", "routines", "database", "grants")
# A concurrent DDL statement can remove an object between two look-ups of one query.
_RACES = (errors.InternalError_, errors.UndefinedTable, errors.UndefinedObject, errors.UndefinedFunction)
_TRIES = 3
_LIBPQ = {
    **{key: f"PG{key.upper()}" for key in ("host", "hostaddr", "port", "user", "password", "sslmode", "options")},
    "dbname": "PGDATABASE",
}
# What an object can have without being one of ours: these alone do not make it an object that appeared or disappeared.
_ACCESSORIES = re.compile(r"grant |comment$|security label |member |setting ")


class FingerprintError(ComportaError):
    """A fingerprint cannot be taken or read: what was wrong with it is named."""


@dataclass(frozen=True)
class Difference:
    """One property of one object that is not as expected; ``None`` means absent, ``existence`` the object as a whole."""

    object_kind: str
    object_name: str
    property: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        thing = f"{self.object_kind} {self.object_name}"
        expected, found = _abridged(self.expected, self.found)
        return f"{_subject(self.property, thing)}: expected {expected}, found {found}"

    def as_json(self) -> dict[str, str | None]:
        """The fields and the sentence, for reports and the ledger."""
        return {
            "kind": self.object_kind,
            "name": self.object_name,
            "property": self.property,
            "expected": self.expected,
            "found": self.found,
            "text": str(self),
        }


@dataclass(frozen=True)
class Fingerprint:
    """Facts as (kind, name) -> property -> value; equal digests mean equal facts."""

    facts: Facts

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over all facts in canonical order."""
        return _digest(self._rows())

    def digest_without(self, *ignore: str) -> str:
        """sha256 (hex) without the named groups (see GROUPS), for comparing across servers or under traffic."""
        skip = _predicate(ignore)
        return _digest(row for row in self._rows() if not skip(row[0], row[2]))

    def as_json(self) -> dict[str, Any]:
        """A plain structure that ``json.dumps`` takes and ``from_json`` gives back."""
        return {"format": FORMAT, "digest": self.digest, "facts": [list(row) for row in self._rows()]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> Fingerprint:
        """Read back ``as_json``; FingerprintError when it was damaged or comes from another format."""
        plain = json.loads(document) if isinstance(document, str | bytes) else document
        if plain.get("format") != FORMAT:
            raise FingerprintError(
                f"fingerprint: expected format {FORMAT}, found {plain.get('format')!r}",
                remedy="Take it again with this version.",
            )
        fingerprint = cls(_collect(tuple(row) for row in plain["facts"]))
        if fingerprint.digest != plain["digest"]:
            raise FingerprintError(
                f"fingerprint: expected digest {plain['digest']}, its facts give {fingerprint.digest}",
                remedy="The record was altered: take the fingerprint again.",
            )
        return fingerprint

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        for kind, name in sorted(self.facts):
            for key, value in sorted(self.facts[kind, name].items()):
                yield kind, name, key, value


# Groups of facts that a caller may leave out by name: the kind of object, and how the property begins.
GROUPS: Mapping[str, tuple[str, str]] = {
    "sequence positions": ("sequence", "next value"),
    "roles": ("role", ""),
    "database": ("database", ""),
    "cron jobs": ("cron job", ""),
    "extension members": ("extension", "member "),
}
SEQUENCE_POSITIONS = "sequence positions"
SEQUENCE_PROGRESS = "sequence progress"  # those that moved on only
# What moves while people use a database, and what is its server's own: left out when a clone, or a later look, is compared.
NOT_OF_THE_SCHEMA = (SEQUENCE_POSITIONS, "roles")


def take(conn: Connection[Any]) -> Fingerprint:
    """Read the fingerprint of the connected database, in the caller's open transaction or in one snapshot of its own.

    Nothing is left behind, neither settings nor locks. In an open READ COMMITTED transaction each part has its own
    snapshot.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        return _take_once(conn)
    for _ in range(_TRIES - 1):
        try:
            return _take_once(conn)
        except _RACES:
            continue
    return _take_once(conn)


def diff(expected: Fingerprint, found: Fingerprint, ignore: Collection[str] = ()) -> list[Difference]:
    """What is not as expected, object by object in canonical order; ``ignore`` names groups (see GROUPS)."""
    skip = _predicate(ignore)
    differences: list[Difference] = []
    for kind, name in sorted(expected.facts.keys() | found.facts.keys()):
        before, after = expected.facts.get((kind, name), {}), found.facts.get((kind, name), {})
        if before == after:
            continue
        if _is_whole(before, after):
            whole = Difference(kind, name, "existence", "present" if before else None, "present" if after else None)
            if not skip(kind, ""):
                differences.append(whole)
            continue
        changed = (key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
        differences += [
            Difference(kind, name, key, before.get(key), after.get(key)) for key in changed if not skip(kind, key)
        ]
    if SEQUENCE_PROGRESS in ignore:
        return [each for each in differences if not _moved_on(each, expected)]
    return differences


def second_opinion(dsn: str) -> str:
    """sha256 (hex) of ``pg_dump --schema-only``, entries sorted, headers removed; FingerprintError when it fails."""
    run = run_client("pg_dump", dsn, "--schema-only", "--exclude-schema=comporta")
    if run.returncode != 0:
        raise FingerprintError(
            f"pg_dump ended with status {run.returncode}: {run.stderr.strip()[:500]}",
            remedy="Check that pg_dump is at least as new as the server.",
        )
    return hashlib.sha256(_normalised_dump(run.stdout).encode()).hexdigest()


def _take_once(conn: Connection[Any]) -> Fingerprint:
    own = conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        if own:
            cursor.execute("set transaction isolation level repeatable read, read only")
        results = _run(cursor, *(f"fingerprint_{part}.sql" for part in ("session", *_PARTS, "sources")))
        rows = [row for part in results[1:-1] for row in part]
        rows += _read_sources(cursor, results[-1])
    return Fingerprint(_collect(rows))


def _run(cursor: Cursor[Any], *names: str) -> list[list[tuple[Any, ...]]]:
    """Run several named queries in one round trip; one list of rows for each."""
    batch: LiteralString = "\n".join([load("comporta.proof", name) for name in names])
    cursor.execute(batch)
    results = [cursor.fetchall()]
    while cursor.nextset():
        results.append(cursor.fetchall())
    return results


def _read_sources(cursor: Cursor[Any], sources: list[tuple[Any, ...]]) -> list[tuple[str, str, str, str]]:
    """Facts that can only be read from the named relation itself: sequence positions and cron jobs."""
    queries: list[sql.Composable] = []
    for kind, schema, name, readable, increment in sources:
        if kind == "cron" and readable:
            queries.append(sql.SQL(load("comporta.proof", "fingerprint_cron.sql").rstrip().rstrip(";")))
        if kind == "sequence":
            queries.append(_position(schema, name, readable, increment))
    if not queries:
        return []
    return cursor.execute(sql.SQL("\nunion all\n").join(queries)).fetchall()


def _position(schema: str, name: str, readable: bool, increment: int) -> sql.Composable:
    if not readable:
        template = "select 'sequence', format('%I.%I', {schema}::text, {name}::text), 'next value', 'not readable'"
        return sql.SQL(template).format(schema=sql.Literal(schema), name=sql.Literal(name))
    return sql.SQL(
        "select 'sequence', format('%I.%I', {schema}::text, {name}::text), 'next value',"
        " (last_value::numeric + case when is_called then {increment} else 0 end)::text from {sequence}"
    ).format(
        schema=sql.Literal(schema),
        name=sql.Literal(name),
        increment=sql.Literal(increment),
        sequence=sql.Identifier(schema, name),
    )


def _collect(rows: Iterable[tuple[Any, ...]]) -> Facts:
    """Group rows by object; two values of one property (unnamed cron jobs can be equal) are kept side by side."""
    facts: dict[tuple[str, str], dict[str, str]] = {}
    for kind, name, key, value in sorted(rows):
        properties = facts.setdefault((kind, name), {})
        properties[key] = f"{properties[key]} | {value}" if key in properties else value
    return facts


def _digest(rows: Iterable[tuple[str, str, str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(rows), ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _predicate(ignore: Collection[str]) -> Callable[[str, str], bool]:
    unknown = set(ignore) - GROUPS.keys() - {SEQUENCE_PROGRESS}
    if unknown:
        raise FingerprintError(
            f"no such group of facts: {', '.join(sorted(unknown))}",
            remedy=f"Choose from {', '.join([*GROUPS, SEQUENCE_PROGRESS])}.",
        )
    groups = [GROUPS[name] for name in ignore if name in GROUPS]
    return lambda kind, key: any(kind == group and key.startswith(prefix) for group, prefix in groups)


def _is_whole(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """True when the object as such appeared or disappeared, not just something said about it."""
    return not (before and after) and any(not _ACCESSORIES.match(key) for key in {**before, **after})


def _moved_on(each: Difference, expected: Fingerprint) -> bool:
    if each.object_kind != "sequence" or each.property != "next value":
        return False
    try:
        step = int(expected.facts[each.object_kind, each.object_name]["increment"])
        return (int(each.found or "") - int(each.expected or "")) * step >= 0
    except ValueError:
        return False


def _subject(key: str, thing: str) -> str:
    if key == "existence":
        return thing
    if key.startswith("grant "):
        privilege, _, grantee = key.partition(" to ")
        return f"{privilege} on {thing} to {grantee}"
    return f"{key} of {thing}"


def _abridged(expected: str | None, found: str | None, width: int = 160) -> tuple[str, str]:
    """Both values in one line each; long ones are cut to the neighbourhood of their first difference."""
    if expected is None or found is None:
        return _cut(expected, 0, width), _cut(found, 0, width)
    pairs = enumerate(zip(expected, found, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(expected), len(found)))
    start = max(0, first - width // 2) if max(len(expected), len(found)) > width else 0
    return _cut(expected, start, width), _cut(found, start, width)


def _cut(value: str | None, start: int, width: int) -> str:
    if value is None:
        return "absent"
    part = value[start : start + width]
    text = ("..." if start else "") + part + ("..." if start + width < len(value) else "")
    return " ".join(text.split()) or "''"


def _normalised_dump(text: str) -> str:
    """Sort the entries of a dump and drop what differs from run to run: headers, versions, the restrict token."""
    entries = re.split(r"^--\n-- Name: .*\n--\n", text, flags=re.MULTILINE)
    return "\n\n".join(sorted(filter(None, map(_statements, entries))))


def _statements(entry: str) -> str:
    return "\n".join(line for line in entry.splitlines() if line and not line.startswith(("--", "\\")))
