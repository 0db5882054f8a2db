"""What in a change could hurt people who use the database: found by reading the script, by measuring it, by comparing.

Every hazard of the checklist says how it is looked for, so that a report can tell "looked for and not found" from
"not looked for". A finding carries its numbers and its cure. What a script prepares aside, and nobody else can use, makes
no finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from comporta.dryrun.hazard import CHECKLIST, ORDER, Check, Hazard, Look, Severity, coverage
from comporta.dryrun.hazards_compared import compare_snapshots, judge_differences
from comporta.dryrun.hazards_measured import judge_run
from comporta.dryrun.hazards_read import read_script
from comporta.dryrun.measure import ScriptMeasurement
from comporta.postgres.script import Script
from comporta.proof.fingerprint import Difference
from comporta.release.model import Budget

__all__ = [
    "CHECKLIST",
    "Check",
    "Hazard",
    "Severity",
    "Verdict",
    "coverage",
    "find_hazards",
    "verdict",
    "verdict_of",
]

Verdict = Literal["pass", "warn", "stop"]


def find_hazards(
    script: Script,
    measured: ScriptMeasurement | Mapping[str, Any] | None,
    budget: Budget | None = None,
    differences: Iterable[Difference] = (),
) -> list[Hazard]:
    """Every hazard of one run, worst first; ``measured`` is a measurement, its ``to_json``, or None to only read the script.

    ``differences`` are those between the fingerprints before and after: for a rollback each one is a loss, for an
    apply only what is gone.
    """
    run = ScriptMeasurement.from_dict(measured) if isinstance(measured, Mapping) else measured
    look = Look(script, run, budget or Budget())
    found = [*read_script(look)]
    if run is not None:
        found += [*judge_run(look, run), *compare_snapshots(run)]
    found += judge_differences(differences, rollback=run is not None and run.role == "rollback")
    return sorted(_without_repeats(found), key=lambda hazard: (ORDER[hazard.severity], hazard.statement, hazard.code))


def verdict_of(hazards: Iterable[Hazard]) -> Verdict:
    """``stop`` when anything says stop, ``warn`` when anything warns, else ``pass``."""
    severities = {hazard.severity for hazard in hazards}
    return "stop" if "stop" in severities else "warn" if "warn" in severities else "pass"


def verdict(hazards: Iterable[Hazard], measurement: ScriptMeasurement | Mapping[str, Any] | None) -> Verdict:
    """As ``verdict_of``; a run that failed, or whose lock trace has no data, can never pass."""
    judged = verdict_of(hazards)
    if measurement is None:
        return judged
    run = ScriptMeasurement.from_dict(measurement) if isinstance(measurement, Mapping) else measurement
    if not run.ok:
        return "stop"
    return "warn" if judged == "pass" and not run.trace.complete else judged


def _without_repeats(hazards: Iterable[Hazard]) -> Iterator[Hazard]:
    seen: set[tuple[str, str, int]] = set()
    for hazard in sorted(hazards, key=lambda each: ORDER[each.severity]):
        key = (hazard.code, hazard.object, hazard.statement)
        if key not in seen:
            seen.add(key)
            yield hazard
