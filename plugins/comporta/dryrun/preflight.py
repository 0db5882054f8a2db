"""Preflight: what is wrong with the target before anything is tried on it. Reads only; no data is never good news."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from comporta.postgres.queries import load
from comporta.proof.fingerprint import SEQUENCE_POSITIONS, Fingerprint, diff, take

Severity = Literal["stop", "warn", "note"]
Rows = Cursor[tuple[Any, ...]]

SAMPLED_ROWS: Final = 2_000
_DIFFERENCES_SHOWN: Final = 50
_ORDER: Final = {"stop": 0, "warn": 1, "note": 2}
# Not allowed, not loaded (pg_stat_statements outside shared_preload_libraries), busy, or gone since it was listed.
_CANNOT_LOOK: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UndefinedTable,
)
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")

# What to do about each finding, and its number in the checklist of hazards.
_CURES: Final[dict[str, tuple[str, str]]] = {
    "long-transaction": ("H22", "Wait for it or end it with pg_terminate_backend."),
    "idle-in-transaction": (
        "H22",
        "Ask its owner to end it, or use pg_terminate_backend; set idle_in_transaction_session_timeout.",
    ),
    "activity-hidden": ("H22", "Grant pg_read_all_stats to the role."),
    "prepared-transaction": ("H22", "COMMIT PREPARED or ROLLBACK PREPARED."),
    "wraparound-vacuum": ("H23", "Let it finish."),
    "autovacuum-running": ("H23", "Nothing to do; it may be cancelled and start again."),
    "wraparound-near": ("H23", "VACUUM (FREEZE) the oldest tables first."),
    "few-connections-left": ("", "Close sessions or raise max_connections."),
    "standby": ("", "Use the primary."),
    "slot-inactive": ("H10", "Start its consumer, or drop the slot."),
    "replica-behind": ("H10", "Wait until it has caught up."),
    "invalid-index": ("H04", "REINDEX INDEX CONCURRENTLY, or drop it."),
    "constraint-not-valid": ("H14", "ALTER TABLE .. VALIDATE CONSTRAINT, or record why not."),
    "trigger-disabled": ("H13", "Enable it, or record that this is meant."),
    "sequence-near-its-end": ("H29", "Widen the column and the sequence to bigint."),
    "definer-without-search-path": ("H30", "ALTER FUNCTION .. SET search_path."),
    "published-without-identity": ("H21", "Add a primary key or set REPLICA IDENTITY."),
    "extension-older": ("H29", "Nothing to do now; do not upgrade it during the release."),
    "server-version": ("", "Upgrade the server."),
    "server-differs": ("H29", "Use a shadow server of the same major version."),
    "extension-differs": ("H29", "Install the same version of the extension on the shadow server."),
    "disk-headroom": ("H24", "Free or add disk space before going on."),
    "disk-not-known": ("H24", "Look at the server's disk by hand, and give the space as an argument."),
    "default-partition-rows": ("H18", "Move them to a partition of their own before ranges are added."),
    "geometry-null": ("H26", "Correct them, or make sure that the change allows nulls."),
    "geometry-invalid": ("H26", "Correct them with ST_MakeValid, or make sure that the change does not depend on it."),
    "geometry-srid-mixed": ("H26", "Transform them to one spatial reference."),
    "on-conflict-id": ("H25", "Change it to ON CONFLICT (id, data_referencia) or DO NOTHING before partitioning."),
    "workload-not-known": ("H25", "Install pg_stat_statements, or review the applications' statements by hand."),
    "drift": ("H27", "Find out who changed it; prove again on what stands now."),
    "not-known": ("", "Give the role the right to look, or look by hand."),
}


@dataclass(frozen=True)
class Finding:
    """One thing found: ``stop`` forbids going on, ``warn`` needs a look, ``note`` is for the record."""

    code: str
    severity: Severity
    object: str
    evidence: str
    cure: str
    hazard: str = ""


@dataclass(frozen=True)
class Recorded:
    """The fingerprint that a proof or an approval was given on, and when (with time zone)."""

    fingerprint: Fingerprint
    at: datetime


def preflight(
    conn: Connection[Any],
    *,
    now: datetime,
    tables: Collection[str] | None = None,
    shadow: Connection[Any] | None = None,
    headroom_bytes: int | None = None,
    free_bytes: int | None = None,
    recorded: Recorded | None = None,
) -> list[Finding]:
    """Look over the connected database; worst finding first, and none of severity ``stop`` when nothing forbids going on.

    ``tables`` (schema.table) are those of the release, by default all. ``headroom_bytes`` is the space needed, by default
    the size of the database; ``free_bytes`` is what the disk has, measured when the server runs on this machine. A check
    that fails is a finding too.
    """
    scope = {"tables": None if tables is None else list(tables), "now": now, "sample": SAMPLED_ROWS}
    host = conn.info.host
    checks: dict[str, Callable[[Rows], Iterator[Finding]]] = {
        "activity": lambda cursor: _queried(cursor, "preflight_activity.sql", scope),
        "catalogue": lambda cursor: _queried(cursor, "preflight_catalogue.sql", scope),
        "disk space": lambda cursor: _space(cursor, host, headroom_bytes, free_bytes),
        "rows": lambda cursor: _contents(cursor, scope),
    }
    if shadow is not None:
        checks["versions"] = lambda cursor: _versions(cursor, shadow)
    if recorded is not None:
        checks["drift"] = lambda cursor: _drift(cursor, recorded)
    findings: list[Finding] = []
    own = conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        if own:
            cursor.execute("set transaction isolation level repeatable read, read only")
        cursor.execute(load("comporta.proof", "fingerprint_session.sql"))
        for name, check in checks.items():
            findings += _attempt(conn, cursor, name, check)
    return sorted(findings, key=lambda each: (_ORDER[each.severity], each.code, each.object))


def _attempt(
    conn: Connection[Any], cursor: Rows, name: str, check: Callable[[Rows], Iterator[Finding]]
) -> list[Finding]:
    """Run one check inside a savepoint, so that one that may not look does not end the others."""
    try:
        with conn.transaction():
            return list(check(cursor))
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.UndefinedTable,
    ) as no:
        return [_finding("not-known", "warn", name, f"not known: {str(no).splitlines()[0]}")]


def _finding(code: str, severity: Severity, thing: str, evidence: str) -> Finding:
    hazard, cure = _CURES[code]
    return Finding(code=code, severity=severity, object=thing, evidence=evidence, cure=cure, hazard=hazard)


def _queried(cursor: Rows, query: LiteralString, scope: dict[str, Any]) -> Iterator[Finding]:
    for row in cursor.execute(load("comporta.dryrun", query), scope).fetchall():
        yield _finding(*row)


def _space(cursor: Rows, host: str, needed: int | None, free: int | None) -> Iterator[Finding]:
    """Compare free space with what is needed; a disk that cannot be looked at is a warning, never a pass."""
    size, directory = cursor.execute(load("comporta.dryrun", "preflight_space.sql")).fetchone() or (0, None)
    wanted = size if needed is None else needed
    if free is None:
        free = _free_bytes(host, directory)
    if free is None:
        evidence = f"not known: free space of the server cannot be seen from here; the database has {_size(size)}"
        yield _finding("disk-not-known", "warn", "disk", evidence)
    elif free < 2 * wanted:
        evidence = f"{_size(free)} free, {_size(wanted)} needed"
        yield _finding("disk-headroom", "stop" if free < wanted else "warn", "disk", evidence)


def _free_bytes(host: str, directory: str | None) -> int | None:
    if directory is None or not (host in _LOCAL or host.startswith("/")):
        return None
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def _versions(cursor: Rows, shadow: Connection[Any]) -> Iterator[Finding]:
    """A shadow of another version proves little: PostGIS and the server's major version must be the same."""
    query = load("comporta.dryrun", "preflight_extensions.sql")
    here = cursor.execute(query).fetchall()
    with shadow.cursor(row_factory=tuple_row) as other:
        there = other.execute(query).fetchall()
    (mine,), (its,) = ([row[2] for row in rows if row[0] == "server"] for rows in (here, there))
    if mine.split(".")[0] != its.split(".")[0]:
        yield _finding("server-differs", "stop", "server", f"target has {mine}, shadow has {its}")
    elif mine != its:
        yield _finding("server-differs", "note", "server", f"target has {mine}, shadow has {its}")
    offered: dict[str, set[str]] = {}
    for kind, name, version in there:
        if kind != "server":
            offered.setdefault(name, set()).add(version)
    for kind, name, version in here:
        if kind == "installed" and version not in offered.get(name, ()):
            found = ", ".join(sorted(offered.get(name, ()))) or "none"
            severity: Severity = "stop" if name.startswith("postgis") else "warn"
            yield _finding("extension-differs", severity, name, f"target has {version}, shadow offers {found}")


def _drift(cursor: Rows, recorded: Recorded) -> Iterator[Finding]:
    differences = diff(recorded.fingerprint, take(cursor.connection), ignore=[SEQUENCE_POSITIONS])
    since = f"drifted since {recorded.at.isoformat(timespec='seconds')}"
    for each in differences[:_DIFFERENCES_SHOWN]:
        yield _finding("drift", "stop", f"{each.object_kind} {each.object_name}", f"{since}: {each}")
    if len(differences) > _DIFFERENCES_SHOWN:
        yield _finding(
            "drift", "stop", "catalogue", f"{since}: {len(differences) - _DIFFERENCES_SHOWN} more differences"
        )


def _contents(cursor: Rows, scope: dict[str, Any]) -> Iterator[Finding]:
    """What only the rows can tell: default partitions, geometries, and the statements that applications send."""
    sources = cursor.execute(load("comporta.dryrun", "preflight_sources.sql"), scope).fetchall()
    for kind, schema, name, column, place, percent in sources:
        if kind == "default partition":
            yield from _default_partition(cursor, sql.Identifier(schema, name), f"{schema}.{name}")
        if kind == "geometry":
            yield from _geometries(cursor, (schema, name, column), place, percent)
    statements = [schema for kind, schema, *_ in sources if kind == "statements"]
    if statements:
        yield from _workload(cursor, statements[0], scope["tables"])
    else:
        evidence = "not known: pg_stat_statements is not installed, so what applications send cannot be seen"
        yield _finding("workload-not-known", "warn", "pg_stat_statements", evidence)


def _default_partition(cursor: Rows, relation: sql.Identifier, name: str) -> Iterator[Finding]:
    query = sql.SQL("select count(*) from (select from {} limit 1000) s").format(relation)
    (rows,) = cursor.execute(query).fetchone() or (0,)
    if rows:
        counted = "1000 or more" if rows == 1000 else str(rows)
        yield _finding("default-partition-rows", "warn", name, f"default partition holds {counted} rows")


def _geometries(cursor: Rows, column: tuple[str, str, str], place: str, percent: float) -> Iterator[Finding]:
    """Look at a bounded sample of pages; counts are of the sample, and say so."""
    query = sql.SQL(
        "select count(*), count(*) filter (where s.geom is null), count(*) filter (where not {valid}(s.geom)),"
        " count(distinct {srid}(s.geom))"
        " from (select {column} as geom from {relation} tablesample system ({percent}) repeatable (1) limit {rows}) s"
    ).format(
        valid=sql.Identifier(place, "st_isvalid"),
        srid=sql.Identifier(place, "st_srid"),
        column=sql.Identifier(column[2]),
        relation=sql.Identifier(*column[:2]),
        percent=sql.Literal(percent),
        rows=sql.Literal(SAMPLED_ROWS),
    )
    rows, nulls, invalid, references = cursor.execute(query).fetchone() or (0, 0, 0, 0)
    name = ".".join(column)
    of = f"of {rows} rows looked at" + ("" if percent >= 100 and rows < SAMPLED_ROWS else " (a sample)")
    if nulls:
        yield _finding("geometry-null", "warn", name, f"{nulls} {of} have no geometry")
    if invalid:
        yield _finding("geometry-invalid", "warn", name, f"{invalid} {of} have an invalid geometry")
    if references > 1:
        yield _finding("geometry-srid-mixed", "warn", name, f"{references} spatial references {of}")


def _workload(cursor: Rows, schema: str, tables: list[str] | None) -> Iterator[Finding]:
    """``ON CONFLICT (id)`` needs a unique index on id alone, which a partitioned table cannot have."""
    query = sql.SQL(
        "select w.query, w.calls from {statements} w join pg_database d on d.oid = w.dbid"
        " where d.datname = current_database() and w.query ~* '\\mon\\s+conflict\\s*\\(\\s*id\\s*\\)' order by w.calls desc"
    ).format(statements=sql.Identifier(schema, "pg_stat_statements"))
    names = None if tables is None else [table.rpartition(".")[2].strip('"') for table in tables]
    for text, calls in cursor.execute(query).fetchall():
        if names is None or any(name in text for name in names):
            yield _finding("on-conflict-id", "warn", " ".join(text.split())[:200], f"called {calls} times")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
