"""Gates: named questions put to people with evidence, and the answers that the ledger holds."""

from comporta.gates.book import GateBook
from comporta.gates.errors import GateImpossible, GateRefusal, RefusalCode, UnknownGate
from comporta.gates.gate import (
    BatchResult,
    Choice,
    Decision,
    EvidenceItem,
    Gate,
    GateRequest,
    Missing,
    Need,
    Outcome,
    Policy,
    Refusal,
    Vote,
    list_digest,
)

__all__ = [
    "BatchResult",
    "Choice",
    "Decision",
    "EvidenceItem",
    "Gate",
    "GateBook",
    "GateImpossible",
    "GateRefusal",
    "GateRequest",
    "Missing",
    "Need",
    "Outcome",
    "Policy",
    "Refusal",
    "RefusalCode",
    "UnknownGate",
    "Vote",
    "list_digest",
]
