"""What a rollout looks at before it touches the target; each finding of severity ``stop`` forbids it. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from comporta.dryrun.preflight import Finding, preflight
from comporta.health import Health
from comporta.ledger import EventType, Ledger
from comporta.postgres.connection import Connection
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Release
from comporta.rollout.standing import Board, Seen
from comporta.validation.validity import ProofStatus, recorded_proofs, validity

_LOOKED_AT = 200


def of_target(conn: Connection, release: Release, ledger: Ledger, board: Board) -> list[Finding]:
    """Long transactions, invalid indexes, headroom by what STAGE 2 measured, and the rest of STAGE 2's preflight,
    on the target."""
    needed = headroom(ledger, release, board)
    tables = {table for change in release.changes for table in change.tables}
    there = {
        name for name in tables if conn.execute("select to_regclass(%s) is not null", (name,)).fetchone() == (True,)
    }
    found = preflight(conn, now=datetime.now(UTC), tables=sorted(there), headroom_bytes=needed or 0)
    if needed is None:
        found.append(
            Finding(
                "headroom-not-measured",
                "stop",
                "disk",
                "no dry run of exactly these scripts measured how much disk they take: no data is not enough room",
                "Run STAGE 2 (`comporta dry-run`), then start again.",
                "H24",
            )
        )
    return found


def headroom(ledger: Ledger, release: Release, board: Board) -> int | None:
    """Bytes that the changes still to be applied took at their peak on the clone, all of them together; None where
    one of them was not measured with its script of now."""
    peaks: dict[str, int] = {}
    for event in ledger.latest(_LOOKED_AT, event_type=EventType.CHANGE_APPLIED):
        scripts = {change.name: change.apply.sha256 for change in release.changes}
        payload = event.payload
        measured = payload.get("disk_growth_peak_bytes")
        if (
            event.feature == release.name
            and payload.get("script") == scripts.get(str(event.phase))
            and measured is not None
        ):
            peaks[str(event.phase)] = int(measured)
    wanted = [change.name for change in release.changes if not board[change.name].whole]
    return sum(peaks[name] for name in wanted) if all(name in peaks for name in wanted) else None


def proofs(
    release: Release, ledger: Ledger, base: Fingerprint | None, recall: Callable[[Seen], Fingerprint | None]
) -> list[ProofStatus]:
    """Where every proof stands that the release owes, for the scripts of now and the target as it was without any change."""

    def recorded(path: str) -> Fingerprint | None:
        return recall(Seen("", path))

    unknown = "" if base else "its fingerprint from before the rollout is no longer kept under archives/"
    return validity(recorded_proofs(ledger), release, base, recorded=recorded, unreachable=unknown)


def of_proofs(
    release: Release, ledger: Ledger, base: Fingerprint | None, recall: Callable[[Seen], Fingerprint | None]
) -> Iterator[Finding]:
    """A stop for every proof that is not valid."""
    for each in proofs(release, ledger, base, recall):
        if not each.valid:
            yield Finding(
                "proof-not-valid",
                "stop",
                f"proof {each.subject} · {each.scenario}",
                f"{each.state}: {'; '.join(each.reasons)}",
                "Run STAGE 3 (`comporta prove --all`), then start again.",
            )


def of_health(health: Health) -> Iterator[Finding]:
    """A stop when a breaker is open, or when nobody can say how the target is."""
    if health.state != "ok":
        yield Finding(
            "unwell",
            "stop",
            "health of the target",
            f"{health.state}: {'; '.join(health.why)}",
            "See `comporta health status`, and docs/health.md.",
        )


def drifted(difference: str) -> Finding:
    """A stop for a property of the target that nobody can explain."""
    return Finding(
        "drift",
        "stop",
        "the target",
        f"drifted from what is on record: {difference}",
        "Undo it, or prove the release again on the target as it is now (STAGE 2, STAGE 3).",
        "H27",
    )
