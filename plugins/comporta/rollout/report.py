"""The rollout report: what stands on the target, what was brought back and whether that is proven, and who decided what.

Computed from events of the ledger, and from samples of health and latency where there are any. What is not there is shown as
no data, and never counts as good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from comporta.ledger import Event, EventType
from comporta.release.model import Budget
from comporta.reports.page import Report, write_report
from comporta.rollout import report_facts as facts
from comporta.rollout import report_plots as plots
from comporta.rollout.report_samples import Sampled, canaries, keep, seen
from comporta.rollout.report_story import ChangeStory, Story, run_of, tell, texts

NAME = "rollout"
_TOUCHING = (EventType.ROLLOUT_REFUSED, EventType.ROLLOUT_APPLY_STARTED, EventType.ROLLBACK_STARTED)


class Listed(Protocol):
    """What the report needs to know of a change; ``comporta.release.model.Change`` has it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def budget(self) -> Budget: ...


def write_rollout_report(
    folder: Path,
    *,
    events: Iterable[Event],
    health: Iterable[Sampled] = (),
    release_name: str,
    title: str,
    run: str,
    started: datetime,
    now: datetime,
    target: str,
    changes: Sequence[Listed],
    drift: Sequence[str] | None = None,
) -> tuple[Report, str, list[str]]:
    """Write ``rollout.html`` and ``rollout.json`` into ``folder``; returns them, ``pass`` or ``stop``, and why it is a stop.

    ``events`` are those of ``report_events.events_of``, in any order: what stands is folded from all of them, what is shown
    begins with this run. ``changes`` are those of the release in its order. ``drift`` is what nothing explains on the target
    now, None where nobody looked: then the events decide. Samples of ``health`` are kept in ``rollout_samples.json``, so that
    a later report of the run has them still.

    It passes only if every change of the run's preflight, and every one that it touched, is in place and verified, or was rolled
    back by a person with the catalogue as it must be. The same events and samples give the same digest, whenever it is written.
    """
    told = facts.sort_out(events, run, started)
    names = [change.name for change in changes]
    story = tell(told.rollout, names)
    asked = _asked(told.shown, run, names)
    reasons = list(_reasons(story, asked, told, _drifted(story, told) if drift is None else drift))
    verdict = "stop" if reasons else "pass"
    drawn = facts.spans(story, told.since)
    samples = keep(folder / f"{NAME}_samples.json", (each for each in seen(health) if each.at >= told.since))
    timed = canaries(samples)
    locks = facts.locks(drawn, {change.name: change.budget for change in changes})
    acts, transitions = facts.acts(told), facts.transitions(told)
    data: dict[str, Any] = {
        "name": release_name,
        "title": title,
        "run": run,
        "started": f"{started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "started_by": next((event.actor for event in told.shown if run_of(event) == run), None),
        "target": target,
        "targets": sorted({str(event.payload["target"]) for event in told.shown if event.payload.get("target")}),
        "verdict": verdict,
        "sentence": _sentence(story, asked),
        "reasons": reasons,
        "changes": facts.changes(story, {change.name: change.title for change in changes}, asked),
        "rollbacks": facts.rollbacks(story, told.since),
        "spans": facts.plain(drawn),
        "acts": acts,
        "gates": facts.gates(told),
        "locks": locks,
        "baseline": facts.baseline(told),
        "latencies": facts.latencies(drawn, timed),
        "breakers": facts.breakers(samples, transitions, drawn),
        "transitions": transitions,
        "failures": facts.failures(story, told.since),
        "preflights": facts.preflights(story, told.since),
        "drifts": facts.drifts(story, told.since),
        "events": facts.lines(told),
        "samples": {"health": facts.counted(samples), "queries": facts.counted(timed)},
    }
    figures = {
        "timelines": plots.timelines(drawn, transitions, acts, list(story.changes)),
        "locks": plots.locks(locks),
        "latencies": plots.latencies(drawn, timed),
        "breakers": plots.breakers(samples, transitions),
        "values": plots.values(samples),
    }
    return write_report(folder, NAME, "rollout.html.j2", data, figures, now), verdict, reasons


def _asked(shown: Sequence[Event], run: str, names: Sequence[str]) -> list[str]:
    """The changes that this run was about: those of its preflight, and those that it touched; all where nothing says it."""
    mine = [event for event in shown if run_of(event) == run]
    meant = [texts(event.payload.get("changes")) for event in mine if event.event_type == EventType.ROLLOUT_PREFLIGHTED]
    touched = [event.phase for event in mine if event.event_type in _TOUCHING and event.phase]
    found = {*(meant[-1] if meant else ()), *touched}
    return [*(name for name in names if name in found), *sorted(found.difference(names))] or list(names)


def _drifted(story: Story, told: facts.Told) -> Sequence[str]:
    """What the last drift of this run was, unless a preflight has passed since."""
    last = next((event for event in reversed(story.drifts) if event.timestamp >= told.since), None)
    over = (event.id for event in story.preflights if event.payload.get("verdict") == "pass")
    if last is None or any(each > last.id for each in over):
        return ()
    return texts(last.payload.get("differences")) or ("no difference was recorded",)


def _reasons(story: Story, asked: Sequence[str], told: facts.Told, drift: Sequence[str]) -> Iterator[str]:
    """Why it is no pass, in full sentences; none when it is."""
    if not told.shown:
        yield "The ledger has no event of this run: no data is no good news."
        return
    last = next((event for event in reversed(story.preflights) if event.timestamp >= told.since), None)
    if last is not None and last.payload.get("verdict") != "pass":
        stops = [each for each in facts.preflights(story, told.since)[-1]["findings"] if each["severity"] == "stop"]
        named = "; ".join(f"{each['object'] or each['code']}: {each['evidence']}" for each in stops)
        yield f"The preflight stopped it: {named or 'no finding was recorded'}."
    if drift:
        yield f"The target drifted, and nothing explains it: {'; '.join(drift[:3])}."
    for name in asked:
        if (against := _against(story.changes[name], story)) is not None:
            yield f"{name} {against}."
    if never := [
        name for name in asked if story.changes[name].state == "not applied" and not story.changes[name].refused
    ]:
        yield f"{', '.join(never)} {'was' if len(never) == 1 else 'were'} not applied."


def _against(change: ChangeStory, story: Story) -> str | None:
    """What stands against one change, said of it; None when nothing does, or when it was merely never begun."""
    last_error = next((each.error for each in reversed(story.failures) if each.change == change.name), "")
    text: str | None = None
    match change.state, change.why:
        case "half", "apply failed" | "rollback failed":
            text = f"is half applied: its {change.why.removesuffix(' failed')} failed, {last_error}"
        case "half", step:
            at = f"{change.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if change.at else "at an unknown time"
            text = f"is half applied: its {step} began {at} and did not say that it ended"
        case "not applied", _ if change.refused:
            text = f"was refused before its first statement: {'; '.join(change.refused)}"
        case "rolled back", _:
            text = _against_rollback(change, story)
        case "in place", _ if change.watched == "failed":
            text = "stands although its watch failed"
        case "in place", _ if change.watched == "under way":
            text = "is in place, and its watch did not say that it ended"
        case "in place", _ if not change.verified:
            text = "is in place and was not verified since"
    return text


def _against_rollback(change: ChangeStory, story: Story) -> str | None:
    rollback = change.rollback
    if rollback is None:  # by hand, and explained
        return None
    if rollback.restored is False:
        count = len(rollback.differences)
        return f"was rolled back, and the catalogue is not as it must be: {count} difference{'' if count == 1 else 's'}"
    if rollback.why == "automatic":
        return f"was rolled back by itself: {rollback.because or 'no reason was recorded'}"
    root = story.changes[rollback.root].rollback if rollback.root in story.changes else None
    # What goes first because another goes leaves the catalogue as nobody has proved it: it is compared when all have gone.
    if rollback.restored or (root is not None and root.restored and root.started > rollback.started):
        return None
    return "was rolled back, and nothing says whether the catalogue is as it was"


def _sentence(story: Story, asked: Sequence[str]) -> str:
    states: dict[str, list[str]] = {}
    for name in asked:
        states.setdefault(story.changes[name].state, []).append(name)
    parts = [f"{len(states.get('in place', ()))} of {len(asked)} changes in place"]
    parts += [
        f"{', '.join(states[state])} {'half applied' if state == 'half' else state}"
        for state in ("half", "rolled back", "not applied")
        if state in states
    ]
    brought_back = [story.changes[name].rollback for name in states.get("rolled back", ())]
    compared = [each for each in brought_back if each is not None and each.restored is not None]
    if compared:
        proven = sum(each.restored is True for each in compared)
        parts.append(f"after {proven} of {len(compared)} compared rollbacks the catalogue is as it must be")
    return "; ".join(parts) + "."
