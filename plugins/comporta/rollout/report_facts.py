"""The tables of a rollout report: plain values out of events and samples, in the order in which a reader asks for them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from comporta.ledger import Event, EventType
from comporta.release.health import EVERYTHING
from comporta.release.model import Budget
from comporta.reports.page import digest_of
from comporta.rollout.report_samples import CanarySample, HealthSample, by_name, latency, stretches
from comporta.rollout.report_story import ChangeStory, Rollback, Span, Story, mapping, reference, run_of, texts

AROUND = timedelta(minutes=10)
"""Latency before and after a change is read from at most so much time on either side of it."""

_TRANSITIONS = {
    EventType.BREAKER_OPENED: "opened",
    EventType.BREAKER_PROBING: "probing",
    EventType.BREAKER_CLOSED: "closed",
    EventType.BREAKER_HELD: "held open",
    EventType.BREAKER_RELEASED: "released",
}
_DECISIONS = {"go": "Go", "no_go": "No-Go"}
_WHY = {"automatic": "by itself", "cleared": "cleared", "asked": "asked for"}


@dataclass(frozen=True)
class Told:
    """The events that a report is about: all of the rollout's stream, and what belongs to this run of everything else."""

    rollout: tuple[Event, ...]
    shown: tuple[Event, ...]
    health: tuple[Event, ...]
    cleared: tuple[Event, ...]
    gates: Mapping[int, tuple[Event, ...]]
    baseline: Event | None
    since: datetime

    @property
    def relevant(self) -> list[Event]:
        """Everything that the report shows, in the order of the ledger."""
        of_gates = [event for each in self.gates.values() for event in each]
        return sorted((*self.shown, *self.health, *self.cleared, *of_gates), key=lambda event: event.id)


def sort_out(events: Iterable[Event], run: str, started: datetime) -> Told:
    """The events of one run: from its beginning on, whatever other run also touched the release since, on the same target.

    A gate belongs to the run when a change was applied on it, or when the run itself put or used it.
    """
    told = sorted(events, key=lambda event: event.id)
    rollout = tuple(event for event in told if event.stream.startswith("rollout/"))
    places = [event.payload["target"] for event in rollout if run_of(event) == run and event.payload.get("target")]
    told = [event for event in told if not places or event.payload.get("target", places[-1]) == places[-1]]
    rollout = tuple(event for event in told if event.stream.startswith("rollout/"))
    since = min([started, *(event.timestamp for event in rollout if run_of(event) == run)])
    shown = tuple(event for event in rollout if event.timestamp >= since)
    runs = {run, *map(run_of, shown)}
    used = {event.payload.get("gate") for event in shown if event.event_type == EventType.ROLLOUT_APPLY_STARTED}
    gates: dict[int, list[Event]] = {}
    for event in told:
        if event.stream.startswith("gate/"):
            number = event.id if event.event_type == EventType.GATE_OPENED else event.payload.get("gate")
            if isinstance(number, int):
                gates.setdefault(number, []).append(event)
    return Told(
        rollout,
        shown,
        tuple(event for event in told if event.stream.startswith("health/") and event.timestamp >= since),
        tuple(event for event in told if event.stream in {f"cleared/{each}" for each in runs} and event.timestamp >= since),
        {number: tuple(each) for number, each in gates.items() if number in used or _of_run(each, run)},
        next((event for event in reversed(told) if event.event_type == EventType.HEALTH_BASELINE_TAKEN), None),
        since,
    )  # fmt: skip


def _of_run(gate: Sequence[Event], run: str) -> bool:
    askers = (event.payload.get("asker") or event.payload.get("consumer") for event in gate)
    return any(asker == run or str(asker).startswith(f"{run}/") for asker in askers)


# -- changes and rollbacks ---------------------------------------------------------------------------------------------


def changes(story: Story, titles: Mapping[str, str], asked: Sequence[str]) -> list[dict[str, Any]]:
    """Where every change stands, and how it came there."""
    return [
        plain(
            {
                "name": each.name,
                "title": titles.get(each.name, "not in the release"),
                "asked": each.name in asked,
                "state": each.state,
                "how": _how(each),
                "at": each.at,
                "applied": each.applied,
                "verified": each.verified,
                "watched": each.watched,
                "attempts": each.attempts,
                "rolled_back_in_s": each.rollback and each.rollback.seconds,
                "gate": each.gate,
                "before": each.before,
                "scripts": each.scripts,
            }
        )
        for each in story.changes.values()
    ]


def _how(change: ChangeStory) -> str:
    rollback = change.rollback
    match change.state, change.why:
        case _, "outside":
            return "found so: done outside Comporta"
        case "not applied", _ if change.refused:
            return "refused before its first statement"
        case "half", "apply failed" | "rollback failed":
            by = f", {who(rollback)}" if rollback and change.why == "rollback failed" else ""
            return f"{change.why}{by}"
        case "half", step:
            return f"{step} began and did not say that it ended"
        case "rolled back", _ if rollback:
            return who(rollback)
    return ""


def who(rollback: Rollback) -> str:
    """By itself, or by whom, and what for."""
    by = f" by {rollback.by}" if rollback.by else ""
    way = _WHY.get(rollback.why, rollback.why or "why is not on record")
    with_root = f", with {rollback.root}" if rollback.root != rollback.change else ""
    return f"{way}{by}{with_root}"


def rollbacks(story: Story, since: datetime) -> list[dict[str, Any]]:
    """Every rollback of the run with what the fingerprint said after it."""
    return [
        plain(asdict(each) | {"who": who(each)}) for each in story.rollbacks if (each.finished or each.started) >= since
    ]


def failures(story: Story, since: datetime) -> list[dict[str, Any]]:
    """Every attempt that failed, and every refusal."""
    return [plain(asdict(each)) for each in story.failures if each.at >= since]


def spans(story: Story, since: datetime) -> list[Span]:
    """The runs of steps that the timelines draw."""
    return [each for each in story.spans if (each.ended or each.started) >= since]


# -- people ------------------------------------------------------------------------------------------------------------


def acts(told: Told) -> list[dict[str, Any]]:
    """What people did: votes, clears, breakers held and released, rollbacks asked for. Numbered in order of time."""
    found = sorted(
        (*filter(None, map(_act, told.relevant)), *_asked_for(told)), key=lambda act: (act["at"], act["event"])
    )
    return [{"number": nth, **plain(act)} for nth, act in enumerate(found, start=1)]


def _act(event: Event) -> dict[str, Any] | None:
    payload = event.payload
    act = {"at": event.timestamp, "event": event.id, "who": event.actor, "why": str(payload.get("reason") or "")}
    vote = _DECISIONS.get(str(payload.get("decision")), "a vote")
    gate = f"gate {payload.get('gate')}, {event.phase}"
    found: dict[str, Any] | None = None
    match event.event_type:
        case EventType.GATE_VOTE_CAST:
            found = act | {"what": f"{vote}: {gate}"}
        case EventType.GATE_VOTE_REVOKED:
            found = act | {"what": f"revoked a vote: {gate}"}
        case EventType.GATE_VOTE_REFUSED:
            found = act | {"what": f"{vote} was refused: {gate}", "why": str(payload.get("why") or "")}
        case EventType.TASK_CLEARED:
            whole = "the whole run" if payload.get("whole_run") else ", ".join(texts(payload.get("tasks"))) or "tasks"
            found = act | {"what": f"cleared {whole}", "why": str(payload.get("note") or "")}
        case EventType.BREAKER_HELD:
            found = act | {"what": f"held {_breaker(event)} open"}
        case EventType.BREAKER_RELEASED:
            held_by = event.payload.get("held_by")
            found = act | {"what": f"released {_breaker(event)}" + (f", held by {held_by}" if held_by else "")}
    return found


def _breaker(event: Event) -> str:
    return "all breakers" if event.phase == EVERYTHING else f"breaker {event.phase}"


def _asked_for(told: Told) -> Iterator[dict[str, Any]]:
    """Who asked for a rollback: once, however many changes go first. A clear that is an event of its own is told by that."""
    cleared = {
        (event.stream.removeprefix("cleared/"), task)
        for event in told.cleared
        for task in texts(event.payload.get("tasks"))
    }
    under_way: set[str] = set()
    for event in told.shown:
        payload = event.payload
        root = str(payload.get("root") or event.phase)
        if event.event_type == EventType.ROLLBACK_FINISHED and event.phase == root:
            under_way.discard(root)
        if event.event_type != EventType.ROLLBACK_STARTED or root in under_way:
            continue
        under_way.add(root)
        act = {
            "at": event.timestamp,
            "event": event.id,
            "why": str(payload.get("note") or payload.get("because") or ""),
        }
        if payload.get("why") == "asked":
            yield act | {"who": event.actor, "what": f"asked for the rollback of {root}"}
        elif payload.get("why") == "cleared" and (run_of(event), f"{root}.rollback") not in cleared:
            yield act | {"who": str(payload.get("cleared_by") or "somebody"), "what": f"cleared the rollback of {root}"}


def gates(told: Told) -> list[dict[str, Any]]:
    """Each gate of the run: what was asked, what was decided, by whom, on which evidence."""
    return [_gate(number, events) for number, events in sorted(told.gates.items())]


def _gate(number: int, events: Sequence[Event]) -> dict[str, Any]:
    opened = next((event for event in events if event.event_type == EventType.GATE_OPENED), events[0])
    word, decided = "open", None
    for event in events:
        match event.event_type:
            case EventType.GATE_DECIDED:
                word, decided = _DECISIONS.get(str(event.payload.get("decision")), "decided"), event
            case EventType.GATE_EXPIRED:
                word, decided = "expired", event
            case EventType.GATE_WITHDRAWN:
                word, decided = "withdrawn", event
            case EventType.GATE_REOPENED | EventType.GATE_EVIDENCE_CHANGED:
                word, decided = "open", None
    payload = decided.payload if decided else {}
    seen = [event for event in events if event.payload.get("evidence")]
    used = next((event for event in events if event.event_type == EventType.GATE_CONSUMED), None)
    gate: dict[str, Any] = plain(
        {
            "gate": number,
            "name": opened.phase,
            "question": str(opened.payload.get("question") or ""),
            "opened_at": opened.timestamp,
            "word": word,
            "by": texts(payload.get("by")),
            "reason": str(payload.get("reason") or payload.get("why") or ""),
            "at": decided and decided.timestamp,
            "valid_until": payload.get("valid_until"),
            "used_at": used and used.timestamp,
            "evidence": [mapping(each) for each in (seen[-1].payload["evidence"] if seen else ())],
        }
    )
    return gate


# -- health ------------------------------------------------------------------------------------------------------------


def transitions(told: Told) -> list[dict[str, Any]]:
    """Every change of state of a breaker."""
    return [
        plain(
            {
                "at": event.timestamp,
                "breaker": event.phase or "unnamed",
                "what": _TRANSITIONS[EventType(event.event_type)],
                "who": str(event.payload.get("by") or event.actor),
                "why": str(event.payload.get("reason") or ""),
                "held_by": str(event.payload.get("held_by") or ""),
                "window": mapping(event.payload.get("window")),
                "last": event.payload.get("last"),
                "limit": event.payload.get("limit"),
            }
        )
        for event in told.health
        if event.event_type in _TRANSITIONS
    ]


def breakers(
    health: Sequence[HealthSample], changed: Sequence[Mapping[str, Any]], drawn: Sequence[Span]
) -> list[dict[str, Any]]:
    """Each breaker with how often it was ok, bad and without data, how long nobody looked while a step ran, and how it stands."""
    sampled = by_name(health, lambda sample: sample.breaker)
    rows = []
    for name in sorted({*sampled, *(str(each["breaker"]) for each in changed)}):
        samples = sampled.get(name, [])
        counts = Counter(sample.verdict for sample in samples)
        values = [sample.value for sample in samples if sample.value is not None]
        state, stands_open = _stands([each for each in changed if each["breaker"] == name])
        rows.append(
            {
                "name": name,
                "samples": len(samples),
                "counts": {verdict: counts[verdict] for verdict in ("ok", "bad", "no data")},
                "unseen_s": _unseen_s(samples, drawn),
                "lowest": min(values, default=None),
                "highest": max(values, default=None),
                "limit": next((sample.limit for sample in reversed(samples) if sample.limit is not None), None),
                "opened": sum(each["what"] == "opened" for each in changed if each["breaker"] == name),
                "state": state,
                "open": stands_open,
            }
        )
    return rows


def _stands(changed: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """How a breaker stands after all, in words, and whether it lets nothing through. A hold lies over what the machine found."""
    found = [each["what"] for each in changed if each["what"] in ("opened", "probing", "closed")]
    holders: dict[str, None] = {}
    for each in changed:
        if each["what"] == "held open":
            holders[each["who"]] = None
        elif each["what"] == "released":
            holders.pop(each["held_by"], None)
    if holders:
        return f"held open by {', '.join(holders)}", True
    return (found[-1], found[-1] != "closed") if found else ("never opened", False)


def _unseen_s(samples: Sequence[HealthSample], drawn: Sequence[Span]) -> float:
    """Seconds of a step in which nobody looked, though somebody had before and did again."""
    silent = [each for each in stretches(samples) if each.verdict == "not sampled"]
    overlaps = (
        (min(each.ended, span.ended) - max(each.started, span.started)).total_seconds()
        for each in silent
        for span in drawn
        if span.ended is not None
    )
    return sum(overlap for overlap in overlaps if overlap > 0)


def baseline(told: Told) -> dict[str, Any] | None:
    """The last baseline that was taken, be it before this run: latency of each canary, value of each signal."""
    if told.baseline is None:
        return None
    payload = told.baseline.payload
    timed = {str(name): dict(mapping(each)) for name, each in mapping(payload.get("canaries")).items()}
    signals = dict(mapping(payload.get("signals")))
    return {"at": moment(told.baseline.timestamp), "canaries": timed, "signals": signals}


def latencies(drawn: Sequence[Span], timed: Sequence[CanarySample]) -> list[dict[str, Any]]:
    """p50 and p95 of each canary before, during and after each apply and rollback, with n and failures."""
    moved = sorted((each for each in drawn if each.step in ("apply", "rollback")), key=lambda each: each.started)
    rows = []
    for number, span in enumerate(moved):
        if span.ended is None or span.already:
            continue
        former = moved[number - 1].ended or moved[number - 1].started if number else span.started - AROUND
        later = moved[number + 1].started if number + 1 < len(moved) else span.ended + AROUND
        windows = {
            "before": (max(former, span.started - AROUND), span.started),
            "during": (span.started, span.ended),
            "after": (span.ended, min(later, span.ended + AROUND)),
        }
        rows += [
            {"change": span.change, "step": span.step, "at": moment(span.started), "canary": name}
            | {window: latency(samples, *ends) for window, ends in windows.items()}
            for name, samples in by_name(timed, lambda sample: sample.canary).items()
        ]
    return rows


def locks(drawn: Sequence[Span], budgets: Mapping[str, Budget]) -> list[dict[str, Any]]:
    """The longest wait caused and the longest exclusive lock of each apply and rollback, in seconds, beside its budget in ms."""
    return [
        {
            "change": span.change,
            "step": span.step,
            "at": moment(span.started),
            "seconds": span.seconds,
            "measured": span.locks is not None,
            **(span.locks or {"longest_wait_caused_s": None, "longest_exclusive_s": None}),
            "wait_budget_ms": budget.longest_stall_ms if budget else None,
            "exclusive_budget_ms": budget.longest_exclusive_lock_ms if budget else None,
        }
        for span in drawn
        if span.step in ("apply", "rollback") and span.outcome == "done" and not span.already
        for budget in (budgets.get(span.change),)
    ]


def counted(samples: Sequence[HealthSample] | Sequence[CanarySample]) -> dict[str, Any]:
    """How many samples the report was computed from, their first and last moment, and the digest of them all."""
    rows = [plain(sample) for sample in sorted(samples, key=lambda sample: sample.at)]
    ends = {"first": rows[0]["at"], "last": rows[-1]["at"]} if rows else {"first": None, "last": None}
    return {"n": len(rows), **ends, "digest": digest_of({"samples": rows})}


# -- preflight, drift, everything --------------------------------------------------------------------------------------


def preflights(story: Story, since: datetime) -> list[dict[str, Any]]:
    """What was looked at before the first change."""
    rows = []
    for event in story.preflights:
        if event.timestamp < since:
            continue
        digest, facts = reference(event.payload.get("fingerprint"))
        findings = [mapping(each) for each in event.payload.get("findings") or () if isinstance(each, Mapping)]
        rows.append(
            {
                "at": moment(event.timestamp),
                "run": run_of(event),
                "verdict": str(event.payload.get("verdict") or "no data"),
                "findings": [
                    {name: str(each.get(name) or "") for name in ("code", "severity", "object", "evidence", "cure")}
                    for each in findings
                ],
                "fingerprint": digest,
                "facts": facts,
                "backup": dict(mapping(event.payload.get("backup"))) or None,
                "headroom_bytes": event.payload.get("headroom_bytes"),
                "free_bytes": event.payload.get("free_bytes"),
                "changes": list(texts(event.payload.get("changes"))),
            }
        )
    return rows


def drifts(story: Story, since: datetime) -> list[dict[str, Any]]:
    """Where the target was not what Comporta had left, explained or not."""
    rows = []
    for event in sorted((*story.drifts, *story.found), key=lambda each: each.id):
        if event.timestamp < since:
            continue
        digest, facts = reference(event.payload.get("fingerprint"))
        rows.append(
            {
                "at": moment(event.timestamp),
                "of": event.phase or "",
                "found": event.payload.get("found"),
                "explains": str(event.payload.get("explains") or ""),
                "by": str(event.payload.get("by") or ""),
                "differences": list(texts(event.payload.get("differences"))),
                "fingerprint": digest,
                "facts": facts,
            }
        )
    return rows


def lines(told: Told) -> list[dict[str, Any]]:
    """Every event of the report, one line each."""
    return [
        {
            "id": event.id,
            "at": moment(event.timestamp),
            "type": event.event_type,
            "of": event.phase or "",
            "actor": event.actor,
            "said": _said(event),
        }
        for event in told.relevant
    ]


def _said(event: Event) -> str:
    keys = ("error", "because", "reason", "note", "explains", "reasons", "differences", "verdict", "decision")
    for key in keys:
        if found := texts(event.payload.get(key)):
            return "; ".join(found)
    return ""


# -- values ------------------------------------------------------------------------------------------------------------


def moment(at: datetime) -> str:
    """A time in UTC with its offset, in milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def plain(value: Any) -> Any:
    """Values for JSON: dataclasses and mappings as objects, tuples as lists, times in UTC."""
    if isinstance(value, datetime):
        return moment(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | Iterator):
        return [plain(each) for each in value]
    return value
