"""What a mail says. Pure: the same event and gate give the same letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from comporta.gates import Gate
from comporta.ledger import Event
from comporta.notices.model import Letter, Notice


@dataclass(frozen=True)
class Pages:
    """Addresses that letters lead to; ``base`` is that of the web UI, empty where nobody said it."""

    base: str = ""

    def gates(self) -> str:
        """The page on which gates are decided."""
        return f"{self.base}/comporta/gates" if self.base else ""

    def run(self, run: str) -> str:
        """The grid of a run, ``<dag>/<run id>``; a run of the command line has none."""
        dag, _, run_id = run.partition("/")
        return f"{self.base}/dags/{quote(dag, safe='')}/runs/{quote(run_id, safe='')}" if self.base and run_id else ""

    def report(self, page: str | None) -> str:
        """A page of ``archives/``."""
        return f"{self.base}/comporta/reports/{page}" if self.base and page else page or ""


@dataclass(frozen=True)
class Content:
    """A letter before it is put into text and HTML: facts are (label, value), links (label, address or path)."""

    subject: str
    lead: str
    facts: tuple[tuple[str, str], ...] = ()
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def letter(self) -> Letter:
        """As mail carries it."""
        plain, html = (
            _environment().get_template(f"letter.{kind}.j2").render(content=self) for kind in ("txt", "html")
        )
        return Letter(self.subject, plain, html)


def about_gate(notice: Notice, event: Event, gate: Gate, pages: Pages, *, reached: str = "") -> Letter:
    """The letter on one event of a gate; ``reached`` is the name of the person addressed."""
    facts = [
        ("gate", f"{gate.gate}, {gate.name}"),
        ("question", gate.question),
        ("release", gate.feature),
        ("asked by", gate.asker),
        ("opened", moment(gate.opened_at)),
        ("closes", moment(gate.deadline)),
    ]
    if gate.valid_until:
        facts.append(("holds until", moment(gate.valid_until)))
    missing = gate.missing if gate.state == "open" else ()
    changes = gate.changes if notice == Notice.EVIDENCE_CHANGED else ()
    lists = [
        ("Still missing", [f"{each.count} x {each.role}: {' or '.join(each.holders) or 'nobody'}" for each in missing]),
        ("Votes", [f"{vote.actor}: {_WORDS[gate.kind][vote.decision]}, {vote.reason}" for vote in gate.votes]),
        ("In the way of a Go", gate.blockers),
        ("What changed", changes),
        ("Evidence", [f"{item.title}: {item.detail or item.digest[:12]}" for item in gate.evidence]),
    ]
    links = [("Decide", pages.gates())] if gate.state == "open" else [("Gates", pages.gates())]
    links += [(item.title, pages.report(item.link)) for item in gate.evidence if item.link]
    return Content(
        subject=f"[Comporta] {_headline(notice, event, gate)} (gate {gate.gate})",
        lead=_lead(notice, event, gate, reached),
        facts=tuple(facts),
        lists=tuple((title, tuple(items)) for title, items in lists if items),
        links=tuple((label, address) for label, address in links if address),
    ).letter()


def about_minutes(event: Event, pages: Pages) -> Letter:
    """The minutes of a daily sync as a letter; the page has more."""
    minutes: Mapping[str, Any] = event.payload.get("minutes", {})
    blockers: Sequence[Mapping[str, Any]] = minutes.get("blockers", ())
    decisions: Sequence[Mapping[str, Any]] = minutes.get("decisions", ())
    readiness: Sequence[Mapping[str, Any]] = minutes.get("readiness", ())
    said = ", ".join(f"{each['name']}: {each['word']}" for each in decisions) or "no gate was put"
    count = f"{len(blockers)} blocker{'' if len(blockers) == 1 else 's'}"
    lists = (
        ("Readiness", tuple(f"{each['owner']}: {each['word']}{_said(each)}" for each in readiness)),
        ("Blockers", tuple(f"{each['owner']}: {each['what']} ({each['age']})" for each in blockers)),
        ("Decisions", tuple(f"{each['name']}: {each['word']}{_said(each)}" for each in decisions)),
        ("Next", tuple(f"{each['who']}: {each['what']}" for each in minutes.get("actions", ()))),
        ("STAGE 4, to be decided", tuple(minutes.get("execution_plan", ()))),
    )
    return Content(
        subject=f"[Comporta] Daily sync {minutes.get('date', '')}: {count}; {said}",
        lead=str(minutes.get("sentence", "")),
        facts=(("release", event.feature), ("run", str(minutes.get("run_id", "")))),
        lists=tuple(each for each in lists if each[1]),
        links=tuple(each for each in [("Minutes", pages.report(event.payload.get("report")))] if each[1]),
    ).letter()


def moment(at: datetime | str) -> str:
    """A time as people read it, in UTC."""
    value = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


_WORDS = {"decision": {"go": "Go", "no_go": "No-Go"}, "readiness": {"go": "Ready", "no_go": "Blocker"}}


def _said(each: Mapping[str, Any]) -> str:
    by = ", ".join(each["by"]) if isinstance(each.get("by"), list | tuple) else each.get("by") or ""
    reason = each.get("reason") or ""
    return (f" by {by}" if by else "") + (f": {reason}" if reason else "")


def _headline(notice: Notice, event: Event, gate: Gate) -> str:
    decision = gate.kind == "decision"
    what = gate.name if decision else f"readiness of {', '.join(need.role for need in gate.policy.needs)}"
    asked = f"{'Go or No-Go' if decision else 'Ready or Blocker'}? {what}, by {gate.deadline.astimezone(UTC):%H:%M} UTC"
    match notice:
        case Notice.OPENED:
            text = asked
        case Notice.REMINDER:
            text = f"Reminder {event.payload.get('nth', '')}: {asked}"
        case Notice.EVIDENCE_CHANGED:
            text = f"The evidence changed: {what}"
        case Notice.WITHDRAWN:
            text = f"{'Open again' if event.event_type == 'gate_reopened' else 'Withdrawn'}: {what}"
        case Notice.UNREACHED:
            text = f"{event.payload.get('recipient')} was not reached: {what}"
        case _ if event.event_type == "gate_expired":
            text = f"{_expired(event, gate)}: {what}"
        case _:
            text = f"{_answer(event, gate)}: {what}"
    return text


def _answer(event: Event, gate: Gate) -> str:
    return _WORDS[gate.kind].get(str(event.payload.get("decision")), "Decided")


def _expired(event: Event, gate: Gate) -> str:
    if event.payload.get("was") == "go":
        return "Go lapsed unused"
    return "Blocker by silence" if gate.kind == "readiness" else "Closed without an answer"


def _lead(notice: Notice, event: Event, gate: Gate, reached: str) -> str:
    payload = event.payload
    to = f"{reached}: " if reached else ""
    ask = "an answer is asked of you" if gate.kind == "readiness" else "your decision is asked for"
    silent = ", ".join(str(each) for each in payload.get("silent", ())) or "nobody in particular"
    why = payload.get("why") or payload.get("reason")
    match notice:
        case Notice.OPENED:
            text = f"{to}{ask}. Without one the gate closes at {moment(gate.deadline)}: silence is never a Go."
        case Notice.REMINDER:
            text = f"{to}{ask}; {silent} did not answer yet. The gate closes at {moment(gate.deadline)}."
        case Notice.EVIDENCE_CHANGED:
            text = (
                f"{to}what the gate rests on is not what it was. Votes cast before do not count: look, and vote again."
            )
        case Notice.WITHDRAWN:
            text = f"The question does not stand as it was put{f': {why}' if why else ''}."
        case Notice.UNREACHED:
            text = (
                f"{payload.get('recipient')} could not be told ({payload.get('notice')}): {payload.get('said')}. "
                "Please reach them another way; the gate closes as planned."
            )
        case _ if event.event_type == "gate_expired" and payload.get("was") == "go":
            text = "The Go was not used while it held. Whoever needs it asks again."
        case _ if event.event_type == "gate_expired":
            so = "That counts as a Blocker" if gate.kind == "readiness" else "Nothing was let through"
            text = f"No answer by {moment(gate.deadline)} from {silent}. {so}."
        case _:
            by = ", ".join(str(each) for each in payload.get("by", ())) or event.actor
            text = f"{_answer(event, gate)} by {by}{f': {why}' if why else ''}."
    return text


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("comporta.notices"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
