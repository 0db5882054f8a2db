"""Agenda and minutes of a daily sync: pure functions from the ledger's facts to the data of a page, and of the mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from comporta.capacity.execution_plan import ExecutionPlan
from comporta.gates import Gate
from comporta.gates.policy import GatesFile
from comporta.sync.model import Blocker
from comporta.sync.record import Sync

Kind = Literal["agenda", "minutes"]
NOT_PUT = "not put"
PLANNED_GATE = "stage4"
"""The gate that the execution plan is attached to, for as long as it is not decided."""
_DAY_S = 86_400


def compose(
    kind: Kind,
    sync: Sync,
    gates: Sequence[Gate],
    file: GatesFile,
    *,
    title: str,
    date: str,
    plan: ExecutionPlan | None = None,
) -> dict[str, Any]:
    """The data of the page. It holds no time of writing: the same facts give the same minutes, which nobody gets twice.

    ``gates`` are those that this run's tasks opened, newest first; withdrawn ones are left out. ``plan`` is what the gate of
    STAGE 4 asks about; it is attached while that gate is not decided.
    """
    standing = _newest_of_each_asker(gates)
    readiness = [_readiness(answer.as_json() | {"word": answer.word}, standing, file) for answer in sync.answers]
    decisions = [_decision(name, standing, file) for name in file.daily_sync.gates]
    at = _moment(sync.checked_at)
    blockers = [each.as_json() | _age(each, at) for each in sync.blockers]
    data = {
        "kind": kind,
        "run_id": sync.run_id,
        "release": sync.feature,
        "title": title,
        "date": date,
        "opened_at": sync.opened_at,
        "checked_at": sync.checked_at,
        "sla_min": file.readiness.sla_min,
        "remind_after_min": list(file.readiness.remind_after_min),
        "readiness": readiness,
        "checklist": [dict(each) for each in sync.items],
        "blockers": blockers,
        "decisions": decisions,
        "execution_plan": plan.as_json() if plan and _undecided(decisions) else None,
    }
    actions = [{"who": who, "what": what} for who, what in _actions(kind, data)]
    return data | {"actions": actions, "verdict": _verdict(data), "sentence": _sentence(kind, data)}


def for_mail(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the mail says of it, and what the ledger keeps."""
    rows = {
        "readiness": ("owner", "word", "by", "reason", "after_min"),
        "blockers": ("key", "owner", "what", "since", "syncs", "age"),
        "decisions": ("name", "word", "by", "reason", "gate"),
        "actions": ("who", "what"),
    }
    brief = {
        table: [{name: row.get(name) for name in names} for row in data.get(table, ())] for table, names in rows.items()
    }
    named = {name: data.get(name) for name in ("date", "run_id", "sentence", "verdict")}
    return named | brief | {"execution_plan": _planned(data)}


def _undecided(decisions: Sequence[Mapping[str, Any]]) -> bool:
    return any(each["name"] == PLANNED_GATE and each["state"] not in ("go", "no_go") for each in decisions)


def _planned(data: Mapping[str, Any]) -> list[str]:
    """The execution plan in a few lines; none where it is not attached."""
    plan = data.get("execution_plan")
    if not plan:
        return []
    ladder = ", ".join(f"{name}: {value}" for name, value in plan["ladder"] if not name.startswith("after each"))
    owners = ", ".join(f"{who} {what}" for who, what in plan["owners"])
    return [ladder, f"{plan['days']:g} day(s); {owners}", *(f"stops: {rule}" for rule in plan["stop_rules"])]


def _newest_of_each_asker(gates: Sequence[Gate]) -> list[Gate]:
    found: dict[str, Gate] = {}
    for gate in sorted(gates, key=lambda each: each.gate):
        if gate.state != "withdrawn":
            found[gate.asker] = gate
    return sorted(found.values(), key=lambda each: each.gate)


def _readiness(row: dict[str, Any], gates: Sequence[Gate], file: GatesFile) -> dict[str, Any]:
    gate = next((each for each in gates if each.gate == row.get("gate")), None)
    row["people"] = list(file.roles.get(row["owner"], ()))
    row["opened_at"] = gate and gate.opened_at.isoformat()
    row["reminded"] = gate.reminded if gate else 0
    answered = row.get("answered_at")
    row["after_min"] = (
        round((_moment(answered) - gate.opened_at).total_seconds() / 60, 1) if gate and answered else None
    )
    return row


def _decision(name: str, gates: Sequence[Gate], file: GatesFile) -> dict[str, Any]:
    plan = file.gates[name]
    gate = next((each for each in reversed(gates) if each.kind == "decision" and each.name == name), None)
    if gate is None:
        return {"name": name, "title": plan.title, "question": plan.question, "word": NOT_PUT, "state": "none", "gate": None,
                "by": [], "reason": "", "at": None, "votes": [], "missing": dict(plan.needs), "evidence": [], "blockers": [],
                "deadline": None, "valid_until": None}  # fmt: skip
    decided = gate.decision or {}
    return {
        "name": name,
        "title": plan.title,
        "question": gate.question,
        "word": gate.word,
        "state": gate.state,
        "gate": gate.gate,
        "by": list(dict.fromkeys(decided.get("by", ()))),
        "reason": decided.get("reason", ""),
        "at": decided.get("at"),
        "votes": [
            {
                "actor": vote.actor,
                "word": "Go" if vote.decision == "go" else "No-Go",
                "reason": vote.reason,
                "at": vote.at,
                "role": vote.role,
            }
            for vote in gate.votes
        ],
        "missing": {each.role: each.count for each in gate.missing},
        "evidence": [
            {"title": item.title, "detail": item.detail, "digest": item.digest, "link": item.link}
            for item in gate.evidence
        ],
        "blockers": list(gate.blockers),
        "deadline": gate.deadline.isoformat(),
        "valid_until": gate.valid_until.isoformat() if gate.valid_until else None,
    }


def _actions(kind: Kind, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for each in data["blockers"]:
        silent = each["key"].startswith("owner/") and _status(data, each["owner"]) == "silent"
        ask = "say Ready or Blocker; clearing the question in collect_readiness puts it again"
        yield each["owner"], ask if silent else f"resolve: {each['what']}"
    for each in data["decisions"]:
        missing = ", ".join(f"{count} x {role}" for role, count in each["missing"].items())
        match each["state"]:
            case "go":
                until = f", until {_moment(each['valid_until']):%Y-%m-%d %H:%M} UTC" if each["valid_until"] else ""
                yield "operator", f"{each['name']} may go on{until}"
            case "no_go":
                yield "operator", f"correct what {', '.join(each['by'])} said of {each['name']}, then clear its gate"
            case "expired":
                yield missing or "operator", f"{each['name']} closed without an answer: clear its gate to ask again"
            case "open":
                yield missing or "operator", f"decide {each['name']} by {_moment(each['deadline']):%H:%M} UTC"
            case _ if kind == "minutes":
                yield "operator", f"{each['name']} was not put: see why its task did not run"
            case _:
                yield missing, f"decide {each['name']}"


def _status(data: Mapping[str, Any], owner: str) -> str:
    return next((str(row["status"]) for row in data["readiness"] if row["owner"] == owner), "silent")


def _verdict(data: Mapping[str, Any]) -> str:
    """``stop`` where something is in the way or was refused, ``pass`` where all is decided for, else ``warn``."""
    states = {each["state"] for each in data["decisions"]}
    if data["blockers"] or "no_go" in states:
        return "stop"
    return "pass" if states <= {"go"} and data["readiness"] else "warn"


def _sentence(kind: Kind, data: Mapping[str, Any]) -> str:
    said = Counter(each["status"] for each in data["readiness"])
    ready = f"{said['ready']} of {len(data['readiness'])} owners are ready"
    silent = f", {said['silent']} silent" if said["silent"] else ""
    blockers = data["blockers"]
    oldest = max((each["age_s"] for each in blockers), default=0.0)
    count = f"{len(blockers)} {'blocker' if len(blockers) == 1 else 'blockers'}"
    aged = f", the oldest for {_words(oldest)}" if oldest >= _DAY_S else ""
    decided = ", ".join(f"{each['name']}: {each['word']}" for each in data["decisions"])
    tail = (
        f"; {decided}"
        if kind == "minutes"
        else f"; to be decided: {', '.join(each['name'] for each in data['decisions'])}"
    )
    return f"{ready}{silent}; {count}{aged}{tail}."


def _age(blocker: Blocker, at: datetime) -> dict[str, Any]:
    seconds = blocker.age_s(at)
    age = "new" if blocker.syncs == 1 else f"for {_words(seconds)}, {blocker.syncs} syncs"
    return {"age_s": round(seconds), "age": age}


def _words(seconds: float) -> str:
    if seconds < _DAY_S:
        return f"{seconds / 3600:.0f} h"
    days = seconds / _DAY_S
    return "1 day" if round(days) == 1 else f"{days:.0f} days"


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
