"""What can go wrong with a gate. After any of these no vote was cast and no decision was used.

GateRefusal     a vote or a revocation was refused by the policy: ``refusal`` has code, reason and way out
GateImpossible  nobody could ever open this gate: the people who may decide do not fill its roles
UnknownGate     there is no gate of that number
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from comporta.errors import ComportaError

if TYPE_CHECKING:
    from comporta.gates.gate import Refusal


class RefusalCode(StrEnum):
    """Why a vote or a revocation is refused; the server's function decides, these are its words."""

    UNKNOWN_GATE = "unknown_gate"
    CLOSED = "closed"
    EXPIRED = "expired"
    EXCLUDED = "excluded"
    NO_ROLE = "no_role"
    EVIDENCE_CHANGED = "evidence_changed"
    REASON_MISSING = "reason_missing"
    BLOCKED = "blocked"
    LIST_CHANGED = "list_changed"
    ATOMIC = "atomic"
    CONSUMED = "consumed"
    NO_VOTE = "no_vote"


class GateRefusal(ComportaError):
    """The policy refuses this vote or revocation; the attempt is recorded, the gate is as it was."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"gate {refusal.gate}: {refusal.why}", remedy=refusal.remedy)
        self.refusal = refusal


class GateImpossible(ComportaError):
    """Nobody could ever open this gate: roles without people, or all of them excluded; nothing was asked."""


class UnknownGate(ComportaError):
    """There is no gate of that number."""

    def __init__(self, gate: int) -> None:
        super().__init__(f"there is no gate {gate}", remedy="`comporta gates list --all` shows those there are.")
