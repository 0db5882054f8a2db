"""The checklist of the release, checked by the machine: one pure function an item, and one that loads what it needs.

An item's result is bound to what it was computed from by a digest. What cannot be looked at is a blocker and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from comporta.errors import ComportaError, ConfigurationError
from comporta.gates import EvidenceItem
from comporta.gates.policy import GatesFile
from comporta.health import Health, look
from comporta.ledger import Event, EventType, Ledger
from comporta.notices.outbox import LastMail, Outbox
from comporta.release.model import Release, load_release
from comporta.reports.page import digest_of
from comporta.settings import Settings
from comporta.sync.model import Answer, Blocker, Finding, Item, ItemState
from comporta.validation.validity import ProofStatus, validity_now

DRILLS_HOLD = timedelta(days=7)
OF_A_SYNC = frozenset({"dependencies_closed"})
"""Items whose result depends on the sync that asks."""
_RUNS_LOOKED_AT = 50
_SHOWN = 3


# -- the items, as pure functions ------------------------------------------------------------------------------------


def rollbacks_proved(statuses: Sequence[ProofStatus]) -> Finding:
    """Every proof that the release owes is valid for the scripts and the target of now."""
    valid = [each for each in statuses if each.valid]
    newest = max((each for each in statuses if each.recorded_at), key=_recorded, default=None)
    evidence = EvidenceItem(
        "rollback_proofs",
        "STAGE 3, rollback proofs",
        digest_of({"proofs": [each.as_json() for each in statuses]}),
        newest.report if newest else None,
        f"{len(valid)} of {len(statuses)} proofs are valid",
    )
    if not statuses:
        return Finding("blocker", "the release owes no proof: there is nothing that could be proved")
    if len(valid) == len(statuses):
        return Finding("ok", f"all {len(statuses)} proofs are valid", evidence)
    others = [f"{each.subject} · {each.scenario} {each.state}" for each in statuses if not each.valid]
    return Finding("blocker", f"{len(others)} of {len(statuses)} proofs are not valid: {_few(others)}", evidence)


@dataclass(frozen=True)
class DryRun:
    """A dry run as the ledger has it: the digests of its scripts, and how it ended (None: it did not)."""

    run: str
    scripts: Mapping[str, Mapping[str, str]]
    verdict: str | None
    ended_at: datetime | None = None
    report: str | None = None
    digest: str = ""


def dry_run_passed(runs: Sequence[DryRun], scripts: Mapping[str, Mapping[str, str]]) -> Finding:
    """The last dry run of the whole release passed, and is of these scripts. ``runs`` newest first; ``scripts`` by change."""
    whole = next((run for run in runs if run.verdict is not None and scripts.keys() <= run.scripts.keys()), None)
    if whole is None:
        return Finding("no_data", "no finished dry run of the whole release is recorded")
    evidence = EvidenceItem(
        "dry_run",
        "STAGE 2, dry run",
        whole.digest or digest_of({"run": whole.run, "scripts": whole.scripts, "verdict": whole.verdict}),
        whole.report,
        f"verdict {whole.verdict}",
    )
    when = f"{whole.run} of {whole.ended_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if whole.ended_at else whole.run
    if changed := [name for name in scripts if dict(whole.scripts[name]) != dict(scripts[name])]:
        return Finding("blocker", f"scripts changed since the dry run {when}: {', '.join(changed)}", evidence)
    if whole.verdict == "stop":
        return Finding("blocker", f"the dry run {when} ended with a stop", evidence)
    return Finding("ok", f"verdict {whole.verdict} for {len(scripts)} changes, {when}", evidence)


def capacity_planned(event: Event | None, scripts: Mapping[str, Mapping[str, str]]) -> Finding:
    """A capacity plan of these scripts is recorded, and no objective fails today with the release. ``scripts`` by change."""
    if event is None:
        return Finding("blocker", "no capacity plan is recorded")
    report, digest = event.payload.get("report"), event.payload.get("digest")
    when = f"{event.timestamp.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if not digest:
        return Finding("blocker", f"the capacity plan of {when} has no digest")
    verdict = event.payload.get("verdict")
    evidence = EvidenceItem("capacity", "STAGE 4, capacity plan", str(digest), report, f"verdict {verdict}")
    planned = event.payload.get("scripts") or {}
    if changed := [name for name in scripts if planned.get(name) != scripts[name]["apply"]]:
        return Finding("blocker", f"scripts changed since the capacity plan of {when}: {', '.join(changed)}", evidence)
    if verdict == "stop":
        failing = _failing(event.payload.get("answers") or ())
        return Finding(
            "blocker", f"the capacity plan of {when} says stop{failing and f': not met today: {failing}'}", evidence
        )
    if verdict not in ("pass", "warn"):
        return Finding("blocker", f"the capacity plan of {when} has no verdict", evidence)
    return Finding("ok", f"verdict {verdict}, planned on {when}", evidence)


def _failing(answers: Sequence[Mapping[str, Any]]) -> str:
    return _few(list(dict.fromkeys(str(each.get("question")) for each in answers if each.get("verdict") == "not_met")))


@dataclass(frozen=True)
class LastDrillOf:
    """The last result of one drill; ``at`` is None when it never ran."""

    name: str
    at: datetime | None = None
    verdict: str = "no data"
    why: str = ""


def drills_passed(drills: Sequence[LastDrillOf], now: datetime, *, hold: timedelta = DRILLS_HOLD) -> Finding:
    """Every failover drill met its objectives when it last ran, and that was less than seven days ago."""
    ran = {each.name: each.at for each in drills if each.at is not None}
    facts = [[each.name, each.at and each.at.isoformat(), each.verdict, each.why] for each in drills]
    evidence = EvidenceItem(
        "drills", "Failover drills", digest_of({"drills": facts}), detail=f"{len(ran)} of {len(drills)} were run"
    )
    wrong = [f"{each.name} {each.verdict}: {each.why}" for each in drills if each.at and each.verdict != "met"]
    old = [f"{name} on {at:%Y-%m-%d}" for name, at in ran.items() if at <= now - hold]
    never = [each.name for each in drills if each.at is None]
    if wrong:
        return Finding("blocker", f"objectives not met: {_few(wrong)}", evidence)
    if old:
        return Finding("blocker", f"last run more than {hold.days} days ago: {_few(old)}", evidence)
    if never:
        return Finding("no_data", f"never run: {', '.join(never)}", evidence)
    return Finding("ok", f"{len(drills)} of {len(drills)} met their objectives", evidence, min(ran.values()) + hold)


def everyone_reachable(addresses: Mapping[str, str | None], last: Mapping[str, LastMail]) -> Finding:
    """Each person of the gates file has a mail address, and the last mail to each was not refused or given up."""
    without = [login for login, address in addresses.items() if not address]
    # Without the server's words: a queue number in them would make it another blocker each time, and void votes each time.
    failed = [who for who in addresses if who in last and last[who].state == "failed"]
    states = {who: last[who].state if who in last else "no mail yet" for who in addresses}
    evidence = EvidenceItem("mail", "Mail to everyone", digest_of({"without": without, "states": states}))
    if without or failed:
        told = [f"no address: {', '.join(without)}"] if without else []
        told += [f"the last mail failed: {', '.join(failed)} (comporta mail list --failed)"] if failed else []
        return Finding("blocker", "; ".join(told), evidence)
    return Finding("ok", f"{len(addresses)} people have an address, and no last mail failed", evidence)


def dependencies_closed(
    scripts: Mapping[str, Mapping[str, str]],
    refused: str,
    unfinished: Sequence[str],
    carried: Sequence[Blocker],
) -> Finding:
    """The release stands together, no stage stopped half-way, and no blocker that an owner raised is left open.

    ``refused``: why the release file is (a requirement that is missing, a circle, a wrong order); ``unfinished``: runs of
    stages that began after the last that ended; ``carried``: what owners said in the last sync and have not taken back.
    """
    evidence = EvidenceItem(
        "dependencies",
        "Dependencies",
        digest_of({"scripts": scripts, "unfinished": list(unfinished), "carried": [each.key for each in carried]}),
    )
    if refused:
        return Finding("blocker", refused)
    told = [f"not finished: {', '.join(unfinished)}"] if unfinished else []
    told += [f"open since the last sync: {_few([f'{each.owner}: {each.what}' for each in carried])}"] if carried else []
    if told:
        return Finding("blocker", "; ".join(told), evidence)
    return Finding("ok", f"{len(scripts)} changes in order, no run unfinished, no blocker carried over", evidence)


def health_ok(health: Health) -> Finding:
    """Every breaker of the release is closed, nobody holds one open, and what each of them watches was seen to be good.

    Names only: the numbers change with every sample, and a breaker that is probed comes and goes between open and half-open.
    """
    held = [str(each) for each in health.holds]
    opened = [each.name for each in health.breakers if each.state == "bad" and each.position != "closed"]
    unseen = [each.name for each in health.breakers if each.state == "no data"]
    evidence = EvidenceItem(
        "health",
        "Health of the target",
        digest_of({"target": health.target, "state": health.state, "held": held, "open": opened, "no data": unseen}),
        detail=f"{len(health.breakers)} breakers, {health.state}",
    )
    if health.ok:
        return Finding("ok", f"{len(health.breakers)} breakers are closed", evidence)
    told = [
        *held,
        *([f"open: {', '.join(opened)}"] if opened else []),
        *([f"no data: {', '.join(unseen)}"] if unseen else []),
    ]
    state: ItemState = "blocker" if health.state == "bad" else "no_data"
    return Finding(state, f"{'; '.join(told)} (comporta health status)", evidence)


def timeline_holds(due: date | None, took: Mapping[str, timedelta | None], now: datetime) -> Finding:
    """What is still to be repeated before the date of the release, as long as it took the last time, fits before it."""
    if due is None:
        return Finding("no_data", "config/release.yaml gives no date (due)")
    missing = [name for name, duration in took.items() if duration is None]
    if missing:
        return Finding("no_data", f"never measured: {', '.join(missing)}")
    needed = sum((duration for duration in took.values() if duration), timedelta())
    hours = {name: round(duration.total_seconds() / 3600, 2) for name, duration in took.items() if duration}
    evidence = EvidenceItem("timeline", "Timeline", digest_of({"due": due.isoformat(), "hours": hours}))
    last_start = datetime(due.year, due.month, due.day, tzinfo=UTC) - needed
    said = f"due {due}; {' + '.join(f'{name} {value:g} h' for name, value in hours.items())}"
    if now > last_start:
        return Finding("blocker", f"{said}: that had to begin by {last_start:%Y-%m-%d %H:%M} UTC", evidence)
    return Finding("ok", f"{said}: to begin by {last_start:%Y-%m-%d %H:%M} UTC", evidence, last_start)


# -- what they are computed from -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Where the items get their facts from; each is read once, when the first item asks for it."""

    settings: Settings
    file: GatesFile
    ledger: Ledger
    now: datetime
    answers: Sequence[Answer] = ()
    previous: Sequence[Blocker] = ()

    @cached_property
    def release(self) -> Release:
        """The release; ConfigurationError when its file is refused."""
        return load_release(self.settings.release_path, self.settings.home / "sql")

    @cached_property
    def scripts(self) -> dict[str, dict[str, str]]:
        """The digests of the scripts by change, as a dry run records them."""
        return {
            change.name: {"apply": change.apply.sha256, "verify": change.verify.sha256}
            for change in self.release.changes
        }

    def runs(self, started: EventType, finished: EventType) -> list[tuple[Event, Event | None]]:
        """Start and end of the last runs of a stage, newest first; the end is None for one that has none."""
        ended = {each.stream: each for each in self._of_release(finished)}
        found = []
        for began in reversed(self._of_release(started)):
            end = ended.get(began.stream)
            found.append((began, end if end is not None and end.id > began.id else None))
        return found

    def unfinished(self) -> list[str]:
        """Runs of the stages that began after the last one that ended."""
        found = []
        for started, finished in _STAGES.values():
            for began, ended in self.runs(started, finished):
                if ended is not None:
                    break
                found.append(began.stream)
        return list(dict.fromkeys(found))

    def took(self, stage: str) -> timedelta | None:
        """How long the last finished run of a stage took."""
        for began, ended in self.runs(*_STAGES[stage]):
            if ended is not None:
                return ended.timestamp - began.timestamp
        return None

    def last(self, event_type: EventType) -> Event | None:
        """The last event of a type about this release."""
        found = self._of_release(event_type)
        return found[-1] if found else None

    def _of_release(self, event_type: str) -> list[Event]:
        found = self.ledger.latest(_RUNS_LOOKED_AT, event_type=event_type)
        return [each for each in found if each.feature == self.release.name]


_STAGES = {
    "dry run": (EventType.DRY_RUN_STARTED, EventType.DRY_RUN_FINISHED),
    "rollback proofs": (EventType.VALIDATION_STARTED, EventType.VALIDATION_FINISHED),
    "capacity plan": (EventType.CAPACITY_STARTED, EventType.CAPACITY_PLANNED),
}


def _rollbacks(facts: Facts) -> Finding:
    return rollbacks_proved(validity_now(facts.settings))


def _dry_run(facts: Facts) -> Finding:
    runs = facts.runs(*_STAGES["dry run"])
    return dry_run_passed([_as_dry_run(began, ended) for began, ended in runs], facts.scripts)


def _as_dry_run(began: Event, ended: Event | None) -> DryRun:
    payload: Mapping[str, Any] = ended.payload if ended else {}
    return DryRun(
        run=began.stream.partition("/")[2],
        scripts=began.payload.get("changes") or {},
        verdict=payload.get("verdict"),
        ended_at=ended.timestamp if ended else None,
        report=payload.get("report"),
        digest=str(payload.get("digest") or ""),
    )


def _capacity(facts: Facts) -> Finding:
    return capacity_planned(facts.last(EventType.CAPACITY_PLANNED), facts.scripts)


def _drills(facts: Facts) -> Finding:
    # The drills bring servers and copies with them: loaded by the one who asks.
    from comporta.drills import record
    from comporta.drills.catalogue import DRILLS, NAMES
    from comporta.drills.objectives import load_plan

    plan = load_plan(facts.settings.home / "config" / "drills.yaml", NAMES)
    found = []
    for name in (drill.name for drill in DRILLS if drill.shipped):
        last = record.last(facts.ledger, name)
        if last is None:
            found.append(LastDrillOf(name))
            continue
        # Held against the objectives of today, which may be stricter than those of then.
        verdict, why = last.result.judge(plan.of(name))
        found.append(LastDrillOf(name, last.at, str(verdict), why))
    return drills_passed(found, facts.now)


def _reachable(facts: Facts) -> Finding:
    with Outbox(facts.settings.require("control")) as outbox:
        last = outbox.last_of_each()
    return everyone_reachable({login: person.email for login, person in facts.file.people.items()}, last)


def _dependencies(facts: Facts) -> Finding:
    try:
        scripts, refused = facts.scripts, ""
    except ConfigurationError as error:
        return dependencies_closed({}, error.message, (), ())
    ready = {f"owner/{each.owner}" for each in facts.answers if each.status == "ready"}
    carried = [each for each in facts.previous if each.key.startswith("owner/") and each.key not in ready]
    return dependencies_closed(scripts, refused, facts.unfinished(), carried)


def _health(facts: Facts) -> Finding:
    return health_ok(look(facts.settings, facts.release))


def _timeline(facts: Facts) -> Finding:
    took: dict[str, timedelta | None] = {stage: facts.took(stage) for stage in _STAGES}
    took["sync"] = timedelta(minutes=facts.file.readiness.sla_min)
    return timeline_holds(facts.release.due, took, facts.now)


CHECKS: Mapping[str, Callable[[Facts], Finding]] = {
    "dry_run_passed": _dry_run,
    "rollbacks_proved": _rollbacks,
    "capacity_planned": _capacity,
    "drills_passed": _drills,
    "everyone_reachable": _reachable,
    "dependencies_closed": _dependencies,
    "health_ok": _health,
    "timeline_holds": _timeline,
}


def check(facts: Facts, only: Collection[str] | None = None) -> tuple[Item, ...]:
    """The items of the gates file, all or those named, as they stand now; servers are only read.

    What cannot be looked at is a blocker that says so, and so is an item that nobody has written a check for.
    """
    found = []
    for name, plan in facts.file.readiness.checklist.items():
        if only is not None and name not in only:
            continue
        finding = _checked(name, facts)
        found.append(
            Item.of(name, title=plan.title, owner=plan.owner, required=plan.required, finding=finding, at=facts.now)
        )
    return tuple(found)


def _checked(name: str, facts: Facts) -> Finding:
    try:
        look = CHECKS[name]
    except KeyError:
        return Finding("blocker", f"no check is called {name}; there are: {', '.join(CHECKS)}")
    try:
        return look(facts)
    except ComportaError as error:
        return Finding("blocker", f"could not be checked: {error.message}")


def _recorded(status: ProofStatus) -> datetime:
    assert status.recorded_at is not None
    return status.recorded_at


def _few(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
