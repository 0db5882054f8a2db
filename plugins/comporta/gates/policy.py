"""Who may decide what: ``config/gates.yaml``, and the policy that a gate opens with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from comporta.errors import ConfigurationError
from comporta.files import Strict, read_file, refused
from comporta.gates.gate import Need, Policy
from comporta.settings import Settings

Login = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Minutes = Annotated[int, Field(gt=0)]
Hours = Annotated[float, Field(gt=0, le=24 * 366)]

EvidenceName = Literal["scripts", "target", "dry_run", "rollback_proofs", "drills", "capacity"]
Excluded = Literal["author", "trigger"]
When = Literal[
    "opened",
    "reminder",
    "decided",
    "no_go",
    "expired",
    "blocker",
    "withdrawn",
    "evidence_changed",
    "minutes",
    "rollout_stopped",
    "rolled_back",
    "rollback_failed",
    "breaker_opened",
    "breaker_held",
    "drifted",
    "rollout_finished",
]
ABOUT_NO_GATE = frozenset(
    {
        "minutes",
        "rollout_stopped",
        "rolled_back",
        "rollback_failed",
        "breaker_opened",
        "breaker_held",
        "drifted",
        "rollout_finished",
    }
)
EVERYONE = "everyone"
AUDIENCES = ("holders", "silent", EVERYONE, "askers")


class Person(Strict):
    """Somebody who signs in: the login is the key, ``cli`` are names of the operating system that stand for the same person."""

    name: str
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    cli: tuple[str, ...] = ()


class GatePlan(Strict):
    """One gate: its question, how many of which role must say Go, who may not, on what evidence, and for how long."""

    title: str
    question: str
    needs: dict[str, Annotated[int, Field(ge=1, le=20)]] = Field(min_length=1)
    excludes: tuple[Excluded, ...] = ("author", "trigger")
    evidence: tuple[EvidenceName, ...] = Field(default=("scripts", "target"), min_length=1)
    requires: tuple[Name, ...] = ()
    answer_within_h: Hours = 24
    holds_for_h: Hours = 24
    remind_after_min: tuple[Minutes, ...] = ()


class ChecklistItem(Strict):
    """A line of the readiness checklist. An item without ``required`` may lack data; with it, no data is a blocker."""

    title: str
    owner: str
    required: bool = True


class ReadinessPlan(Strict):
    """Who is asked each day, what they look at, and how long they have: silence is a Blocker."""

    owners: tuple[str, ...] = Field(min_length=1)
    sla_min: Minutes = 120
    remind_after_min: tuple[Minutes, ...] = (60, 90)
    checklist: dict[Name, ChecklistItem] = Field(default_factory=dict)


class DailySync(Strict):
    """The gates that the daily sync opens, in this order."""

    gates: tuple[Name, ...] = Field(min_length=1)


class Escalation(Strict):
    """Who is told when: roles by name, or holders, silent, everyone, askers; of these gates only, where any are named.

    What is about no gate (minutes, a rollout, a breaker) can be told to roles and to everyone only.
    """

    when: When
    tell: tuple[str, ...] = Field(min_length=1)
    gates: tuple[Name, ...] = ()


class GatesFile(Strict):
    """The whole file, checked: every name that it uses is defined in it."""

    people: dict[Login, Person] = Field(min_length=1)
    roles: dict[str, tuple[Login, ...]] = Field(min_length=1)
    gates: dict[Name, GatePlan] = Field(min_length=1)
    readiness: ReadinessPlan
    daily_sync: DailySync
    escalation: tuple[Escalation, ...] = ()

    def plan(self, gate: str) -> GatePlan:
        """The gate of that name; ConfigurationError lists those there are."""
        try:
            return self.gates[gate]
        except KeyError:
            raise ConfigurationError(
                f'no gate "{gate}" in the gates file: it has {", ".join(self.gates)}', remedy="Add it under gates:."
            ) from None

    def policy(self, gate: str, *, author: str, trigger: str | None) -> Policy:
        """The policy that a gate opens with. ``author`` is the release's, a login or a role; ``trigger`` who started the run."""
        plan = self.plan(gate)
        excluded: dict[str, str] = {}
        if "author" in plan.excludes:
            if author not in self.roles and author not in self.people:
                raise ConfigurationError(
                    f'the author of the release, "{author}", is neither a person nor a role of the gates file, so that nobody '
                    f'could be kept from deciding gate "{gate}" on their own work',
                    remedy="Name a login or a role under author: in the release file.",
                )
            excluded |= dict.fromkeys(self.roles.get(author, (author,)), "author of the release")
        if "trigger" in plan.excludes and trigger:
            excluded[trigger] = "started the run"
        needs = tuple(Need(role, count) for role, count in plan.needs.items())
        return Policy(needs, {role: self.roles[role] for role in plan.needs}, excluded)

    def readiness_policy(self, owner: str) -> Policy:
        """One answer of the role that owns its part of the release is enough, whoever started the run."""
        return Policy((Need(owner),), {owner: self.roles[owner]})

    def person_of_cli(self, user: str) -> str:
        """The login that a user of this machine stands for; their own name where the file says nothing."""
        return next((login for login, person in self.people.items() if user in person.cli), user)


def load_policy(path: Path) -> GatesFile:
    """Read the gates file; ConfigurationError names every key that is unknown, missing, wrong, or names what is not defined."""
    file = read_file(path, GatesFile)
    if found := list(_undefined(file)):
        raise refused(path, found)
    return file


def policy_of(settings: Settings) -> GatesFile:
    """The gates file of this installation."""
    return load_policy(settings.gates_path)


def _undefined(file: GatesFile) -> Iterator[str]:
    for role, logins in file.roles.items():
        yield from (f"roles.{role}: no person {login}" for login in logins if login not in file.people)
        if not logins:
            yield f"roles.{role}: nobody holds it"
    for name, plan in file.gates.items():
        yield from (f"gates.{name}.needs.{role}: no such role" for role in plan.needs if role not in file.roles)
        yield from (
            f"gates.{name}.requires: no checklist item {item}"
            for item in plan.requires
            if item not in file.readiness.checklist
        )
    yield from (f"readiness.owners: no role {role}" for role in file.readiness.owners if role not in file.roles)
    yield from (
        f"readiness.checklist.{name}.owner: no role {item.owner}"
        for name, item in file.readiness.checklist.items()
        if item.owner not in file.roles
    )
    yield from (f"daily_sync.gates: no gate {name}" for name in file.daily_sync.gates if name not in file.gates)
    for nth, rule in enumerate(file.escalation):
        yield from (
            f"escalation.{nth}.tell: {who} is neither a role nor one of {', '.join(AUDIENCES)}"
            for who in rule.tell
            if who not in file.roles and who not in AUDIENCES
        )
        yield from (f"escalation.{nth}.gates: no gate {name}" for name in rule.gates if name not in file.gates)
        if rule.when in ABOUT_NO_GATE:
            yield from (
                f"escalation.{nth}.tell: {rule.when} is about no gate, so that {who} is nobody"
                for who in rule.tell
                if who in AUDIENCES and who != EVERYONE and who not in file.roles
            )
            if rule.gates:
                yield f"escalation.{nth}.gates: {rule.when} is about no gate"
    yield from _twice({login: person.cli for login, person in file.people.items()})


def _twice(names: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for login, users in names.items():
        for user in users:
            if user in seen:
                yield f"people.{login}.cli: {user} stands for {seen[user]} already"
            seen[user] = login
