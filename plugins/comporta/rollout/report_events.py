"""The events that a rollout report is computed from. Reads the control database only."""

from __future__ import annotations

from comporta.gates import GateBook
from comporta.ledger import Event, EventType, Ledger
from comporta.rollout.report_story import run_of


def events_of(ledger: Ledger, release: str, run: str) -> list[Event]:
    """Everything of the release's rollouts and of its target's health, who cleared what in ``run`` and in the runs since, and
    the gates that these were let through by or asked; in the order of the ledger."""
    rollout = list(ledger.every(stream=f"rollout/{release}"))
    first = next((event.id for event in rollout if run_of(event) == run), 0)
    since = [event for event in rollout if event.id >= first]
    runs = dict.fromkeys([run, *filter(None, map(run_of, since))])
    used = {
        gate
        for event in since
        if event.event_type == EventType.ROLLOUT_APPLY_STARTED and isinstance(gate := event.payload.get("gate"), int)
    }
    asked = GateBook(ledger.connection).list(asker_prefix=f"{run}/")
    opened = [page[0] for gate in used if (page := ledger.read(after=gate - 1, limit=1)) and page[0].id == gate]
    streams = [
        f"health/{release}",
        *(f"cleared/{each}" for each in runs),
        *{*(gate.stream for gate in asked), *(event.stream for event in opened if event.stream.startswith("gate/"))},
    ]
    return sorted(
        [*rollout, *(event for stream in streams for event in ledger.every(stream=stream))], key=lambda each: each.id
    )
