"""Hazards that show only when the catalogue before is set against the catalogue after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from comporta.dryrun.hazard import MB, Hazard, Severity, found
from comporta.dryrun.measure import CatalogueSnapshot, RelationSize, ScriptMeasurement
from comporta.proof.fingerprint import Difference

_WORTH_ANALYZE_BYTES: Final = 256 * 1024


def compare_snapshots(run: ScriptMeasurement) -> Iterator[Hazard]:
    before, after = run.before, run.after
    known = {relation.oid for relation in before.relations}
    schemas = {relation.schema for relation in before.relations}
    yield from _invalid_indexes(before, after, schemas)
    yield from _stray_rows(before, after)
    for relation in after.relations:
        if relation.oid not in known and relation.schema in schemas:
            yield from _new_table(relation)
    if run.role == "apply" and run.ok:
        yield from _gone(before, after)
    for table in after.relations:
        was = next((r for r in before.relations if r.oid == table.oid), None)
        if (
            was is not None
            and table.kind == "r"
            and table.dead_rows - was.dead_rows > max(10_000, table.rows_estimate // 5)
        ):
            yield found(
                "H09",
                "note",
                table.qualified,
                None,
                f"{table.dead_rows - was.dead_rows} more dead rows of {table.rows_estimate}, "
                f"{(table.bytes - was.bytes) / MB:+.1f} MB",
                "Vacuum between batches; smaller batches.",
            )


def _invalid_indexes(before: CatalogueSnapshot, after: CatalogueSnapshot, schemas: set[str]) -> Iterator[Hazard]:
    for name in after.invalid_indexes:
        already = name in before.invalid_indexes
        table = _table_of(after, name)
        yield found(
            "H04",
            "warn" if already else "stop",
            name,
            None,
            f"invalid index on {table}{', as before the script' if already else ''}: every write keeps it, no query uses it",
            f"DROP INDEX CONCURRENTLY {name}, then build it again without a short lock_timeout.",
        )
    for relation in after.relations:
        if relation.kind == "I" and relation.valid is False and relation.schema in schemas:
            yield found(
                "H04",
                "warn",
                relation.qualified,
                None,
                "partitioned index without an index on every partition",
                "Create and ATTACH the missing ones.",
            )


def _table_of(snapshot: CatalogueSnapshot, index: str) -> str:
    by_oid = {relation.oid: relation.qualified for relation in snapshot.relations}
    return next((by_oid.get(r.belongs_to, "?") for r in snapshot.relations if r.qualified == index), "?")


def _stray_rows(before: CatalogueSnapshot, after: CatalogueSnapshot) -> Iterator[Hazard]:
    for name, rows in after.default_rows.items():
        more = rows - before.default_rows.get(name, 0)
        if more > 0:
            yield found(
                "H18",
                "warn",
                name,
                None,
                f"{more} more row(s) in the DEFAULT partition ({rows} now)",
                "Make the partition that these rows belong to and move them in one short transaction.",
            )


def _new_table(relation: RelationSize) -> Iterator[Hazard]:
    if relation.kind in "rm" and not relation.analyzed and relation.bytes > _WORTH_ANALYZE_BYTES:
        yield found(
            "H20",
            "warn",
            relation.qualified,
            None,
            f"{relation.bytes / MB:.1f} MB and never analysed: the planner guesses",
            "ANALYZE it before traffic reaches it.",
        )
    if relation.published and relation.replica_identity == "nothing":
        yield found(
            "H21",
            "stop",
            relation.qualified,
            None,
            "published without a replica identity: updates and deletes fail",
            "A primary key, or ALTER TABLE .. REPLICA IDENTITY.",
        )


def _gone(before: CatalogueSnapshot, after: CatalogueSnapshot) -> Iterator[Hazard]:
    """Names that applications could use before and that nothing answers to now (a view may: see the fingerprint)."""
    names = {relation.qualified for relation in after.relations}
    still = {relation.oid: relation for relation in after.relations}
    for relation in before.relations:
        if relation.kind in "rmp" and relation.qualified not in names:
            moved = still.get(relation.oid)
            where = f"it is now {moved.qualified}" if moved else "it was dropped"
            yield found(
                "H25",
                "note" if moved else "warn",
                relation.qualified,
                None,
                f"no table has this name any more: {where}",
                "Leave a view under the old name as long as anything uses it.",
            )
        elif relation.kind in "rp" and relation.published and not _published(after, relation.qualified):
            yield found(
                "H21",
                "warn",
                relation.qualified,
                None,
                "was published, is not any more",
                "Add the table that stands under the name now to the publication.",
            )


def _published(snapshot: CatalogueSnapshot, name: str) -> bool:
    return any(relation.qualified == name and relation.published for relation in snapshot.relations)


def judge_differences(differences: Iterable[Difference], *, rollback: bool) -> Iterator[Hazard]:
    """Hazards 11 to 16 and 21: facts of the catalogue that are not as they were, one finding a hazard and severity.

    An apply may add what it likes, and what it moves into another schema is not lost; for a rollback, anything counts.
    """
    differences = list(differences)
    added = {_place(each) for each in differences if each.expected is None}
    groups: dict[tuple[str, Severity], list[Difference]] = {}
    for each in differences:
        if each.expected is None and not rollback:
            continue
        lost = each.found is None and not {_place(each), _whole(each)} & added
        severity: Severity = "stop" if rollback else "warn" if lost else "note"
        groups.setdefault((_kind_of_loss(each), severity), []).append(each)
    for (code, severity), group in groups.items():
        yield found(
            code,
            severity,
            _objects(group),
            None,
            "; ".join(map(_in_a_word, group[:_TOLD]))
            + (f"; and {len(group) - _TOLD} more" if len(group) > _TOLD else ""),
            "Carry it over from pg_catalog when the object is made again.",
        )


def _place(change: Difference) -> tuple[str, str, str]:
    """What an object or property is called wherever it stands: kind, name and property without their schemas."""
    if change.property == "existence":
        return change.object_kind, _local(change.object_name), "existence"
    return "", "", _local(change.property) if change.property.startswith(_ABOUT_OTHERS) else repr(change)


def _whole(change: Difference) -> tuple[str, str, str]:
    return change.object_kind, _local(change.object_name), "existence"


def _local(name: str) -> str:
    """``x on b`` for ``x on a.b``, ``b`` for ``a.b``; of a column also its table."""
    return " ".join(part.partition(".")[2] or part for part in name.split(" "))


def _objects(group: Sequence[Difference]) -> str:
    names = sorted({f"{each.object_kind} {each.object_name}" for each in group})
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _in_a_word(change: Difference) -> str:
    thing = f"{change.object_kind} {change.object_name}"
    if change.property != "existence":
        thing = f"{thing}, {change.property}"
    return f"{thing}: expected {_short(change.expected)}, found {_short(change.found)}"


# Properties that name another object, which may have moved.
_ABOUT_OTHERS: Final = ("referenced by", "inherits from", "reads ", "table ", "enforced by")
_TOLD: Final = 8
_BY_KIND: Final = {
    "publication": "H21",
    "sequence": "H11",
    "policy": "H12",
    "default privileges": "H12",
    "trigger": "H13",
    "rule": "H13",
    "constraint": "H14",
    "view": "H15",
    "materialized view": "H15",
    "function": "H15",
    "procedure": "H15",
}
_BY_PROPERTY: Final = (
    ("replica identity", "H21"),
    ("identity", "H11"),
    ("owner", "H12"),
    ("grant ", "H12"),
    ("row level security", "H12"),
    ("forced", "H12"),
    ("referenced by", "H14"),
    ("reads ", "H15"),
)


def _kind_of_loss(change: Difference) -> str:
    """By the property where it says what is lost, else by the kind of object; comments, options and the rest are H16."""
    for beginning, code in _BY_PROPERTY:
        if change.property.startswith(beginning):
            return code
    return _BY_KIND.get(change.object_kind, "H16")


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= 120 else f"{value[:117]}..."
