"""The form under Required Actions, as Markdown."""

from __future__ import annotations

from airflow.sdk.configuration import conf

from comporta.gates.gate import Gate
from comporta.orchestration.report_link import report_address

GATES_PAGE = "/comporta/gates"


def body_of(gate: Gate) -> str:
    """Evidence, blockers, who decides and until when."""
    evidence = [
        f"| {_linked(item.title, item.link)} | {item.detail or ''} | `{item.digest[:12]}` |" for item in gate.evidence
    ]
    blockers = ["", "**A Go is refused while these stand:**", "", *(f"- {blocker}" for blocker in gate.blockers)]
    needs = ", ".join(f"{need.count} × {need.role}" for need in gate.policy.needs)
    excluded = "; ".join(f"{login} ({why})" for login, why in gate.policy.excluded.items()) or "nobody"
    return "\n".join(
        [
            f"Needs **{needs}** until **{gate.deadline:%Y-%m-%d %H:%M} UTC**; one No-Go of them is a No-Go. May not: {excluded}.",
            "",
            "| evidence | what it says | digest |",
            "|---|---|---|",
            *evidence,
            *(blockers if gate.blockers else ()),
            "",
            f"All open gates, with the votes so far: [Gates]({address()}).",
        ]
    )


def address() -> str:
    """Where the Gates page is on this API server."""
    return f"{str(conf.get('api', 'base_url', fallback='')).rstrip('/')}{GATES_PAGE}"


def _linked(title: str, page: str | None) -> str:
    return f"[{title}]({report_address(page)})" if page else title
