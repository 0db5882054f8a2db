"""The gates of the ledger: opening, voting, using decisions. One function of the database behind each verb."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from comporta.gates.errors import GateImpossible, GateRefusal, UnknownGate
from comporta.gates.gate import (
    BatchResult,
    Choice,
    Decision,
    EvidenceItem,
    Gate,
    GateRequest,
    Outcome,
    Refusal,
    list_digest,
)
from comporta.ledger import Event, Ledger, LedgerError
from comporta.postgres.queries import load

_LISTED = 500
_HISTORY = 1_000

Gates = list[Gate]
Numbers = list[int]
Events = list[Event]


class GateBook:
    """The gates behind a connection string, or behind a connection in autocommit; one thread at a time.

    Given a connection string it signs in with the rights of ``comporta_app``: it can ask, vote and use decisions as the
    policy of each gate allows, and nothing else. Every call is a transaction of its own.
    """

    def __init__(self, source: str | psycopg.Connection) -> None:
        self._ledger = Ledger(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection that this book opened; one that was handed in stays open."""
        self._ledger.close()

    def open(self, key: str, request: GateRequest, *, actor: str) -> Gate:
        """Put a question, or find it put already under the same key; unused older gates of the same asker are withdrawn.

        GateImpossible when those who may decide could never fill the roles.
        """
        return self.get(int(self._call("open", (key, Jsonb(_plain(request)), actor))))

    def get(self, gate: int) -> Gate:
        """The gate of that number; UnknownGate when there is none."""
        found = self._rows({"gates": [gate]})
        if not found:
            raise UnknownGate(gate)
        return found[0]

    def list(
        self,
        *,
        states: Collection[str] | None = None,
        name: str | None = None,
        asker_prefix: str | None = None,
        limit: int = _LISTED,
    ) -> Gates:
        """Gates, newest first, of the states, name and asker given."""
        return self._rows({"states": states and list(states), "name": name, "asker": asker_prefix, "limit": limit})

    def history(self, gate: int) -> Events:
        """Everything that happened to a gate, oldest first, refused votes included."""
        return self._ledger.read(self.get(gate).stream, limit=_HISTORY)

    def vote(self, gate: int, decision: Decision, *, actor: str, reason: str, digest: str, via: str) -> Gate:
        """Cast one person's vote on what had ``digest``; GateRefusal says why not."""
        choice = Choice(gate, digest)
        result = self.decide(
            [choice],
            decision,
            actor=actor,
            reason=reason,
            shown=[choice],
            list_digest=list_digest([choice]),
            via=via,
            atomic=True,
        )
        if result.refused:
            raise GateRefusal(result.refused[0])
        return result.decided[0]

    def decide(
        self,
        choices: Sequence[Choice],
        decision: Decision,
        *,
        actor: str,
        reason: str,
        shown: Sequence[Choice],
        list_digest: str,
        via: str,
        atomic: bool,
    ) -> BatchResult:
        """Cast one person's vote on several gates of a list, all or none when ``atomic``; each gate gets its own record.

        ``list_digest`` is that of the list as it was drawn: a list that is not what was shown decides nothing, a gate that
        changed since is refused.
        """
        found = self._call(
            "decide",
            (_choices(choices), decision, actor, reason, via, _choices(shown), list_digest, atomic),
        )
        whole = found.get("list_refused")
        return BatchResult(
            batch=found["batch"],
            decided=self._in_order(found["decided"]),
            refused=tuple(Refusal.parse(each) for each in found["refused"]),
            list_refused=Refusal.parse(whole) if whole else None,
        )

    def revoke(self, gate: int, *, actor: str, reason: str, via: str) -> Gate:
        """Take one's own vote back while nobody has acted on the decision; GateRefusal says why not."""
        if refused := self._call("revoke", (gate, actor, reason, via)):
            raise GateRefusal(Refusal.parse(refused))
        return self.get(gate)

    def renew(self, gate: int, evidence: Sequence[EvidenceItem], blockers: Sequence[str], *, actor: str) -> Gate:
        """Tell a gate what its evidence is now: when that differs, votes and an unused decision are void."""
        self._call("renew", (gate, Jsonb([asdict(item) for item in evidence]), Jsonb(list(blockers)), actor))
        return self.get(gate)

    def consume(self, gate: int, consumer: str | None, *, evidence_digest: str) -> Outcome:
        """The answer of a gate for ``consumer``, who then is the only one to have it; a repetition gives the same.

        ``evidence_digest`` is that of the evidence as just collected. Without a consumer nothing is used up.
        """
        word = self._call("consume", (gate, consumer, evidence_digest))
        return Outcome(word, self.get(gate))

    def sweep(self) -> Numbers:
        """Record reminders and expiries that are due; the gates concerned."""
        return list(self._call("sweep", ()))

    def _call(self, verb: str, values: tuple[Any, ...]) -> Any:
        try:
            row = self._ledger.connection.execute(load("comporta.gates", f"{verb}.sql"), values).fetchone()
        except psycopg.Error as error:
            raise _translate(error) from error
        return row[0] if row else None

    def _rows(self, asked: dict[str, Any]) -> Gates:
        values = {"gates": None, "states": None, "name": None, "asker": None, "limit": _LISTED} | asked
        with self._ledger.connection.cursor(row_factory=dict_row) as cursor:
            return [Gate.parse(row) for row in cursor.execute(load("comporta.gates", "list.sql"), values)]

    def _in_order(self, ids: Sequence[int]) -> tuple[Gate, ...]:
        found = {gate.gate: gate for gate in self._rows({"gates": list(ids), "limit": len(ids)})} if ids else {}
        return tuple(found[each] for each in ids)


def _plain(request: GateRequest) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(request)))  # type: ignore[no-any-return]


def _choices(choices: Sequence[Choice]) -> Jsonb:
    return Jsonb([asdict(choice) for choice in choices])


def _translate(error: psycopg.Error) -> Exception:
    said, hint = error.diag.message_primary or str(error), error.diag.message_hint or ""
    match error.sqlstate:
        case "LG011":
            return GateImpossible(said, remedy=hint)
        case str(state) if state.startswith("LG"):
            return LedgerError(said, remedy=hint)
        case _:
            return error
