"""What one person may do with a gate, in words. Advice for the page: the ledger decides again when the vote is recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from comporta.gates import Gate
from comporta.gates.gate import WORDS


def standing(gate: Gate, login: str, now: datetime, *, may_answer: bool, no_data: str | None) -> dict[str, Any]:
    """``may`` vote at all, ``may_go`` with Go, ``voted`` already, ``roles`` held here, ``needed``: a role of theirs is open.

    ``may_answer`` is the auth manager's word on the gate's DAG; ``no_data`` says why its evidence could not be collected.
    """
    roles = gate.policy.roles_of(login)
    voted = next((vote.decision for vote in gate.votes if vote.actor == login), None)
    wanted = bool({missing.role for missing in gate.missing} & set(roles))
    refusal = _refusal(gate, login, now, may_answer=may_answer)
    hindrance = bool(no_data or gate.blockers)
    if refusal:
        why = refusal
    elif voted:
        why = f"You voted {WORDS[gate.kind, voted]}; you may revoke it or vote anew."
    elif hindrance:
        lack = "there is no data on the evidence" if no_data else "a blocker stands"
        why = f"You may vote {WORDS[gate.kind, 'no_go']}; {WORDS[gate.kind, 'go']} is refused while {lack}."
    elif not wanted:
        why = f"What you could sign as {' or '.join(roles)} is signed already; a {WORDS[gate.kind, 'no_go']} still counts."
    else:
        why = f"You may vote as {' or '.join(roles)}."
    return {
        "may": not refusal,
        "may_go": not refusal and not hindrance,
        "why": why,
        "voted": voted,
        "roles": list(roles),
        "needed": not refusal and voted is None and wanted,
        "may_revoke": bool(voted) and may_answer and not gate.consumed_by and gate.state in {"open", "go", "no_go"},
    }


def _refusal(gate: Gate, login: str, now: datetime, *, may_answer: bool) -> str:
    if gate.state != "open":
        return "This gate is closed."
    if now >= gate.deadline:
        return "The deadline has passed, and silence closes a gate."
    if not may_answer:
        return f"Airflow does not permit you to answer for the DAG {gate.asked_by['dag_id']}."
    if login in gate.policy.excluded:
        return f"You may not decide this gate: {gate.policy.excluded[login]}."
    if gate.why_not(login):
        return (
            f"You hold none of the roles that decide this gate ({', '.join(need.role for need in gate.policy.needs)})."
        )
    return ""
