"""What the rows and the traffic say after a trial: is every row as it was, or as somebody was told that it is?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comporta.demo.late import LateRows, last_edit, late_rows, missing_edits
from comporta.demo.losses import lost_writes
from comporta.demo.operations import SLOW_KINDS
from comporta.demo.record import Operation, TrafficRecord
from comporta.postgres.connection import connect
from comporta.proof.checksum import TableChecksum, checksum_tables, diff_checksums
from comporta.validation.model import Felt, Verdict
from comporta.validation.trial import Trial

Sums = Mapping[str, Sequence[Any]]

# The answers of a server that crashed, recovers or is not there: class 08, 57P01..03, or no answer at all.
_UNANSWERED = ("connection", "08", "57P", "OperationalError", "ConnectionRefusedError", "unfinished", "unsent")


@dataclass(frozen=True)
class Evidence:
    """Checksums of rows that nobody wrote meanwhile, losses, and what the traffic felt."""

    before: Sums
    after: Sums
    reasons: tuple[str, ...]
    lost: tuple[str, ...]
    rows: int
    impossible: bool = False
    felt: Felt = field(default_factory=Felt)

    def verdict(self, trial: Trial) -> Verdict:
        """Holds only when nobody found anything; what could not be tried is no data."""
        if self.impossible:
            return Verdict.NO_DATA
        found = trial.reasons or self.reasons or self.lost or self.felt.failed
        return Verdict.FAILS if found else Verdict.HOLDS


def whole_checksums(source_dsn: str) -> Sums:
    """Checksums of every table of the golden copy or an image, but for the schema ``comporta``."""
    with connect(source_dsn, name="comporta/checksum") as conn:
        sums = checksum_tables(conn)
    return _plain({name: each for name, each in sums.items() if not name.startswith("comporta.")})


def compare_rows(source_dsn: str, dsn: str, record: TrafficRecord | None, *, whole: Sums) -> Evidence:
    """Compare the clone with what it was copied from, table by table: the rows that no write of ``record`` touched.

    Those that were touched are judged by the log of the writes: each acknowledged one must show.
    """
    late = late_rows(dsn, record) if record else None
    if late is None or not late.writes:
        late = None
        expected = {name: TableChecksum(*sums) for name, sums in whole.items()}
    else:
        expected = _sum_up(source_dsn, list(whole), late)
    found = _sum_up(dsn, list(whole), late)
    lost: list[str] = []
    if record and late:
        lost = [*map(str, lost_writes(dsn, record)), *missing_edits(dsn, record, last_edit(source_dsn))]
    reasons = [str(each) for each in diff_checksums(expected, found)]
    if lost:
        reasons.append(f"{len(lost)} acknowledged write(s) lost, such as: {lost[0]}")
    return Evidence(
        before=_plain(expected),
        after=_plain(found),
        reasons=tuple(reasons),
        lost=tuple(lost),
        rows=max((count for count, _ in whole.values()), default=0),
    )


def summarise(record: TrafficRecord | None, trial: Trial, *, excuse: bool) -> Felt:
    """What people felt while scripts ran: slow searches aside, whose time says little about waiting."""
    if record is None or not trial.phases:
        return Felt()
    since, until = trial.phases[0].started, trial.phases[-1].ended
    under_way = [each for each in record.select(since=since, until=until) if each.kind not in SLOW_KINDS]
    failed = record.failed()
    excused = [each for each in failed if excuse and _is_unanswered(each)]
    answered = [each for each in under_way if each.error is None]
    if excuse:  # who waits for a crashed server does not wait for the rollback
        answered = [each for each in answered if not any(_spans(each, fault.at) for fault in trial.faults)]
    longest = max(answered, key=lambda each: each.seconds, default=None)
    return Felt(
        reads=sum(not each.is_write for each in record.operations),
        writes=sum(each.is_write for each in record.operations),
        acknowledged_writes=len(record.acknowledged),
        unanswered_writes=len(record.unknown),
        failed=len(failed) - len(excused),
        excused=len(excused),
        longest_stall_s=longest.seconds if longest else 0.0,
        longest_stall_kind=longest.kind if longest else "",
        stalls=_by_second(answered),
    )


def _sum_up(dsn: str, tables: Sequence[str], late: LateRows | None) -> dict[str, TableChecksum]:
    """Checksums of those tables that are there: one that is gone shows as a difference, not as an error."""
    with connect(dsn, name="comporta/checksum") as conn:
        found = conn.execute("select t from unnest(%s::text[]) t where to_regclass(t) is not null", ([*tables],))
        there = {name for (name,) in found}
        if late is None:
            return checksum_tables(conn, sorted(there))
        left_out = {name: ids for name, ids in late.exclude_ids.items() if name in there}
        return checksum_tables(conn, sorted(there), exclude_ids=left_out, id_columns=late.id_columns)


def _plain(sums: Mapping[str, TableChecksum]) -> dict[str, tuple[int, str]]:
    return {name: (each.rows, each.digest) for name, each in sums.items()}


def _is_unanswered(operation: Operation) -> bool:
    return operation.error is not None and operation.error.startswith(_UNANSWERED)


def _spans(operation: Operation, moment: float) -> bool:
    return operation.at <= moment + 1 and operation.ended >= moment


def _by_second(operations: Sequence[Operation]) -> tuple[tuple[float, float], ...]:
    longest: dict[int, float] = defaultdict(float)
    for each in operations:
        longest[int(each.at)] = max(longest[int(each.at)], each.seconds)
    return tuple((float(second), value) for second, value in sorted(longest.items()))
