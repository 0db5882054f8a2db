"""When does the disk fill? By the bytes that the database needs for the rows of a day, in each state."""

from __future__ import annotations

from comporta.capacity.model import BEFORE
from comporta.capacity.models import Draws
from comporta.capacity.questions.outlook import Outlook, band
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.wording import dated, in_bytes, in_state, unknown

QUESTION = "disk_full"
ASSUMPTIONS = (
    "other databases of the server, its logs and its other files stay as large as they are",
    "a row needs as many bytes as on the shadow, where tables and indexes are freshly packed",
)


def disk_full(outlook: Outlook) -> Told:
    """The day on which the disk is as full as the plan allows, by state."""
    told, target, plan = Told(), outlook.measured.target, outlook.plan
    whole = target.disk_total_bytes or plan.disk_bytes
    objective = f"at most {plan.objectives.disk_share:.0%} of the disk"
    bytes_now = outlook.fitted.database_bytes.get(BEFORE)
    for state in outlook.measured.states:
        database = outlook.fitted.database_bytes.get(state)
        if whole is None or database is None or bytes_now is None:
            why = (
                "the size of the disk is not known (capacity.disk_bytes in config/release.yaml)"
                if whole is None
                else f"the database's bytes {in_state(state, outlook.release)} were not measured"
            )
            told.answers.append(unknown(QUESTION, "disk", state, objective, why))
            continue
        free = target.disk_free_bytes
        known = target.disk_total_bytes is not None and free is not None
        used_now = float(whole - free) if known and free is not None else float(target.cluster_bytes)
        used = database.at(outlook.facts_rows) - bytes_now.at(outlook.facts_rows[0]) + used_now
        limit = plan.objectives.disk_share * whole
        when = outlook.crosses(used, limit)
        last = band(used[-1])
        told.days[state], told.now[state] = when, used[0]
        told.answers.append(
            dated(
                outlook,
                when,
                question=QUESTION,
                subject="disk",
                state=state,
                objective=objective,
                holds=f"{in_state(state, outlook.release)}, the disk is at most {plan.objectives.disk_share:.0%} full",
                also=f"In use now {in_bytes(used_now)} of {in_bytes(whole)}, on {outlook.end} {in_bytes(last.value)} "
                f"(80 %: {in_bytes(last.low)} to {in_bytes(last.high)}).",
                amount=last,
                unit="bytes",
                assumptions=ASSUMPTIONS,
            )
        )
        told.draw("disk", outlook.line(state, used, "bytes"))
    if whole is not None and told.series:
        told.draw("disk", outlook.level("objective", plan.objectives.disk_share * whole, "bytes"))
    return told


def database(outlook: Outlook) -> Draws | None:
    """Bytes of the database with the release on each day; None where they were not measured."""
    found = outlook.fitted.database_bytes.get(outlook.release)
    return found.at(outlook.facts_rows) if found is not None else None
