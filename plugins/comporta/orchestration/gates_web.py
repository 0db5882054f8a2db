"""The Gates page and its API, for the signed-in user of Airflow.

The routes translate and ask: Airflow's auth manager whether this person may touch a gate's DAG, the evidence whether it still
is as shown, the gate book for everything else. They decide nothing themselves.

No ``from __future__ import annotations`` here: FastAPI must see the dependencies themselves.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager, ResourceMethod
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from comporta.gates import Choice, Gate, GateBook, UnknownGate, list_digest
from comporta.gates.evidence import Collector, Evidence
from comporta.gates.policy import policy_of
from comporta.ledger import Event
from comporta.orchestration.evidence_watch import EvidenceWatch, NoData
from comporta.orchestration.gates_models import (
    Ballot,
    BallotRefused,
    GateEvent,
    GateInFull,
    GateList,
    GateShown,
    Me,
    Outcome,
    Problem,
    Refused,
    Withdrawal,
)
from comporta.orchestration.same_origin import foreign_origin
from comporta.orchestration.standing import standing
from comporta.orchestration.wake import wake
from comporta.settings import load_settings

OPEN = frozenset({"open"})
CLOSED = frozenset({"go", "no_go", "expired", "withdrawn"})
DECIDED_SHOWN = 50
_ASSETS = {
    "gates.css": "text/css; charset=utf-8",
    "gates.js": "text/javascript; charset=utf-8",
    "gates-light.svg": "image/svg+xml",
    "gates-dark.svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "You are not signed in."},
    403: {"model": Problem, "description": "Airflow does not permit it, or the request comes from another site."},
    503: {"model": Problem, "description": "The control database does not answer."},
}

router = APIRouter()
api = APIRouter(prefix="/api/gates", tags=["Gates"], responses=_PROBLEMS)


class Refusal(HTTPException):
    """A request that is not carried out: ``code`` for programs, ``why`` and the way out for people."""

    def __init__(self, status: int, code: str, why: str, remedy: str, **more: Any) -> None:
        super().__init__(status, why)
        self.code = code
        self.remedy = remedy
        self.more = more


# The world, each part replaced by name in tests.


@dataclass(frozen=True)
class Desk:
    """Where gates and their evidence come from."""

    open_book: Callable[[], AbstractContextManager[GateBook]]
    watch: EvidenceWatch
    roles_of: Callable[[str], list[str]]
    wake: Callable[[Iterable[Gate]], None] = lambda _: None


@cache
def desk() -> Desk:
    """The control database, and evidence from the servers in the project's settings."""
    settings = load_settings()

    return Desk(
        open_book=lambda: GateBook(settings.require("control")),
        watch=EvidenceWatch(lambda: Collector(settings, policy_of(settings))),
        roles_of=lambda login: sorted(role for role, holders in policy_of(settings).roles.items() if login in holders),
        wake=wake,
    )


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


def auth_manager() -> BaseAuthManager[Any]:
    """The auth manager that this Airflow is configured with."""
    return get_auth_manager()


class Person:
    """The signed-in user, and what Airflow permits them on a gate's DAG."""

    def __init__(self, user: GetUserDep, manager: Annotated[BaseAuthManager[Any], Depends(auth_manager)]) -> None:
        self._user = user
        self._manager = manager
        self._answers: dict[tuple[ResourceMethod, str], bool] = {}

    @cached_property
    def login(self) -> str:
        """The name that votes are recorded under."""
        return self._user.get_name()

    def may(self, method: ResourceMethod, dag_id: str) -> bool:
        """Whether Airflow permits them to read (GET) or to answer (PUT) what this DAG asks of people."""
        key = (method, dag_id)
        if key not in self._answers:
            team = DagModel.get_team_name(dag_id) if conf.getboolean("core", "multi_team") else None
            self._answers[key] = self._manager.is_authorized_dag(
                method=method,
                access_entity=DagAccessEntity.HITL_DETAIL,
                details=DagDetails(id=dag_id, team_name=team),
                user=self._user,
            )
        return self._answers[key]


SignedIn = Annotated[Person, Depends()]
Now = Annotated[datetime, Depends(now)]
TheDesk = Annotated[Desk, Depends(desk)]


def guard_write(request: Request, person: SignedIn) -> None:  # noqa: ARG001 - who is not signed in hears that first
    """Refuse what another web page could make a signed-in browser send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "not_json", "the request is not JSON", "Send Content-Type: application/json.")
    if complaint := foreign_origin(request.headers):
        raise Refusal(403, "foreign_origin", complaint, "Use the Gates page, or send an Authorization header.")


# The page.


@router.get("/gates", include_in_schema=False)
def show_page(person: SignedIn) -> HTMLResponse:
    """The page; it fetches the list itself, so that what it shows and what it later decides on are the same answer."""
    page = _templates().get_template("gates.html.j2")
    versions = {name: _asset(name)[1] for name in ("gates.css", "gates.js")}
    return HTMLResponse(page.render(login=person.login, versions=versions), headers=_PAGE_HEADERS)


@router.get("/static/{name}", include_in_schema=False)
def read_asset(
    name: str,
    person: SignedIn,  # noqa: ARG001 - asking for the person is the guard
    v: Annotated[str | None, Query(description="The version that the page was written with.")] = None,
) -> Response:
    """The page's own style sheet, script and icons. Under an address with a version they may be kept for good."""
    if name not in _ASSETS:
        raise Refusal(404, "unknown_file", f"there is no file {name}", "Reload the page.")
    content, version = _asset(name)
    kept_for = "max-age=31536000, immutable" if v == version else "max-age=3600"
    headers = {"Cache-Control": f"private, {kept_for}", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=_ASSETS[name], headers=headers | {"ETag": f'"{version}"'})


def _asset(name: str) -> tuple[bytes, str]:
    content = files("comporta.orchestration").joinpath("static", name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


def _templates() -> Environment:
    return Environment(loader=PackageLoader("comporta.orchestration"), autoescape=True, undefined=StrictUndefined)


# The API.


@api.get("", response_model=GateList, summary="List gates")
def list_gates(
    request: Request,
    person: SignedIn,
    moment: Now,
    desk: TheDesk,
    state: Annotated[
        Literal["open", "decided"],
        Query(description="open, or the last 50 that were closed: decided, expired, withdrawn."),
    ] = "open",
    dag_id: Annotated[str | None, Query(description="Only gates asked by this DAG.")] = None,
    run_id: Annotated[str | None, Query(description="Only gates asked by this run of the DAG.")] = None,
) -> Response:
    """Gates that you may see, open ones by deadline, closed ones by the last change first.

    The evidence of each open gate is collected anew; where it differs from what the gate last saw, the gate is told, which
    voids the votes given on the older evidence. Send the ETag back in If-None-Match: 304 means that nothing changed.
    """
    prefix = f"{dag_id}/{run_id}/" if dag_id and run_id else f"{dag_id}/" if dag_id else None
    with desk.open_book() as book:
        found = book.list(states=OPEN if state == "open" else CLOSED, asker_prefix=prefix)
        seen = [gate for gate in found if person.may("GET", _dag(gate))]
        if state == "open":
            looked = _look_again(book, desk.watch, seen)
            shown = [_shown(gate, person, moment, no_data) for gate, no_data in looked if gate.state == "open"]
            shown.sort(key=lambda gate: (gate["deadline"], gate["gate"]))
        else:
            shown = sorted((_shown(gate, person, moment) for gate in seen), key=_closed_at, reverse=True)[
                :DECIDED_SHOWN
            ]
    content = {
        "me": Me(login=person.login, roles=desk.roles_of(person.login)),
        "list_digest": list_digest([Choice(gate["gate"], gate["digest"]) for gate in shown]),
        "gates": [GateShown.model_validate(gate) for gate in shown],
    }
    body = jsonable_encoder(content)
    tag = f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return JSONResponse({"now": moment.isoformat(), **body}, headers=headers)


@api.get(
    "/{gate}", response_model=GateInFull, summary="Show one gate with its history", responses={404: {"model": Problem}}
)
def show_gate(gate: int, person: SignedIn, moment: Now, desk: TheDesk) -> dict[str, Any]:
    """One gate, its evidence collected anew while it is open, and its events in the ledger."""
    with desk.open_book() as book:
        found = book.get(gate)
        _require(person, "GET", found)
        [(latest, no_data)] = _look_again(book, desk.watch, [found])
        return {
            **_shown(latest, person, moment, no_data),
            "history": [_event(event) for event in book.history(gate)],
        }


@api.post(
    "/decide",
    response_model=Outcome,
    summary="Decide several gates at once",
    dependencies=[Depends(guard_write)],
    responses={409: {"model": BallotRefused, "description": "Nothing was recorded: all or none, or another list."}},
)
def decide(ballot: Ballot, person: SignedIn, moment: Now, desk: TheDesk, afterwards: BackgroundTasks) -> Any:
    """Record your vote on each gate, or say for each why not. A gate that changed since the list was drawn is refused."""
    digests = {shown.gate: shown.digest for shown in ballot.shown}
    chosen = list(dict.fromkeys(ballot.gates))
    if strangers := [gate for gate in chosen if gate not in digests]:
        why = f"not in the list that was shown: {', '.join(map(str, strangers))}"
        raise Refusal(409, "list_changed", why, "Draw the list again, then decide.", decided=[], refused=[])
    with desk.open_book() as book:
        refused = _refusals_before_the_book(book, desk.watch, person, ballot.decision, chosen)
        held_back = {refusal.gate for refusal in refused}
        if refused and ballot.atomic:
            others = [_all_or_none(gate) for gate in chosen if gate not in held_back]
            return _nothing_recorded(None, refused + others)
        going = [gate for gate in chosen if gate not in held_back]
        if not going:
            return Outcome(batch=None, decided=[], refused=refused)
        result = book.decide(
            [Choice(gate, digests[gate]) for gate in going],
            ballot.decision,
            actor=person.login,
            reason=ballot.reason.strip(),
            shown=[Choice(shown.gate, shown.digest) for shown in ballot.shown],
            list_digest=ballot.list_digest,
            via="page",
            atomic=ballot.atomic,
        )
    if result.list_refused:
        first = result.list_refused
        raise Refusal(409, first.code, first.why, first.remedy, batch=result.batch, decided=[], refused=[])
    refused += [
        Refused(gate=each.gate or 0, code=each.code, why=each.why, remedy=each.remedy) for each in result.refused
    ]
    if ballot.atomic and result.refused:
        return _nothing_recorded(result.batch, refused)
    afterwards.add_task(desk.wake, result.decided)
    decided = [GateShown.model_validate(_shown(gate, person, moment)) for gate in result.decided]
    return Outcome(batch=result.batch, decided=decided, refused=refused)


@api.post(
    "/{gate}/revoke",
    response_model=GateShown,
    summary="Take your own vote back",
    dependencies=[Depends(guard_write)],
    responses={404: {"model": Problem}, 409: {"model": Problem}},
)
def revoke(gate: int, withdrawal: Withdrawal, person: SignedIn, moment: Now, desk: TheDesk) -> dict[str, Any]:
    """Take your vote back while nobody has acted on the decision; a decision that rested on it is open again."""
    with desk.open_book() as book:
        _require(person, "PUT", book.get(gate))
        return _shown(
            book.revoke(gate, actor=person.login, reason=withdrawal.reason.strip(), via="page"), person, moment
        )


def _refusals_before_the_book(
    book: GateBook, watch: EvidenceWatch, person: Person, decision: str, chosen: Iterable[int]
) -> list[Refused]:
    """What the ledger cannot know: Airflow's permission, and whether the evidence can be had at all."""
    known = {gate.gate: gate for gate in book.list(states=OPEN)}
    refused, permitted = [], []
    for number in chosen:
        try:
            gate = known[number] if number in known else book.get(number)
        except UnknownGate:
            continue  # the book says so
        if person.may("PUT", _dag(gate)):
            permitted.append(gate)
        else:
            refused.append(Refused(gate=number, **_forbidden(person, "PUT", gate)))
    if decision == "go":
        remedy = "Bring back what does not answer, or say No-Go."
        refused += [
            Refused(gate=gate.gate, code="no_data", why=f"no data on the evidence: {no_data}", remedy=remedy)
            for gate, no_data in _look_again(book, watch, permitted)
            if no_data
        ]
    return refused


def _look_again(book: GateBook, watch: EvidenceWatch, gates: list[Gate]) -> list[tuple[Gate, str | None]]:
    """Each gate after it was told of its evidence as it is now, or as it was with the reason why that is not known."""
    found = watch.look(gate for gate in gates if gate.state == "open")

    def of_now(gate: Gate) -> tuple[Gate, str | None]:
        match found.get(gate.gate):
            case NoData(why=why):
                return gate, why
            case Evidence() as latest if latest.digest != gate.evidence_digest:
                return book.renew(gate.gate, latest.items, latest.blockers, actor="comporta"), None
        return gate, None

    return [of_now(gate) for gate in gates]


def _shown(gate: Gate, person: Person, moment: datetime, no_data: str | None = None) -> dict[str, Any]:
    mine = standing(gate, person.login, moment, may_answer=person.may("PUT", _dag(gate)), no_data=no_data)
    return {**gate.as_json(), "mine": mine, "no_data": no_data}


def _event(event: Event) -> GateEvent:
    """Named field by field: what else an event carries is the ledger's own affair."""
    return GateEvent(
        id=event.id, event_type=event.event_type, actor=event.actor, at=event.timestamp, payload=dict(event.payload)
    )


def _dag(gate: Gate) -> str:
    return str(gate.asked_by["dag_id"])


def _closed_at(gate: dict[str, Any]) -> str:
    return str(gate["consumed_at"] or (gate["decision"] or {}).get("at") or gate["deadline"])


def _require(person: Person, method: ResourceMethod, gate: Gate) -> None:
    if not person.may(method, _dag(gate)):
        raise Refusal(403, **_forbidden(person, method, gate))


def _forbidden(person: Person, method: ResourceMethod, gate: Gate) -> dict[str, str]:
    what = "answer for" if method == "PUT" and person.may("GET", _dag(gate)) else "see"
    which = f"the DAG {_dag(gate)}" if what == "answer for" else "the DAG that asks"
    why = f"Airflow does not permit {person.login} to {what} {which}"
    return {"code": "forbidden", "why": why, "remedy": "Ask an Airflow administrator for that permission."}


def _all_or_none(gate: int) -> Refused:
    why = "another gate of the list was refused, and all or none was asked for"
    return Refused(gate=gate, code="atomic", why=why, remedy="Decide the others without it.")


def _nothing_recorded(batch: str | None, refused: Iterable[Refused]) -> JSONResponse:
    why = "a gate of the list was refused, and all or none was asked for; nothing was recorded"
    problem = BallotRefused(
        title="Conflict",
        status=409,
        code="atomic",
        why=why,
        remedy="Decide the others without it.",
        batch=batch,
        refused=list(refused),
    )
    return JSONResponse(problem.model_dump(mode="json"), 409, media_type="application/problem+json")
