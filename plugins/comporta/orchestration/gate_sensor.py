"""Gates in a DAG. Airflow parks the task and shows it under Required Actions; the ledger decides.

A sensor that waits holds no worker, no pool slot, and one row of the triggerer. Whatever wakes it (an answer under Required
Actions, a decision recorded through the Gates page, REST or the command line, a deadline), it believes nothing that it was handed:
it reads the gate in the ledger again, collects the evidence again, and asks the ledger's own function whether this decision is good
for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseSensorOperator, Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)
from airflow.sdk.execution_time.hitl import upsert_hitl_detail

from comporta.errors import ComportaError, UnreachableServer
from comporta.gates.gate import WORDS, Decision, Gate, GateRequest, Kind, Outcome, Policy
from comporta.orchestration.connections import settings_from_airflow
from comporta.orchestration.gate_form import body_of
from comporta.orchestration.gate_trigger import GateTrigger
from comporta.orchestration.run_note import add_note
from comporta.orchestration.skipping import skip_everything_behind

if TYPE_CHECKING:
    from comporta.gates.book import GateBook
    from comporta.gates.evidence import Evidence
    from comporta.gates.policy import GatesFile
    from comporta.release.model import Release
    from comporta.settings import Settings

log = logging.getLogger(__name__)

AGAIN_AFTER = timedelta(seconds=30)
TRIES = 5
"""For a server that is away, and for an answer that came too early for Airflow; waiting and asking again cost none."""


@dataclass(frozen=True)
class Asker:
    """Who asks: one task of one run, and how often a person has cleared it. Clearing makes a new question, a retry does not."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    cycle: int

    @classmethod
    def of(cls, context: Any, retries: int) -> Asker:
        """The asker of a task's context. A clear moves ``max_tries`` by the number of tries, a retry does not."""
        ti = context["ti"]
        return cls(
            ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1, ti.max_tries - retries
        )

    @property
    def name(self) -> str:
        """The task of the run, whichever cycle."""
        return f"{self.dag_id}/{self.run_id}/{self.task_id}/{self.map_index}"

    @property
    def key(self) -> str:
        """The key of the question, and the name of the one consumer of its answer."""
        return f"{self.name}/{self.cycle}"

    @property
    def as_json(self) -> dict[str, Any]:
        """What the gate keeps of it."""
        return {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id, "map_index": self.map_index}


@dataclass(frozen=True)
class Desk:
    """All that a waking sensor works with: the files, the ledger, who it is."""

    settings: Settings
    release: Release
    file: GatesFile
    book: GateBook
    asker: Asker


class GoNoGoSensor(HITLOperator, BaseSensorOperator):
    """Waits for the Go of the people that ``config/gates.yaml`` names for ``gate``, on the evidence that it names.

    A Go passes. A No-Go, and silence until the deadline, skip this task and everything behind it whatever its trigger rule, but
    for the tasks named in ``spare``; nothing asks again until somebody clears this task. ``consume=False`` leaves the decision
    to be used by another DAG. With ``opened_by`` nothing is asked here: the task waits for the decision of a gate that a run of
    that DAG opened. With ``accepts_of`` a Go in force that a run of that DAG was given is used, and only where there is none, the
    question is put.
    """

    template_fields = ()
    inherits_from_skipmixin = True
    kind: ClassVar[Kind] = "decision"

    def __init__(
        self,
        *,
        gate: str,
        consume: bool = True,
        opened_by: str | None = None,
        accepts_of: str | None = None,
        spare: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retries", TRIES)
        kwargs.setdefault("retry_delay", timedelta(seconds=2))
        super().__init__(subject=gate, options=[self.yes, self.no], **kwargs)
        self.gate = gate
        self.consume = consume
        self.opened_by = opened_by
        self.accepts_of = accepts_of
        self.spare = tuple(spare)

    @property
    def yes(self) -> str:
        """The answer that opens, in the words of this kind of gate."""
        return WORDS[self.kind, "go"]

    @property
    def no(self) -> str:
        """The answer that does not."""
        return WORDS[self.kind, "no_go"]

    # -- what Airflow calls -------------------------------------------------------------------------------------------

    def execute(self, context: Any) -> Any:
        """Put the question, or find it put and perhaps answered already, and act on what the ledger says."""
        with self._desk(context) as desk:
            if self.opened_by is not None:
                return self._look_elsewhere(context, desk)
            if self.accepts_of is not None and (
                given := self._use(context, desk, _newest(desk, self.gate, self.accepts_of))
            ):
                return self._answered(context, given)
            evidence = _collect(desk, self.gate, self.kind, desk.asker.as_json)
            gate = desk.book.open(desk.asker.key, self._request(context, desk, evidence), actor=_actor(context))
            log.info("Gate %s asks: %s", gate.gate, gate.question)
            return self._act(context, desk, gate.gate, evidence)

    def execute_complete(self, context: Any, event: dict[str, Any], gate: int = 0) -> Any:
        """Wake up, by an answer under Required Actions or because the ledger moved, and act on what the ledger says."""
        with self._desk(context) as desk:
            if self.opened_by is not None:
                return self._look_elsewhere(context, desk)
            answer = _Answer.parse(event, self.yes) if event.get("source") != GateTrigger.SOURCE else None
            try:
                evidence = _collect(desk, self.gate, self.kind, desk.asker.as_json)
            except UnreachableServer as error:
                if answer is not None:
                    self._cast_without_data(desk, gate, answer, error)
                raise
            if answer is not None:
                desk.book.renew(gate, evidence.items, evidence.blockers, actor=_actor(context))
                self._cast(desk, gate, answer)
            return self._act(context, desk, gate, evidence)

    # -- what a subclass may word otherwise ---------------------------------------------------------------------------

    def _policy(self, context: Any, desk: Desk) -> Policy:
        trigger = context["dag_run"].triggering_user_name
        return desk.file.policy(self.gate, author=desk.release.author, trigger=trigger)

    def _request(self, context: Any, desk: Desk, evidence: Evidence) -> GateRequest:
        plan = desk.file.plan(self.gate)
        return GateRequest(
            name=self.gate,
            kind=self.kind,
            question=plan.question,
            feature=desk.release.name,
            asker=desk.asker.name,
            asked_by=desk.asker.as_json,
            policy=self._policy(context, desk),
            evidence=evidence.items,
            blockers=evidence.blockers,
            answer_within_s=plan.answer_within_h * 3600,
            holds_for_s=int(plan.holds_for_h * 3600),
            remind_after_s=tuple(60 * minutes for minutes in plan.remind_after_min),
        )

    def _answered(self, context: Any, outcome: Outcome) -> Any:
        """What a final answer means for this run."""
        answer = {"answer": outcome.word, "gate": outcome.gate.gate, "why": outcome.why}
        log.info("%s", outcome.why)
        if outcome.word == "go":
            return answer
        context["ti"].xcom_push(key="answer", value=answer)
        # The log of a skipped task is hardly ever opened: the note stands on the run.
        say = f"{'No-Go' if outcome.word == 'no_go' else 'No answer in time, so No-Go'}: {outcome.why}"
        add_note(context["ti"].dag_id, context["ti"].run_id, say, log=log)
        skip_everything_behind(context, spare=self.spare, log=log)
        raise AirflowSkipException(say)

    # -- the turns of the wheel ---------------------------------------------------------------------------------------

    @contextmanager
    def _desk(self, context: Any) -> Iterator[Desk]:
        # The DAG processor and the triggerer read this module: what reads SQL is loaded in the task only.
        from comporta.gates.book import GateBook
        from comporta.gates.policy import policy_of
        from comporta.release.model import load_release

        try:
            settings = settings_from_airflow()
            release = load_release(settings.release_path, settings.home / "sql")
            with GateBook(settings.require("control")) as book:
                yield Desk(settings, release, policy_of(settings), book, Asker.of(context, self.retries or 0))
        except UnreachableServer as error:
            log.warning("No data is not good news, the gate stays shut: %s", error.message)
            raise AirflowRescheduleException(datetime.now(UTC) + AGAIN_AFTER) from error  # type: ignore[no-untyped-call]
        except ComportaError as error:
            raise AirflowFailException(str(error)) from error

    def _act(self, context: Any, desk: Desk, gate: int, evidence: Evidence) -> Any:
        desk.book.renew(gate, evidence.items, evidence.blockers, actor=_actor(context))
        consumer = desk.asker.key if self.consume else None
        outcome = desk.book.consume(gate, consumer, evidence_digest=evidence.digest)
        match outcome.word:
            case "go" | "no_go" | "expired":
                return self._answered(context, outcome)
            case "waiting" | "evidence_changed":
                return self._park(context, outcome.gate)
            case _:
                raise AirflowFailException(outcome.why)

    def _park(self, context: Any, gate: Gate) -> None:
        self.subject = f"{gate.question} (gate {gate.gate})"
        self.body = body_of(gate)
        self.params = _form(gate)
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            params=self.serialized_params,
        )
        log.info("%s", Outcome("waiting", gate).why)
        self.defer(
            trigger=GateTrigger(seen=GateTrigger.fact(gate), gate=gate.gate, form=str(context["ti"].id)),
            method_name="execute_complete",
            kwargs={"gate": gate.gate},
        )

    def _cast(self, desk: Desk, gate: int, answer: _Answer) -> None:
        """An answer under Required Actions is one person's vote, by the same rules as every other."""
        from comporta.gates.errors import GateRefusal

        if answer.login is None or answer.decision is None:
            log.warning("An answer without a person, or without one choice, is no answer")
            return
        try:
            desk.book.vote(
                gate,
                answer.decision,
                actor=answer.login,
                reason=answer.reason,
                digest=answer.seen,
                via="required actions",
            )
        except GateRefusal as refused:
            why, remedy = refused.refusal.why, refused.refusal.remedy
            _tell(desk, f"The answer of {answer.login} to gate {gate} does not count: {why}. {remedy}")

    def _cast_without_data(self, desk: Desk, gate: int, answer: _Answer, error: UnreachableServer) -> None:
        """A No-Go needs no evidence. A Go does: it is told that it was not counted, and has to be given again."""
        if answer.decision == "no_go":
            self._cast(desk, gate, answer)
        else:
            _tell(
                desk,
                f"The answer of {answer.login} to gate {gate} does not count: no data on its evidence ({error.message}). "
                "Answer again when the server answers.",
            )

    def _use(self, context: Any, desk: Desk, gate: Gate | None) -> Outcome | None:
        """The Go of a gate that somebody else put, used by this task; None where it says no Go, or one that another has used."""
        if gate is None or gate.state != "go" or gate.consumed_by not in (None, desk.asker.key):
            return None
        evidence = _collect(desk, self.gate, self.kind, gate.asked_by)
        desk.book.renew(gate.gate, evidence.items, evidence.blockers, actor=_actor(context))
        outcome = desk.book.consume(gate.gate, desk.asker.key, evidence_digest=evidence.digest)
        return outcome if outcome.word == "go" else None

    def _look_elsewhere(self, context: Any, desk: Desk) -> Any:
        """The newest gate of that name that a run of the other DAG opened: a Go in force passes, a No-Go since this run began
        stops."""
        gate = _newest(desk, self.gate, str(self.opened_by))
        if used := self._use(context, desk, gate):
            return self._answered(context, used)
        gate = desk.book.get(gate.gate) if gate is not None else None
        if gate is not None and gate.state == "no_go" and _decided_at(gate) >= _started(context):
            return self._answered(context, Outcome("no_go", gate))
        log.info('Waits for a Go of gate "%s" from a run of %s', self.gate, self.opened_by)
        return self.defer(
            trigger=GateTrigger(seen=GateTrigger.fact(gate), name=self.gate, opened_by=self.opened_by),
            method_name="execute_complete",
        )


class ReadinessSensor(GoNoGoSensor):
    """Asks the people of one ``role`` whether they are ready. Ready, Blocker and silence are answers alike: the task returns which.

    Returns ``{role, status: ready | blocker | silent, reason, by, gate, answered_at}``.
    """

    kind: ClassVar[Kind] = "readiness"

    def __init__(self, *, role: str, **kwargs: Any) -> None:
        super().__init__(gate="readiness", **kwargs)
        self.role = role

    def _policy(self, context: Any, desk: Desk) -> Policy:  # noqa: ARG002 - whoever started the run is asked, too
        return desk.file.readiness_policy(self.role)

    def _request(self, context: Any, desk: Desk, evidence: Evidence) -> GateRequest:
        plan = desk.file.readiness
        lines = [f"- {item.title}" for item in plan.checklist.values() if item.owner == self.role]
        return GateRequest(
            name=self.gate,
            kind=self.kind,
            question="\n".join([f"{self.role}: are you ready for this release?", *lines]),
            feature=desk.release.name,
            asker=desk.asker.name,
            asked_by=desk.asker.as_json,
            policy=self._policy(context, desk),
            evidence=evidence.items,
            answer_within_s=plan.sla_min * 60,
            remind_after_s=tuple(60 * minutes for minutes in plan.remind_after_min),
        )

    def _answered(self, context: Any, outcome: Outcome) -> dict[str, Any]:  # noqa: ARG002 - the base class needs it
        gate = outcome.gate
        decided = gate.decision or {}
        status = {"go": "ready", "no_go": "blocker"}.get(outcome.word, "silent")
        log.info("%s: %s", self.role, outcome.why)
        return {
            "role": self.role,
            "status": status,
            "reason": decided.get(
                "reason", f"no answer within {(gate.deadline - gate.opened_at).total_seconds() / 60:.0f} min"
            ),
            "by": list(dict.fromkeys(decided.get("by", ()))),
            "gate": gate.gate,
            "answered_at": decided.get("at"),
        }


@dataclass(frozen=True)
class _Answer:
    """What somebody answered under Required Actions."""

    login: str | None
    decision: Decision | None
    reason: str
    seen: str

    @classmethod
    def parse(cls, event: Mapping[str, Any], yes: str) -> _Answer:
        """From what Airflow hands over; nothing of it is believed further than that somebody said so."""
        user, given = event.get("responded_by_user") or {}, event.get("params_input") or {}
        chosen = list(event.get("chosen_options") or ())
        decision: Decision | None = None if len(chosen) != 1 else "go" if chosen[0] == yes else "no_go"
        login = user.get("name") or user.get("id")
        return cls(login and str(login), decision, str(given.get("reason") or ""), str(given.get("evidence") or ""))


def _tell(desk: Desk, text: str) -> None:
    """Where the person who answered looks next: the log of the task, and the note of the run."""
    log.warning("%s", text)
    add_note(desk.asker.dag_id, desk.asker.run_id, text, log=log)


def _newest(desk: Desk, name: str, opened_by: str) -> Gate | None:
    states = ("open", "go", "no_go", "expired")
    found = desk.book.list(name=name, asker_prefix=f"{opened_by}/", states=states, limit=1)
    return found[0] if found else None


def _collect(desk: Desk, gate: str, kind: Kind, asked_by: Mapping[str, Any]) -> Evidence:
    # What reads fingerprints and proofs parses SQL: loaded in the task only.
    from comporta.gates.evidence import Collector

    return Collector(desk.settings, desk.file).of(gate, kind, asked_by)


def _form(gate: Gate) -> ParamsDict:
    return ParamsDict(
        {
            "reason": Param("", type="string", title="Why", description="Needed for every answer; it is recorded."),
            "evidence": Param(
                gate.digest,
                type="string",
                title="What you have seen",
                description="Leave it: your answer refers to exactly this.",
            ),
        }
    )


def _actor(context: Any) -> str:
    return f"airflow:{context['ti'].dag_id}.{context['ti'].task_id}"


def _decided_at(gate: Gate) -> datetime:
    assert gate.decision is not None, "a No-Go is a decision"
    return datetime.fromisoformat(gate.decision["at"])


def _started(context: Any) -> datetime:
    return context["dag_run"].start_date or context["dag_run"].run_after  # type: ignore[no-any-return]
