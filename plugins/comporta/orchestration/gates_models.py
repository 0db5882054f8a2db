"""What the gates API takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Decision = Literal["go", "no_go"]
State = Literal["open", "go", "no_go", "expired", "withdrawn"]


class AskedBy(BaseModel):
    """The task instance that waits for the answer."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


class Evidence(BaseModel):
    """One thing that the question rests on."""

    name: str
    title: str
    digest: str
    link: str | None = Field(None, description="Page under /comporta/reports, if there is one.")
    detail: str = ""


class Need(BaseModel):
    """So many votes of one role."""

    role: str
    count: int


class Missing(Need):
    """What is still needed of one role, and who can give it."""

    holders: list[str]


class Policy(BaseModel):
    """Who has to say yes, who may, and who may not although they hold a role."""

    model_config = ConfigDict(extra="allow")

    needs: list[Need]
    holders: dict[str, list[str]]
    excluded: dict[str, str] = Field(description="Login and why that person may not vote.")


class Vote(BaseModel):
    """A vote that stands: one given on older evidence, or revoked, is no longer among them."""

    actor: str
    decision: Decision
    reason: str
    at: datetime
    via: str
    role: str | None = Field(description="The role that this vote fills, if it fills one.")


class Decided(BaseModel):
    """The answer that came of the votes."""

    model_config = ConfigDict(extra="allow")

    decision: Decision
    at: datetime
    by: list[str]
    reason: str


class Gate(BaseModel):
    """A question put to people, with what it rests on and what has been answered so far."""

    gate: int = Field(description="Number of the ledger event that opened it.")
    name: str
    kind: Literal["decision", "readiness"] = Field(description="readiness: go means Ready, no_go means Blocker.")
    question: str
    feature: str | None = Field(description="The release that it is about.")
    asker: str
    asked_by: AskedBy
    state: State
    consumed_by: str | None = Field(description="Who acted on the decision. From then on it cannot be revoked.")
    consumed_at: datetime | None = None
    opened_at: datetime
    deadline: datetime = Field(description="Silence beyond it closes the gate; it never opens one.")
    valid_until: datetime | None = Field(None, description="Until when a Go may be acted on.")
    evidence: list[Evidence]
    evidence_digest: str
    revision: int = Field(description="Grows by one each time the evidence changes.")
    changes: list[str] = Field(description="What changed since it was opened.")
    blockers: list[str] = Field(description="While there is one, a Go is refused.")
    policy: Policy
    remind_after_s: list[int] = []
    reminded: int = 0
    votes: list[Vote]
    missing: list[Missing]
    decision: Decided | None
    digest: str = Field(
        description="What a vote refers to: question, evidence, policy, deadline and blockers as shown."
    )


class Standing(BaseModel):
    """What you may do with a gate. The ledger decides again when a vote is recorded."""

    may: bool = Field(description="You may vote.")
    may_go: bool = Field(description="You may vote Go: no blocker stands, and the evidence could be collected.")
    why: str
    voted: Decision | None
    roles: list[str] = Field(description="Roles of yours that this gate asks for.")
    needed: bool = Field(description="A role of yours is still missing, and you have not voted.")
    may_revoke: bool


class GateShown(Gate):
    """A gate as it is shown to you."""

    mine: Standing
    no_data: str | None = Field(
        None, description="Why its evidence could not be collected just now. A Go is refused while this is set."
    )


class GateInFull(GateShown):
    """A gate with its events in the ledger, oldest first."""

    history: list[dict[str, Any]]


class Me(BaseModel):
    """You, as Airflow knows you, and the roles that config/gates.yaml gives you."""

    login: str
    roles: list[str]


class GateList(BaseModel):
    """Gates in the order in which they are listed, and the digest over exactly this list."""

    now: datetime
    me: Me
    list_digest: str = Field(description='sha256 over "gate:digest\\n" of each gate in this order.')
    gates: list[GateShown]


class ShownGate(BaseModel):
    """A gate in the list that you looked at, by the digest it had."""

    model_config = ConfigDict(extra="forbid")

    gate: int
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class Ballot(BaseModel):
    """One decision on several gates of one list."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision
    reason: str = Field(max_length=4000, description="Recorded with every vote.")
    gates: list[int] = Field(min_length=1, max_length=500, description="The gates to decide.")
    shown: list[ShownGate] = Field(max_length=500, description="The list as you saw it, in its order.")
    list_digest: str = Field(pattern="^[0-9a-f]{64}$", description="Digest of that list.")
    atomic: bool = Field(False, description="Record all votes or none.")


class Refused(BaseModel):
    """Why a vote was not recorded, and the way out."""

    gate: int
    code: str
    why: str
    remedy: str


class Outcome(BaseModel):
    """What became of a ballot. A recorded vote decides a gate only when nothing is missing any more."""

    batch: str | None
    decided: list[GateShown] = Field(description="Gates on which your vote was recorded, as they are now.")
    refused: list[Refused]


class Problem(BaseModel):
    """A request that was not carried out (application/problem+json)."""

    title: str
    status: int
    code: str
    why: str
    remedy: str


class BallotRefused(Problem):
    """A ballot of which nothing was recorded."""

    batch: str | None = None
    decided: list[GateShown] = []
    refused: list[Refused] = []


class Withdrawal(BaseModel):
    """Takes your own vote back."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(max_length=4000)
