"""One run of a rollout: what the tasks of Airflow and the command line both do, step by step, with the ledger as
the truth.

Every step asks the ledger where the changes stand and looks whether the target agrees, does its part under the
claim on the target, and records what came of it. So each may die anywhere and be run again: it goes on from what is
on record, and scripts that were cut in the middle converge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from comporta.dryrun.preflight import Finding
from comporta.errors import StatementFailed
from comporta.health import BreakerBook, Health, look, monitoring, take_baseline
from comporta.ledger import EventType, Ledger
from comporta.postgres.connection import connect, describe
from comporta.postgres.execution import may_pass, run_script
from comporta.postgres.stopping import StopSwitch
from comporta.proof.fingerprint import Fingerprint
from comporta.release.model import Change, Release, load_release
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report
from comporta.rollout import checks
from comporta.rollout.clearing import Clear, Decision, Why, decide
from comporta.rollout.errors import BreakerOpened, RolloutRefused, VerifyFailed, WatchFailed
from comporta.rollout.go import Go
from comporta.rollout.record import SHOWN, WORKFLOW, Looked, Record
from comporta.rollout.report_events import events_of
from comporta.rollout.standing import Seen, State
from comporta.rollout.target import ScriptRun, Target, claimed, note_backup_point
from comporta.settings import Settings

TRIES = 3
"""How often a change may fail to verify, and the target be found unwell, before the change is rolled back."""
PATIENCE_S = 600.0
_PAUSE_S = 1.0

Say = Callable[[str], None]


@dataclass
class Rollout:
    """A run. ``run`` is how the ledger names it; ``actor`` who acts in it; ``go`` the decision that lets it touch
    the target."""

    settings: Settings
    release: Release
    run: str
    started: datetime
    actor: str
    say: Say
    record: Record
    stop: StopSwitch = field(default_factory=StopSwitch)

    # -- the steps ---------------------------------------------------------------------------------------------------

    def preflight(self, names: Sequence[str] = ()) -> list[Finding]:
        """Whether the release, or the changes ``names``, may be rolled out now: proofs, drift, headroom, long
        transactions, health. RolloutRefused names everything that is in the way; the backup point and the
        baseline of the target's health are noted."""
        self.say(f"preflight: reads {describe(self.dsn)}; changes nothing on it")
        with monitoring(self.settings, self.release, self.say), connect(self.dsn, name="comporta/preflight") as conn:
            looked = self.record.look(conn)
            findings = checks.of_target(conn, self.release, self.record.ledger, looked.board)
            findings += checks.of_proofs(self.release, self.record.ledger, self._base(looked), self.record.recall)
            findings += [checks.drifted(each) for each in looked.unexplained]
            backup = note_backup_point(conn, self.run)
            if not looked.board.standing:
                take_baseline(self.settings, self.release, actor=self.actor, say=self.say)
            findings += checks.of_health(self._health())
        for finding in findings:
            self.say(f"  {finding.severity}: {finding.object}: {finding.evidence}")
        stops = [each for each in findings if each.severity == "stop"]
        self.record.append(
            EventType.ROLLOUT_PREFLIGHTED,
            "preflight",
            verdict="stop" if stops else "pass",
            findings=[asdict(each) for each in findings],
            fingerprint=looked.seen.as_json(),
            backup=backup,
            headroom_bytes=checks.headroom(self.record.ledger, self.release, looked.board),
            changes=list(names) or [change.name for change in self.release.changes],
        )
        if stops:
            raise RolloutRefused(
                "the rollout",
                [f"{each.object}: {each.evidence}" for each in stops],
                remedy="\n".join(dict.fromkeys(each.cure for each in stops if each.cure)),
            )
        return findings

    def apply(self, name: str, go: Go) -> str:
        """Apply one change on the target, or find it applied; returns what came of it. RolloutRefused before the
        first statement; StatementFailed and BreakerOpened leave it half there, to be taken up again or rolled
        back."""
        change = self.release.change(name)
        self.say(f"{name}: {change.title}")
        self.say(f"applies {change.apply.path.name} to the target {describe(self.dsn)}")
        with self._claim() as target, self._watched():
            looked = self.record.look(target.conn)
            standing = looked.board[name]
            if standing.whole and not looked.unexplained:
                self.record.append(
                    EventType.ROLLOUT_APPLY_FINISHED, name, already=True, fingerprint=looked.seen.as_json()
                )
                return self._tell(f"{name} is {standing.state} already, by {standing.run}: nothing to do")
            self._refuse_apply(change, looked, go)
            self.say(f"the Go of gate {go.gate} is in force; {len(self.release.support)} support scripts first")
            for script in self.release.support:
                run_script(target.conn, script)
            self.record.append(
                EventType.ROLLOUT_APPLY_STARTED,
                name,
                fingerprint=looked.seen.as_json(),
                scripts=change.digests,
                gate=go.gate,
                resumed=standing.state == State.APPLYING,
                statements=len(change.apply.statements),
            )
            run = self._run_script(target, change, change.apply, EventType.ROLLOUT_APPLY_FAILED, guarded=True)
            seen = self.record.keep(target.look(), f"{name}_applied")
            self.record.append(
                EventType.ROLLOUT_APPLY_FINISHED, name, fingerprint=seen.as_json(), already=False, **run.as_json()
            )
            return self._tell(f"{name}: applied in {run.seconds:.1f} s{_told(run)}")

    def verify(self, name: str) -> str:
        """Run the change's own verification up to three times, and say so; VerifyFailed after the third. A server that is away,
        or a lock that is not given, is no verdict: StatementFailed, to be tried again."""
        change = self.release.change(name)
        self.say(f"{name}: verifies with {change.verify.path.name} on {describe(self.dsn)}; changes nothing")
        standing = self.record.standing(name)
        if not standing.whole:
            raise self._refused(name, "verify", [f"{name} is {standing.state}: expected applied"])
        attempt = 0
        while True:
            attempt += 1
            began = time.monotonic()
            try:
                with self._claim() as target, self._watched():
                    target.run(change.verify, change.budget)
            except StatementFailed as error:
                if error.transient:
                    raise
                self.record.append(
                    EventType.ROLLOUT_VERIFY_FAILED,
                    name,
                    error=error.message,
                    seconds=round(time.monotonic() - began, 3),
                    attempt=attempt,
                    of=TRIES,
                )
                self.say(f"{name}: does not verify, {attempt} of {TRIES}: {error.message}")
                if attempt == TRIES:
                    raise VerifyFailed(
                        f"{name} does not verify: {error.message}",
                        remedy=f"{name} is rolled back; the rest is not started.",
                    ) from error
                time.sleep(_PAUSE_S)
            else:
                self.record.append(
                    EventType.ROLLOUT_VERIFY_PASSED, name, seconds=round(time.monotonic() - began, 3), attempt=attempt
                )
                return self._tell(f"{name}: verified")

    def watch(self, name: str) -> str:
        """Let the change stand under the breakers for the time that the release gives it, and say how that was;
        WatchFailed when the target is found unwell three times in a row, or nobody can say at the end that it is
        well."""
        standing = self.record.standing(name)
        if standing.state not in (State.VERIFIED, State.WATCHING, State.WATCH_FAILED, State.IN_PLACE):
            raise self._refused(name, "watch", [f"{name} is {standing.state}: expected verified"])
        soak_s = self.release.rollout.soak_s
        self.say(f"{name}: watches the health of {describe(self.dsn)} for {soak_s:g} s; changes nothing")
        self.record.append(EventType.ROLLOUT_WATCH_STARTED, name, soak_s=soak_s)
        with self._watched():
            health, failures = self._soak(soak_s)
        if health.state == "ok" and failures < TRIES:
            self.record.append(EventType.ROLLOUT_WATCH_PASSED, name, soak_s=soak_s, health=health.as_json())
            return self._tell(f"{name}: in place, and the target is well. Clear the task rollback to take it back.")
        reasons = list(health.why) or [f"the target is {health.state}"]
        self.record.append(EventType.ROLLOUT_WATCH_FAILED, name, reasons=reasons, health=health.as_json())
        raise WatchFailed(
            f"{name}: {'; '.join(reasons)}",
            remedy=f"{name} is rolled back; the rest is not started. See `comporta health status`.",
        )

    def rollback_if_due(self, name: str, cycle: int) -> Decision:
        """What the task ``rollback`` of a change does: arm itself, or roll back, as ``decide`` says."""
        clear = self.record.last_clear(name)
        decision = decide(self.record.standing(name), run=self.run, cycle=cycle, clear=clear)
        if decision.kind == "arm":
            self.record.append(EventType.ROLLBACK_ARMED, name, forward=self.record.standing(name).forward, cycle=cycle)
        if decision.kind != "roll back" or self.roll_back(
            name, why=decision.why, because=decision.because, clear=clear
        ):
            return decision
        standing = self.record.standing(name)
        return Decision("nothing", f"{name} is {standing.state}, by {standing.actor}: somebody else did it meanwhile")

    def roll_back(self, name: str, *, why: Why, because: str, clear: Clear | None = None) -> tuple[str, ...]:
        """Roll back a change, first those that stand on it, in reverse order; what else stands stays. Returns those that went."""
        change = self.release.change(name)
        gone: list[str] = []
        with self._claim() as target, self._watched():
            looked = self.record.look(target.conn)  # what was rolled back by hand need not be rolled back again
            seen, drift = looked.seen, looked.unexplained
            for script in self.release.support:
                run_script(target.conn, script)
            for each in (*self.release.dependants(name), change):
                standing = self.record.standing(each.name)
                if not standing.on_target:
                    self.say(f"{each.name} is {standing.state}: nothing to roll back")
                    continue
                self.record.append(
                    EventType.ROLLBACK_STARTED,
                    each.name,
                    why=why,
                    because=because,
                    root=name,
                    cleared_by=clear.login if clear else None,
                    note=clear.note if clear else None,
                    fingerprint=seen.as_json(),
                )
                seen = self._roll_back_one(target, each, root=name, drift=drift)
                gone.append(each.name)
        return tuple(gone)

    def not_restored(self, root: str) -> list[str]:
        """What the rollbacks of this run that were asked for ``root`` did not restore, in sentences."""
        found = self.record.latest(EventType.ROLLBACK_FINISHED)
        return [
            f"{event.phase}: the target is not as it was: {'; '.join(event.payload['differences'])}"
            for event in found
            if (event.payload["run"], event.payload["root"]) == (self.run, root) and event.payload["restored"] is False
        ]

    def carry(self, names: Sequence[str], go: Go) -> bool:
        """Every step for these changes, one after the other, without Airflow; a change that fails is rolled back,
        and the rest is not started. True when all of them are in place."""
        for name in names:
            try:
                for step in (partial(self.apply, name, go), partial(self.verify, name), partial(self.watch, name)):
                    self._persisting(step)
            except RolloutRefused as refused:
                self.say(str(refused))
                return False
            except (StatementFailed, BreakerOpened, VerifyFailed, WatchFailed) as failure:
                self.say(f"{name}: {failure.message}")
                self._persisting(partial(self.roll_back, name, why="automatic", because=failure.message))
                return False
            self.record.append(EventType.ROLLBACK_ARMED, name, forward=self.record.standing(name).forward, cycle=0)
        return True

    def _persisting(self, step: Callable[[], Any]) -> None:
        """Do a step, again after a while where what kept it from being done may have passed."""
        tries = Retrying(
            retry=retry_if_exception(lambda error: bool(may_pass(error))),
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential_jitter(multiplier=2, max=30, jitter=2),
            before_sleep=lambda state: self.say(f"again in {state.upcoming_sleep:.0f} s"),
            reraise=True,
        )
        tries(step)

    def outcome(self) -> tuple[Report, str]:
        """Write the report, and say whether the changes of this run are as they should be: pass when each is in place, or was
        rolled back by a person. The target is looked at once more."""
        with connect(self.dsn, name="comporta/outcome") as conn:
            looked = self.record.look(conn)
        report, verdict, reasons = self._report(looked.unexplained)
        self.record.append(
            EventType.ROLLOUT_FINISHED,
            "outcome",
            verdict=verdict,
            reasons=reasons,
            changes={name: str(each.state) for name, each in looked.board.standings.items()},
            report=str(report.html.relative_to(self.settings.archives_path)),
            digest=report.digest,
        )
        for reason in reasons:
            self.say(reason)
        return report, verdict

    def look(self) -> Looked:
        """The target beside its record now; what somebody did by hand is recorded with its explanation."""
        with connect(self.dsn, name="comporta/look") as conn:
            return self.record.look(conn)

    # -- what they are made of ---------------------------------------------------------------------------------------

    def _tell(self, text: str) -> str:
        self.say(text)
        return text

    @property
    def dsn(self) -> str:
        """The target's."""
        return self.settings.require("target")

    @contextmanager
    def _claim(self) -> Iterator[Target]:
        with claimed(self.dsn, run=self.run, say=self.say, stop=self.stop, patience_s=PATIENCE_S) as target:
            yield target

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with monitoring(self.settings, self.release, self.say):
            yield

    def _base(self, looked: Looked) -> Fingerprint | None:
        """The target as the proofs must have seen it: without any change of the release."""
        if not looked.board.standing:
            return looked.found
        return self.record.recall(looked.board.base) if looked.board.base else None

    def _refuse_apply(self, change: Change, looked: Looked, go: Go) -> None:
        reasons = list(looked.unexplained)
        board = looked.board
        if board[change.name].state == State.ROLLING_BACK:
            reasons.append(f"its rollback began and did not come to its end: roll {change.name} back first")
        reasons += [
            f"{name} is {board[name].state}: {change.name} requires it in place"
            for name in change.requires
            if board[name].state != State.IN_PLACE
        ]
        half = [each.change for each in board.standings.values() if each.on_target and not each.whole]
        reasons += [f"{name} is {board[name].state}" for name in half if name != change.name]
        statuses = checks.proofs(self.release, self.record.ledger, self._base(looked), self.record.recall)
        reasons += [
            f"the proof {each.subject} · {each.scenario} is {each.state}: {'; '.join(each.reasons)}"
            for each in statuses
            if each.subject == change.name and not each.valid
        ]
        reasons += go.refusals()
        if not reasons and (health := self._health()).state != "ok":  # asked last: data may have to be waited for
            reasons.append(f"the health of the target is {health.state}: {'; '.join(health.why)}")
        if reasons:
            raise self._refused(change.name, "apply", reasons)

    def _refused(self, name: str, step: str, reasons: Sequence[str]) -> RolloutRefused:
        self.record.append(EventType.ROLLOUT_REFUSED, name, step=step, reasons=list(reasons))
        return RolloutRefused(
            f"{step} of {name}", reasons, remedy="Nothing ran. Put right what is named, then clear this task."
        )

    def _run_script(
        self, target: Target, change: Change, script: Any, failed: EventType, *, guarded: bool, **more: Any
    ) -> ScriptRun:
        began = time.monotonic()

        def bad() -> str | None:
            health = look(self.settings, self.release)
            return "; ".join(health.why) if health.state == "bad" else None

        try:
            return target.run(script, change.budget, bad=bad if guarded else lambda: None)
        except (StatementFailed, BreakerOpened) as error:
            self.record.append(
                failed,
                change.name,
                error=error.message,
                sqlstate=getattr(error, "sqlstate", None),
                statement=getattr(error, "statement", None),
                transient=getattr(error, "transient", False),
                seconds=round(time.monotonic() - began, 3),
                **more,
            )
            raise

    def _health(self) -> Health:
        """The target's health; where there is no data yet, the samples that are being taken are waited for. Who
        took them may have died, and nobody else takes any until that is certain."""
        ends = time.monotonic() + self.release.health.window_s + self.release.health.stale_s
        while (health := look(self.settings, self.release)).state == "no data" and time.monotonic() < ends:
            time.sleep(min(1.0, self.release.health.every_s))
        return health

    def _soak(self, soak_s: float) -> tuple[Health, int]:
        """The last look at the target's health, and how many in a row were not good."""
        every = self.release.health.every_s
        ends = time.monotonic() + soak_s
        failures = 0
        while True:
            health = look(self.settings, self.release)
            failures = failures + 1 if health.state == "bad" else 0
            over = time.monotonic() >= ends
            # No data is not good news: the end of the watch waits for some, for as long as samples may be old.
            waits = health.state == "no data" and time.monotonic() < ends + self.release.health.stale_s
            if failures >= TRIES or (over and health.state != "bad" and not waits):
                return health, failures
            time.sleep(every)

    def _roll_back_one(self, target: Target, change: Change, *, root: str, drift: Sequence[str]) -> Seen:
        """Run one rollback, compare what it left, and return that."""
        name = change.name
        for_whom = "" if name == root else f", because {root} goes and {name} stands on it"
        self.say(f"rolls {name} back with {change.rollback.path.name} on {describe(self.dsn)}{for_whom}")
        run = self._run_script(target, change, change.rollback, EventType.ROLLBACK_FAILED, guarded=False, root=root)
        found = target.look()
        kept = self.record.keep(found, f"{name}_rolled_back")
        left = [each for each in self.record.board().standing if each != name]
        comparison = self.record.compare(left, found, drift)
        self.record.append(
            EventType.ROLLBACK_FINISHED,
            name,
            root=root,
            left=left,
            fingerprint=kept.as_json(),
            expected=comparison.expected,
            restored=comparison.restored,
            differences=list(comparison.differences[:SHOWN]),
            proof=comparison.proof,
            **run.as_json(),
        )
        told = {
            True: f"the target is as {f'proved ({comparison.proof})' if comparison.proof else 'it was'}",
            False: "THE TARGET IS NOT AS IT WAS",
            None: f"nothing on record says how the target looks with {', '.join(left)} alone",
        }
        self.say(f"{name}: rolled back in {run.seconds:.1f} s{_told(run)}; {told[comparison.restored]}")
        for each in comparison.differences:
            self.say(f"  {each}")
        return kept

    def _report(self, drift: Sequence[str]) -> tuple[Report, str, list[str]]:
        from comporta.rollout.report import write_rollout_report  # it draws plots: one task in sixteen needs it

        with BreakerBook(self.settings.require("control")) as book:
            samples = book.samples(self.release.name, target=self.record.target)
        return write_rollout_report(
            self.record.folder.path,
            events=events_of(self.record.ledger, self.release.name, self.run),
            health=samples,
            release_name=self.release.name,
            title=self.release.title,
            run=self.run,
            started=self.started,
            now=datetime.now(UTC),
            target=describe(self.dsn),
            changes=self.release.changes,
            drift=drift,
        )


def _told(run: ScriptRun) -> str:
    if run.longest_wait_caused_s is None:
        return ""
    return f"; others queued behind it for at most {1000 * run.longest_wait_caused_s:.0f} ms"


@contextmanager
def open_rollout(
    settings: Settings, *, run: str, started: datetime, actor: str, say: Say, stop: StopSwitch | None = None
) -> Iterator[Rollout]:
    """A run over the release, with everything that it talks to; ``stop`` is the caller's means to end it."""
    release = load_release(settings.release_path, settings.home / "sql")
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(settings.require("control")))
        yield Rollout(
            settings=settings,
            release=release,
            run=run,
            started=started,
            actor=actor,
            say=say,
            record=Record(
                settings,
                release,
                run,
                actor,
                say,
                ledger,
                RunFolder.make(settings.archives_path, WORKFLOW, run, started),
            ),
            stop=stop or StopSwitch(),
        )
