"""Histories of rollouts as the ledger would have them, told by hand: what tests of the report and of its mail share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from comporta.ledger import Event
from comporta.release.model import Budget

START = datetime(2026, 11, 24, 10, tzinfo=UTC)
RELEASE = "catalogue-2029"
RUN = "rollout/manual__2026-11-24T10:00:00+00:00"
TARGET = "7212345678901234567/gis"
TITLES = {
    "OPT1": "Partition geometrias by valid time",
    "OPT2": "Keep cold geometries in a columnar layout",
    "OPT3": "Indexed views behind rpc_search",
    "OPT4": "Partitions made ahead of need, 2029 onwards",
    "OPT5": "Scheduled, concurrent refresh of the views",
}


@dataclass(frozen=True)
class Change:
    """A change as the report sees it."""

    name: str
    title: str
    budget: Budget = field(default_factory=Budget)


CHANGES = tuple(Change(name, title) for name, title in TITLES.items())


def fingerprint(of: str) -> dict[str, str]:
    return {"digest": (of * 64)[:64], "facts": f"2026-11-24/rollout-x/fingerprint-{of}.json"}


@dataclass
class History:
    """Events in the order in which they were told; ``pass_time`` moves the clock, which stands still otherwise."""

    now: datetime = START
    run: str = RUN
    events: list[Event] = field(default_factory=list)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def add(self, stream: str, event_type: str, phase: str | None, actor: str = "airflow:po", **payload: Any) -> Event:
        version = sum(each.stream == stream for each in self.events) + 1
        event = Event(
            id=1000 + len(self.events), stream=stream, version=version, feature=RELEASE, event_type=event_type,
            workflow=stream.partition("/")[0], phase=phase, payload=payload, actor=actor, timestamp=self.now, idempotency_key=None,
        )  # fmt: skip
        self.events.append(event)
        return event

    def rollout(self, event_type: str, phase: str, actor: str = "airflow:po", **payload: Any) -> Event:
        return self.add(f"rollout/{RELEASE}", event_type, phase, actor, run=self.run, target=TARGET, **payload)

    def health(self, event_type: str, phase: str, actor: str = "watch", **payload: Any) -> Event:
        return self.add(f"health/{RELEASE}", event_type, phase, actor, **payload)

    # -- what a run does ---------------------------------------------------------------------------------------------

    def preflight(
        self, verdict: str = "pass", findings: Sequence[dict[str, str]] = (), names: Sequence[str] = tuple(TITLES)
    ) -> None:
        self.rollout(
            "rollout_preflighted", "preflight", verdict=verdict, findings=list(findings), changes=list(names),
            fingerprint=fingerprint("a"), headroom_bytes=3_200_000_000, free_bytes=41_000_000_000,
            backup={"lsn": "0/5A3F1C8", "timeline": 1, "at": "2026-11-24T09:30:00+00:00", "restore_point": None},
        )  # fmt: skip
        self.pass_time(1)

    def gate(self, *, decision: str = "go", reason: str = "read both reports") -> int:
        stream, opened = "gate/k1", self.now
        asker = f"{self.run}/gate/-1"
        evidence = [{"name": "rollback_proofs", "title": "STAGE 3 report", "digest": "b" * 64, "detail": "32 of 32 hold",
                     "link": "2026-11-23/stage3-x/rollback_proofs.html"}]  # fmt: skip
        number = self.add(
            stream, "gate_opened", "rollout", "airflow:po", asker=asker, question="May this release go to production?",
            kind="decision", evidence=evidence, opened_at=opened.isoformat(),
        ).id  # fmt: skip
        for nth, who in enumerate(("cfo", "po", "compliance", "security")):
            self.pass_time(20 + 7 * nth)
            vote = "go" if decision == "go" or who != "security" else "no_go"
            self.add(
                stream, "gate_vote_cast", "rollout", who, gate=number, decision=vote, reason=reason, via="gates page"
            )
        self.add(stream, "gate_decided", "rollout", "security", gate=number, decision=decision, reason=reason,
                 by=["cfo", "po", "compliance", "security"])  # fmt: skip
        self.add(stream, "gate_consumed", "rollout", "airflow:po", gate=number, consumer=f"{asker}/0")
        self.pass_time(2)
        return number

    def baseline(self) -> None:
        self.health(
            "health_baseline_taken", "baseline", target=TARGET, signals={"replication_lag_s": None, "connections": 14},
            canaries={"by_id": {"n": 40, "p50_ms": 0.6, "p95_ms": 1.1, "errors": 0},
                      "rpc_search": {"n": 40, "p50_ms": 22.0, "p95_ms": 31.0, "errors": 0}},
        )  # fmt: skip

    def apply(self, name: str, seconds: float = 6.0, *, gate: int | None = 7, begun_only: bool = False, resumed: bool = False,
              already: bool = False, wait_s: float | None = 0.043) -> None:  # fmt: skip
        self.rollout(
            "rollout_apply_started", name, fingerprint=fingerprint("a"), gate=gate, resumed=resumed, statements=12,
            scripts={role: (role[0] + name[-1]) * 32 for role in ("apply", "verify", "rollback")},
        )  # fmt: skip
        if begun_only:
            return
        self.pass_time(seconds)
        locks = None if wait_s is None else {"longest_wait_caused_s": wait_s, "longest_exclusive_s": wait_s / 3}
        statements = [{"number": nth, "headline": "create index", "seconds": seconds / 12} for nth in range(1, 13)]
        self.rollout(
            "rollout_apply_finished", name, fingerprint=fingerprint("c"), seconds=seconds, statements=statements,
            already=already, locks=locks,
        )  # fmt: skip

    def verify(self, name: str, seconds: float = 0.8, attempt: int = 1) -> None:
        self.pass_time(seconds)
        self.rollout("rollout_verify_passed", name, seconds=seconds, attempt=attempt)

    def verify_fails(self, name: str, attempt: int) -> None:
        self.pass_time(2)
        error = "verify OPT3: rpc_search('lago') returns 11 rows, expected 12"
        self.rollout("rollout_verify_failed", name, error=error, attempt=attempt, of=3, seconds=0.7)
        self.pass_time(8)

    def watch(self, name: str, seconds: float = 10.0) -> None:
        self.rollout("rollout_watch_started", name, soak_s=seconds)
        self.pass_time(seconds)
        self.rollout("rollout_watch_passed", name, soak_s=seconds, health={"state": "ok"})
        self.rollout("rollback_armed", name, forward=1, cycle=0)
        self.pass_time(0.5)

    def change(self, name: str, **more: Any) -> None:
        self.apply(name, **more)
        self.verify(name)
        self.watch(name)

    def back(
        self,
        name: str,
        *,
        root: str | None = None,
        why: str = "cleared",
        because: str = "cleared in Airflow",
        by: str | None = "dba",
        note: str | None = None,
        seconds: float = 3.0,
        restored: bool | None = True,
        differences: Sequence[str] = (),
        actor: str = "airflow:po",
    ) -> None:
        root = root or name
        self.rollout("rollback_started", name, actor, why=why, because=because, root=root, cleared_by=by, note=note,
                     fingerprint=fingerprint("c"))  # fmt: skip
        self.pass_time(seconds)
        expected = None if restored is None else fingerprint("a")["digest"]
        self.rollout(
            "rollback_finished", name, actor, seconds=seconds, statements=[], root=root, restored=restored, expected=expected,
            fingerprint=fingerprint("a" if restored is not False else "d"), differences=list(differences),
            proof=None if restored is None else f"{name} · restore",
            locks={"longest_wait_caused_s": 0.081, "longest_exclusive_s": 0.03},
        )  # fmt: skip
        self.pass_time(1)

    def cleared(self, *tasks: str, who: str = "dba", note: str | None = "the map is slower since") -> None:
        stream = f"cleared/{self.run}"
        run_id = self.run.partition("/")[2]
        self.add(stream, "task_cleared", None, who, tasks=list(tasks), note=note, run_id=run_id, whole_run=False)
        self.pass_time(4)

    def finish(self, verdict: str, changes: dict[str, str], reasons: Sequence[str] = ()) -> Event:
        return self.rollout("rollout_finished", "outcome", verdict=verdict, changes=changes, reasons=list(reasons),
                            report="2026-11-24/rollout-x/rollout.html", digest="f" * 64)  # fmt: skip


def green() -> History:
    """All five applied, verified and watched, on a Go."""
    told = History()
    told.preflight()
    gate = told.gate()
    told.baseline()
    for name, seconds in zip(TITLES, (14.0, 6.0, 9.0, 1.5, 0.02), strict=True):
        told.change(name, seconds=seconds, gate=gate)
    return told


def verify_failed() -> History:
    """OPT3's verify fails three times: it is rolled back by itself, and the rest is not started."""
    told = History()
    told.preflight()
    gate = told.gate()
    told.change("OPT1", gate=gate)
    told.change("OPT2", gate=gate)
    told.apply("OPT3", gate=gate)
    for attempt in (1, 2, 3):
        told.verify_fails("OPT3", attempt)
    told.health("breaker_opened", "errors", reason="12 of 20 samples were bad", window={"n": 20, "bad": 12, "no_data": 0},
                last=0.6, limit=0.02)  # fmt: skip
    told.back("OPT3", why="automatic", because="verify failed 3 times", by=None)
    return told


def cleared_later() -> History:
    """A green rollout; three days later somebody clears OPT1.rollback, and what stands on OPT1 goes first."""
    told = green()
    told.pass_time(3 * 86_400)
    told.cleared("OPT1.rollback")
    for name in ("OPT4", "OPT2", "OPT1"):
        told.back(name, root="OPT1", note="the map is slower since", seconds={"OPT1": 21.0}.get(name, 2.5))
    return told


def killed() -> History:
    """OPT2's apply began and was killed; nobody went on with it."""
    told = History()
    told.preflight()
    told.change("OPT1")
    told.apply("OPT2", begun_only=True)
    told.pass_time(30)
    return told


def drifted() -> History:
    """Somebody changed the target by hand before OPT1: refused, with the differences; OPT3 was taken back by psql before."""
    told = History(run="rollout/first")
    told.change("OPT3")
    told.pass_time(3600)
    told.run = RUN
    told.rollout("rollout_change_found", "OPT3", found="absent", by="outside Comporta", fingerprint=fingerprint("a"),
                 explains="its rollback script left its mark at 10:55")  # fmt: skip
    told.rollout("rollout_drifted", "preflight", fingerprint=fingerprint("e"),
                 differences=["index geometrias_name on catalogue.geometrias: expected present, found absent"])  # fmt: skip
    finding = {"code": "P7", "severity": "stop", "object": "catalogue.geometrias", "evidence": "1 difference from the proven one",
               "cure": "prove again, or put it back"}  # fmt: skip
    told.preflight("stop", [finding])
    told.rollout("rollout_refused", "OPT1", step="apply", reasons=["the target is not the one of the proofs"])
    return told


@dataclass(frozen=True)
class Look:
    """A sample as the control database keeps it."""

    at: datetime
    breaker: str
    verdict: str
    value: float | None = None
    bound: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


LIMITS = {
    "connections": 0.8,
    "dead_tuples": 0.6,
    "disk": 0.95,
    "errors": 0.0,
    "latency": 62.0,
    "lock_waits": 2.0,
    "replication_lag": 30.0,
}


def looks(told: History, *, seconds: int = 600, bad: str = "") -> list[Look]:
    """Health once a second from the first event on. ``replication_lag`` never has data, nobody looks at ``disk`` for a while,
    and the breaker called ``bad`` is so at the end; one query in fifty fails."""
    start, end = told.events[0].timestamp, told.events[-1].timestamp
    applying = [each.timestamp for each in told.events if each.event_type == "rollout_apply_started"]
    count = min(int((end - start).total_seconds()), seconds)
    found = []
    for second in range(count):
        at = start + timedelta(seconds=second)
        slow = 2.0 if any(timedelta(0) <= at - begun < timedelta(seconds=5) for begun in applying) else 1.0
        ms = {"by_id": 0.6 * slow * (1 + second % 7 / 10), "public_view": 22.0 * slow * (1 + second % 5 / 10)}
        failed = {"public_view": "canceling statement due to statement timeout"} if second % 50 == 7 else {}
        for name, bound in LIMITS.items():
            unwell = name == bad and second > 0.8 * count
            value = (bound or 1.0) * 3 if unwell else bound * (0.3 + second * 7 % 10 / 20)
            detail: dict[str, Any] = {"latency": {"ms": ms}, "errors": {"failed": failed}}.get(name, {})
            if name == "replication_lag":
                found.append(Look(at, name, "no_data"))
            elif name != "disk" or not 0.4 * count < second < 0.6 * count:
                found.append(Look(at, name, "bad" if unwell else "ok", value, bound, detail))
    return found
