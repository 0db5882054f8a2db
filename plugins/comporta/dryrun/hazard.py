"""A hazard, the checklist of thirty of them, and what the rules that look for them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from pglast import ast

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, LockHold
from comporta.dryrun.measure import ScriptMeasurement, StatementMeasurement
from comporta.postgres.script import Script, Statement
from comporta.release.model import Budget

Severity = Literal["stop", "warn", "note"]

ORDER: Final[Mapping[str, int]] = {"stop": 0, "warn": 1, "note": 2}


@dataclass(frozen=True)
class Hazard:
    """One finding. ``code`` is ``H01`` .. ``H30`` of the checklist (``H00``: the script failed); ``statement`` 0: the whole."""

    code: str
    title: str
    severity: Severity
    object: str
    statement: int
    evidence: str
    cure: str
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """One line of the checklist. ``how``: static, measured, compared, preflight, elsewhere; several joined by ``+``."""

    number: int
    title: str
    how: str
    note: str

    @property
    def code(self) -> str:
        """``H07`` for number 7."""
        return f"H{self.number:02}"


CHECKLIST: Final = (
    Check(
        1,
        "Waits in the lock queue with everyone behind it",
        "static+measured",
        "own waits and others' waits from the trace; a strong lock without lock_timeout",
    ),
    Check(2, "Lock held longer than the budget", "measured", "exact in transactions, sampled elsewhere"),
    Check(3, "lock_timeout cuts CONCURRENTLY short", "static+measured", "the setting in force at the statement"),
    Check(4, "Invalid index left behind", "compared", "pg_index.indisvalid before and after"),
    Check(5, "CONCURRENTLY missing", "static+measured", "severity by the measured hold"),
    Check(6, "CONCURRENTLY inside a transaction", "static", ""),
    Check(7, "Table rewritten", "static+measured", "pg_class.relfilenode of what existed before"),
    Check(8, "Full scan under a lock", "static+measured", "constraints that are checked while the lock is held"),
    Check(9, "Long write in one transaction", "static+measured", "rows of a statement, waits for its rows, dead rows"),
    Check(10, "WAL burst", "measured", "WAL bytes of the session; slot retention and replicas are preflight"),
    Check(11, "Sequence or identity not carried", "compared", "fingerprint"),
    Check(12, "Owner, grants, row level security or policies lost", "compared", "fingerprint"),
    Check(13, "Triggers or rules lost", "compared", "fingerprint"),
    Check(14, "Foreign keys lost or left on the old table", "compared", "fingerprint"),
    Check(15, "Views or functions still read the old table", "compared", "fingerprint"),
    Check(16, "Comments, options, statistics targets or indexes lost", "compared", "fingerprint"),
    Check(
        17,
        "Cached plan must not change its result type",
        "static",
        "changed columns; that a client prepares 'select *' cannot be seen here",
    ),
    Check(18, "Rows stuck in the DEFAULT partition", "compared", "rows of each default partition before and after"),
    Check(19, "ATTACH or DETACH under a strong lock", "static+measured", "severity by the measured hold"),
    Check(
        20, "No statistics before traffic", "compared", "new tables never analysed; plans are compared by the probes"
    ),
    Check(21, "Logical replication loses its rows", "compared", "replica identity and publication of each table"),
    Check(22, "Long, idle or prepared transactions", "preflight", "looked at before the start"),
    Check(
        23, "Autovacuum in the way", "measured+preflight", "waits behind an autovacuum worker; wraparound in preflight"
    ),
    Check(24, "Disk full midway", "measured+preflight", "peak growth measured; headroom in preflight"),
    Check(25, "Renamed or removed under running applications", "static+compared", "names that are gone afterwards"),
    Check(26, "Fails on the data", "measured", "the script ran on a full copy of the data"),
    Check(27, "Drift since approval", "preflight", "the fingerprint of the proof against that of the target"),
    Check(28, "Rollback without care", "static", "CASCADE, missing lock_timeout; lost writes are proved in stage 3"),
    Check(29, "Irreversible type or extension change", "static", "enum values, extension updates, int4 keys"),
    Check(
        30, "search_path of SECURITY DEFINER, rights of views", "static", "functions and views that the script makes"
    ),
)
_TITLES: Final = {check.code: check.title for check in CHECKLIST} | {"H00": "The script failed"}


def coverage(hazards: Sequence[Hazard]) -> list[dict[str, Any]]:
    """The checklist with what was found of each, for the report."""
    return [
        {**asdict(check), "code": check.code, "found": sum(hazard.code == check.code for hazard in hazards)}
        for check in CHECKLIST
    ]


MB: Final = 1_000_000


@dataclass
class Look:
    """The script, its measurement and what earlier statements of the script made."""

    script: Script
    run: ScriptMeasurement | None
    budget: Budget
    made: set[str] = field(default_factory=set)
    lock_timeout_ms: int = 0
    in_transaction: bool = False

    def measured(self, statement: Statement) -> StatementMeasurement | None:
        if self.run is None:
            return None
        return next((each for each in self.run.statements if each.number == statement.number), None)

    def in_use(self, statement: Statement, relation: ast.RangeVar | None) -> bool:
        """Whether others can use the relation: it existed before the script and was not made by it."""
        if relation is None:
            return False
        name, schema = str(relation.relname), str(relation.schemaname or "")
        if schema == "comporta" or name in self.made or f"{schema}." in self.made:
            return False
        ran = self.measured(statement)
        for lock in ran.locks if ran else ():
            if bare(lock.relation) == name:
                return lock.reachable
        if self.run is None:
            return True
        return any(r.name == name and schema in ("", r.schema) for r in self.run.before.relations)

    def severity(self, statement: Statement, unmeasured: Severity = "warn") -> tuple[Severity, str]:
        """How bad the locks of a statement were, and the numbers that say so; ``unmeasured`` when it did not run."""
        ran = self.measured(statement)
        if ran is None or ran.error is not None:
            return unmeasured, "not measured: the statement did not run"
        holds = [lock for lock in ran.locks if lock.reachable and lock.blocks_writes]
        longest = max(holds, key=lambda lock: lock.seconds, default=None)
        if longest is None:
            return "note", f"no lock that blocks anyone was seen in {in_ms(ran.seconds)}"
        evidence = f"{in_words(longest.mode)} on {longest.relation} for {in_ms(longest.seconds)}"
        return self.by_hold(longest), evidence

    def by_hold(self, hold: LockHold) -> Severity:
        """Severity of one hold: above the stall budget it stops, above the lock budget it warns."""
        if hold.seconds * 1000 > self.budget.longest_stall_ms:
            return "stop"
        exclusive = hold.mode == ACCESS_EXCLUSIVE
        return "warn" if exclusive and hold.seconds * 1000 > self.budget.longest_exclusive_lock_ms else "note"


def found(code: str, severity: Severity, thing: str, statement: Statement | None, evidence: str, cure: str) -> Hazard:
    """A finding of ``code`` on ``thing``, at ``statement`` or (None) of the whole script."""
    number, line = (statement.number, statement.line) if statement else (0, 0)
    return Hazard(code, _TITLES[code], severity, thing, number, evidence, cure, line)


def in_ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def in_words(mode: str) -> str:
    """``ACCESS EXCLUSIVE`` for ``AccessExclusiveLock``."""
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in mode.removesuffix("Lock"))
    return words.strip().upper()


def bare(qualified: str) -> str:
    return qualified.rpartition(".")[2].strip('"')


def named(relation: Any) -> str:
    return f"{relation.schemaname}.{relation.relname}" if relation.schemaname else str(relation.relname)
