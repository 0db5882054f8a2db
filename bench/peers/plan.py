"""What every tool is given: the release's own scripts, and the few that are wrong or careless on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from comporta.release.model import Release

LEFT_BEHIND = """

grant update on catalogue.geometrias to gis_reader;
comment on table catalogue.geometrias is 'left behind';
"""


@dataclass(frozen=True)
class Step:
    """One change as three texts; an empty ``verify`` means that there is nothing to verify."""

    name: str
    apply: str
    verify: str
    rollback: str
    requires: tuple[str, ...] = ()


Plan = tuple[Step, ...]


def of_release(release: Release) -> Plan:
    """The release's changes, byte for byte."""
    return tuple(
        Step(
            change.name,
            change.apply.path.read_text(encoding="utf-8"),
            change.verify.path.read_text(encoding="utf-8"),
            change.rollback.path.read_text(encoding="utf-8"),
            change.requires,
        )
        for change in release.changes
    )


def only(plan: Plan, name: str, *, rollback_adds: str = "") -> Plan:
    """The one change called ``name``, with something appended to its rollback."""
    step = next(step for step in plan if step.name == name)
    return (Step(step.name, step.apply, step.verify, step.rollback + rollback_adds),)


CARELESS_COLUMN: Plan = (
    Step(
        "careless_column",
        "alter table catalogue.geometrias add column careless_note text;\n",
        "select careless_note from catalogue.geometrias limit 0;\n",
        "alter table catalogue.geometrias drop column careless_note;\n",
    ),
)

# Not transactional and not repeatable: killed in the middle, its first statement cannot run twice.
CARELESS_INDEXES: Plan = (
    Step(
        "careless_indexes",
        "create index concurrently careless_one on catalogue.geometrias (created_at);\n"
        "create index concurrently careless_two on catalogue.geometrias (updated_at);\n",
        "select 'catalogue.careless_one'::regclass, 'catalogue.careless_two'::regclass;\n",
        "drop index concurrently catalogue.careless_one;\nselect pg_sleep(10);\n"
        "drop index concurrently catalogue.careless_two;\n",
    ),
)
