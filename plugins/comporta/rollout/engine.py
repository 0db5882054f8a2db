"""One run of a rollout: what the tasks of Airflow and the command line both do, step by step, with the ledger as
the truth.

Every step asks the ledger where the changes stand and looks whether the target agrees, does its part under the
claim on the target, and records what came of it. So each may die anywhere and be run again: it goes on from what is
on record, and scripts that were cut in the middle converge.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import psycopg
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from comporta.dryrun.preflight import Finding
from comporta.errors import StatementFailed
from comporta.health import BreakerBook, Health, look, monitoring, take_baseline
from comporta.ledger import Event, EventType, Ledger, NewEvent
from comporta.postgres.connection import connect, describe
from comporta.postgres.execution import may_pass, run_script
from comporta.postgres.stopping import StopSwitch
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint, FingerprintError
from comporta.release.model import Change, Release, load_release
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report
from comporta.rollout import checks
from comporta.rollout.clearing import Clear, Decision, Why, decide
from comporta.rollout.errors import BreakerOpened, RolloutRefused, VerifyFailed, WatchFailed
from comporta.rollout.expected import Expectation, differences, schema_digest
from comporta.rollout.go import Go
from comporta.rollout.proven import proven_without
from comporta.rollout.report import write_rollout_report
from comporta.rollout.report_events import events_of
from comporta.rollout.standing import Board, Seen, Standing, State
from comporta.rollout.target import ScriptRun, Target, claimed, identity, note_backup_point
from comporta.settings import Settings

STAGE = "rollout"
TRIES = 3
"""How often a change may fail to verify, and the target be found unwell, before the change is rolled back."""
PATIENCE_S = 600.0
SHOWN = 20
_PAUSE_S = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Looked:
    """The target beside its record: where the changes stand, and what cannot be explained (nothing: no drift)."""

    board: Board
    found: Fingerprint
    seen: Seen
    unexplained: tuple[str, ...] = ()


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
    ledger: Ledger
    folder: RunFolder
    stop: StopSwitch = field(default_factory=StopSwitch)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False)

    # -- the steps ---------------------------------------------------------------------------------------------------

    def preflight(self, names: Sequence[str] = ()) -> list[Finding]:
        """Whether the release, or the changes ``names``, may be rolled out now: proofs, drift, headroom, long
        transactions, health. RolloutRefused names everything that is in the way; the backup point and the
        baseline of the target's health are noted."""
        self.say(f"preflight: reads {describe(self.dsn)}; changes nothing on it")
        with monitoring(self.settings, self.release, self.say), connect(self.dsn, name="comporta/preflight") as conn:
            looked = self._look(conn)
            findings = checks.of_target(conn, self.release, self.ledger, looked.board)
            findings += checks.of_proofs(self.release, self.ledger, self._base(looked), self.recall)
            findings += [checks.drifted(each) for each in looked.unexplained]
            backup = note_backup_point(conn, self.run)
            if not looked.board.standing:
                take_baseline(self.settings, self.release, actor=self.actor, say=self.say)
            findings += checks.of_health(self._health())
        for finding in findings:
            self.say(f"  {finding.severity}: {finding.object}: {finding.evidence}")
        stops = [each for each in findings if each.severity == "stop"]
        self.record(
            EventType.ROLLOUT_PREFLIGHTED,
            "preflight",
            verdict="stop" if stops else "pass",
            findings=[asdict(each) for each in findings],
            fingerprint=looked.seen.as_json(),
            backup=backup,
            headroom_bytes=checks.headroom(self.ledger, self.release, looked.board),
            changes=list(names) or [change.name for change in self.release.changes],
        )
        if stops:
            raise RolloutRefused(
                "the rollout",
                [f"{each.object}: {each.evidence}" for each in stops],
                remedy="\n".join(dict.fromkeys(each.cure for each in stops if each.cure)),
            )
        return findings

    def apply(self, name: str, go: Go) -> None:
        """Apply one change on the target, or find it applied. RolloutRefused before the first statement; StatementFailed and
        BreakerOpened leave it half there, to be taken up again or rolled back."""
        change = self.release.change(name)
        self.say(f"{name}: {change.title}")
        self.say(f"applies {change.apply.path.name} to the target {describe(self.dsn)}")
        with self._claim() as target, self._watched():
            looked = self._look(target.conn)
            standing = looked.board[name]
            if standing.whole and not looked.unexplained:
                self.say(f"{name} is {standing.state} already, by {standing.run}: nothing to do")
                self.record(EventType.ROLLOUT_APPLY_FINISHED, name, already=True, fingerprint=looked.seen.as_json())
                return
            self._refuse_apply(change, looked, go)
            self.say(f"the Go of gate {go.gate} is in force; {len(self.release.support)} support scripts first")
            for script in self.release.support:
                run_script(target.conn, script)
            self.record(
                EventType.ROLLOUT_APPLY_STARTED,
                name,
                fingerprint=looked.seen.as_json(),
                scripts=change.digests,
                gate=go.gate,
                resumed=standing.state == State.APPLYING,
                statements=len(change.apply.statements),
            )
            run = self._run_script(target, change, change.apply, EventType.ROLLOUT_APPLY_FAILED, guarded=True)
            seen = self._keep(target.look(), f"{name}_applied")
            self.record(
                EventType.ROLLOUT_APPLY_FINISHED, name, fingerprint=seen.as_json(), already=False, **run.as_json()
            )
            self.say(f"{name}: applied in {run.seconds:.1f} s{_told(run)}")

    def verify(self, name: str) -> None:
        """Run the change's own verification up to three times; VerifyFailed after the third. A server that is away,
        or a lock that is not given, is no verdict: StatementFailed, to be tried again."""
        change = self.release.change(name)
        self.say(f"{name}: verifies with {change.verify.path.name} on {describe(self.dsn)}; changes nothing")
        standing = self._standing(name)
        if not standing.whole:
            raise self._refused(name, "verify", [f"{name} is {standing.state}: expected applied"])
        for attempt in range(1, TRIES + 1):
            began = time.monotonic()
            try:
                with self._claim() as target, self._watched():
                    target.run(change.verify, change.budget)
            except StatementFailed as error:
                if error.transient:
                    raise
                self.record(EventType.ROLLOUT_VERIFY_FAILED, name, error=error.message, attempt=attempt, of=TRIES)
                self.say(f"{name}: does not verify, {attempt} of {TRIES}: {error.message}")
                if attempt == TRIES:
                    raise VerifyFailed(
                        f"{name} does not verify: {error.message}",
                        remedy=f"{name} is rolled back; the rest is not started.",
                    ) from error
                time.sleep(_PAUSE_S)
            else:
                self.record(
                    EventType.ROLLOUT_VERIFY_PASSED, name, seconds=round(time.monotonic() - began, 3), attempt=attempt
                )
                self.say(f"{name}: verified")
                return

    def watch(self, name: str) -> None:
        """Let the change stand under the breakers for the time that the release gives it; WatchFailed when the target is found
        unwell three times in a row, or nobody can say at the end that it is well."""
        standing = self._standing(name)
        if standing.state not in (State.VERIFIED, State.WATCHING, State.WATCH_FAILED, State.IN_PLACE):
            raise self._refused(name, "watch", [f"{name} is {standing.state}: expected verified"])
        soak_s = self.release.rollout.soak_s
        self.say(f"{name}: watches the health of {describe(self.dsn)} for {soak_s:g} s; changes nothing")
        self.record(EventType.ROLLOUT_WATCH_STARTED, name, soak_s=soak_s)
        with self._watched():
            health, failures = self._soak(soak_s)
        if health.state == "ok" and failures < TRIES:
            self.record(EventType.ROLLOUT_WATCH_PASSED, name, soak_s=soak_s, health=health.as_json())
            self.say(f"{name}: in place, and the target is well. Clear the task rollback to take it back.")
            return
        reasons = list(health.why) or [f"the target is {health.state}"]
        self.record(EventType.ROLLOUT_WATCH_FAILED, name, reasons=reasons, health=health.as_json())
        raise WatchFailed(
            f"{name}: {'; '.join(reasons)}",
            remedy=f"{name} is rolled back; the rest is not started. See `comporta health status`.",
        )

    def rollback_if_due(self, name: str, cycle: int) -> Decision:
        """What the task ``rollback`` of a change does: arm itself, or roll back, as ``decide`` says."""
        decision = decide(self._standing(name), run=self.run, cycle=cycle, clear=self._last_clear(name))
        if decision.kind == "arm":
            self.record(EventType.ROLLBACK_ARMED, name, forward=self._standing(name).forward, cycle=cycle)
        if decision.kind == "roll back":
            clear = self._last_clear(name)
            if not self.roll_back(name, why=decision.why, because=decision.because, clear=clear):
                standing = self._standing(name)
                return Decision(
                    "nothing", f"{name} is {standing.state}, by {standing.actor}: somebody else did it meanwhile"
                )
        return decision

    def roll_back(self, name: str, *, why: Why, because: str, clear: Clear | None = None) -> tuple[str, ...]:
        """Roll back a change, first those that stand on it, in reverse order; what else stands stays. Returns those that went."""
        change = self.release.change(name)
        gone: list[str] = []
        with self._claim() as target:
            self._look(target.conn)  # what was rolled back by hand need not be rolled back again
            for script in self.release.support:
                run_script(target.conn, script)
            for each in (*self.release.dependants(name), change):
                standing = self._standing(each.name)
                if not standing.on_target:
                    self.say(f"{each.name} is {standing.state}: nothing to roll back")
                    continue
                self._roll_back_one(target, each, root=name, why=why, because=because, clear=clear)
                gone.append(each.name)
        return tuple(gone)

    def not_restored(self, root: str) -> list[str]:
        """What the rollbacks of this run that were asked for ``root`` did not restore, in sentences."""
        found = self.ledger.latest(SHOWN, stream=self.stream, event_type=EventType.ROLLBACK_FINISHED)
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
            self.record(EventType.ROLLBACK_ARMED, name, forward=self._standing(name).forward, cycle=0)
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
            looked = self._look(conn)
        report, verdict, reasons = self._report(looked.unexplained)
        self.record(
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
            return self._look(conn)

    def board(self) -> Board:
        """Where the changes stand, by the ledger alone."""
        return Board.fold(self._events(self.stream), [change.name for change in self.release.changes], self.target)

    # -- what they are made of ---------------------------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        """The target's."""
        return self.settings.require("target")

    @property
    def stream(self) -> str:
        """All runs of a release write one stream: who appends sees what the others did."""
        return f"rollout/{self.release.name}"

    @cached_property
    def target(self) -> str:
        """Which target the ledger speaks of."""
        with connect(self.dsn, name="comporta/look") as conn:
            return identity(conn)

    def record(self, event_type: EventType, phase: str, **payload: Any) -> None:
        """Append an event of this run."""
        event = NewEvent(
            event_type=event_type,
            feature=self.release.name,
            workflow=STAGE,
            phase=phase,
            payload={"run": self.run, "target": self.target, **payload},
            actor=self.actor,
        )
        with self._writing:
            self.ledger.append(self.stream, [event])

    def recall(self, seen: Seen) -> Fingerprint | None:
        """The facts of a fingerprint on record; None when their file is gone, or is not what was recorded
        (``validity`` checks by itself, and asks without a digest)."""
        try:
            found = Fingerprint.from_json(
                json.loads((self.settings.archives_path / seen.facts).read_text(encoding="utf-8"))
            )
        except (OSError, ValueError, KeyError, FingerprintError):
            return None
        return found if seen.digest in ("", schema_digest(found)) else None

    def _events(self, stream: str) -> Iterator[Event]:
        after = 0
        while page := self.ledger.read(stream, after=after):
            yield from page
            after = page[-1].id

    def _standing(self, name: str) -> Standing:
        return self.board()[self.release.change(name).name]

    def _keep(self, found: Fingerprint, name: str) -> Seen:
        file = self.folder.write(f"{name}_{time.time_ns()}", found.as_json())
        return Seen(schema_digest(found), str(file.relative_to(self.settings.archives_path)))

    @contextmanager
    def _claim(self) -> Iterator[Target]:
        with claimed(self.dsn, run=self.run, say=self.say, stop=self.stop, patience_s=PATIENCE_S) as target:
            yield target

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with monitoring(self.settings, self.release, self.say):
            yield

    def _look(self, conn: psycopg.Connection) -> Looked:
        """Compare target and record, and put on record what somebody else did."""
        found, board = fingerprint.take(conn), self.board()
        kept = self._keep(found, "seen")
        # Where a script was cut, the target is in between, and no record says how that looks.
        if not board.settled or board.last is None or board.last.digest == kept.digest:
            return Looked(board, found, kept)
        expectation = Expectation.recall(board, self.recall)
        names = expectation.standing_in(found, self.release, board.standing) if expectation else None
        if names is not None and set(names) == set(board.standing):
            return Looked(board, found, kept)
        if names is not None:
            self._explain(board, names, kept)
            return Looked(self.board(), found, kept)
        told = self._differences(board, expectation, found)
        self._record_drift(told, kept)
        return Looked(board, found, kept, tuple(told))

    def _explain(self, board: Board, names: Sequence[str], seen: Seen) -> None:
        for name, standing in board.standings.items():
            if standing.on_target != (name in names):
                found = "in place" if name in names else "absent"
                explains = f"the target looks exactly as it does where {', '.join(names) or 'no change'} stands"
                self.say(f"{name} is {standing.state} by the ledger, and {found} on the target: done outside Comporta")
                self.record(
                    EventType.ROLLOUT_CHANGE_FOUND,
                    name,
                    found=found,
                    by="outside Comporta",
                    explains=explains,
                    fingerprint=seen.as_json(),
                )

    def _differences(self, board: Board, expectation: Expectation | None, found: Fingerprint) -> list[str]:
        expected = expectation.with_changes(board.standing) if expectation else None
        if expected is None and board.last is not None:
            expected = self.recall(board.last)
        if expected is None:
            return ["the target's fingerprint is not the one on record, whose facts are no longer kept under archives/"]
        return differences(expected, found)[:SHOWN] or ["a property of the target differs from the one on record"]

    def _record_drift(self, told: Sequence[str], seen: Seen) -> None:
        last = self.ledger.latest(1, stream=self.stream, event_type=EventType.ROLLOUT_DRIFTED)
        if not last or (last[0].payload.get("fingerprint") or {}).get("digest") != seen.digest:
            self.record(EventType.ROLLOUT_DRIFTED, "drift", differences=list(told), fingerprint=seen.as_json())

    def _base(self, looked: Looked) -> Fingerprint | None:
        """The target as the proofs must have seen it: without any change of the release."""
        if not looked.board.standing:
            return looked.found
        return self.recall(looked.board.base) if looked.board.base else None

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
        statuses = checks.proofs(self.release, self.ledger, self._base(looked), self.recall)
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
        self.record(EventType.ROLLOUT_REFUSED, name, step=step, reasons=list(reasons))
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
            self.record(
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
        """The target's health; where there is no data yet, the samples that are being taken are waited for."""
        ends = time.monotonic() + self.release.health.window_s
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

    def _roll_back_one(
        self, target: Target, change: Change, *, root: str, why: Why, because: str, clear: Clear | None
    ) -> None:
        name = change.name
        for_whom = "" if name == root else f", because {root} goes and {name} stands on it"
        self.say(f"rolls {name} back with {change.rollback.path.name} on {describe(self.dsn)}{for_whom}")
        seen = self._keep(target.look(), f"{name}_before_rollback")
        self.record(
            EventType.ROLLBACK_STARTED,
            name,
            why=why,
            because=because,
            root=root,
            cleared_by=clear.login if clear else None,
            note=clear.note if clear else None,
            fingerprint=seen.as_json(),
        )
        run = self._run_script(target, change, change.rollback, EventType.ROLLBACK_FAILED, guarded=False, root=root)
        found = target.look()
        kept = self._keep(found, f"{name}_rolled_back")
        comparison = self._compare(name, found)
        self.record(
            EventType.ROLLBACK_FINISHED, name, root=root, fingerprint=kept.as_json(), **comparison, **run.as_json()
        )
        told = {
            True: "the target is as it was",
            False: "THE TARGET IS NOT AS EXPECTED",
            None: "not compared",
        }
        self.say(f"{name}: rolled back in {run.seconds:.1f} s{_told(run)}; {told[comparison['restored']]}")
        for each in comparison["differences"]:
            self.say(f"  {each}")

    def _compare(self, name: str, found: Fingerprint) -> dict[str, Any]:
        """The target after a rollback beside what it must be: by its own record, and by what STAGE 3 proved."""
        board = self.board()
        left = [each for each in board.standing if each != name]
        expectation = Expectation.recall(board, self.recall)
        expected = expectation.with_changes(left) if expectation else None
        digest = schema_digest(found)
        base = board.base.digest if board.base else ""
        proofs = self.ledger.every(event_type=EventType.PROOF_RECORDED)
        proven = proven_without(proofs, self.release, left, base)
        named = differences(expected, found) if expected else []
        restored: bool | None = None
        if proven is not None and proven.digest == digest:
            restored, named = True, []
        elif expected is not None:
            restored = not named
        elif proven is not None:
            restored, named = False, ["the digest differs from the proven one, and the facts to name what are not kept"]
        return {
            "expected": schema_digest(expected) if expected else proven.digest if proven else None,
            "restored": restored,
            "differences": named[:SHOWN],
            "proof": proven.key if proven else None,
            "as_proved": None if proven is None else proven.digest == digest,
        }

    def _last_clear(self, name: str) -> Clear | None:
        """The last clear of this run's task ``<change>.rollback`` that the API server saw."""
        task = f"{name}.rollback"
        found = self.ledger.latest(SHOWN, stream=f"cleared/{self.run}", event_type=EventType.TASK_CLEARED)
        for event in reversed(found):
            tasks = event.payload.get("tasks") or ()
            if task in tasks or event.payload.get("whole_run"):
                forward = {f"{name}.{step}" for step in ("apply", "verify", "watch")}
                alone = not event.payload.get("whole_run") and not forward & set(tasks)
                return Clear(event.id, event.actor, event.payload.get("note"), alone)
        return None

    def _report(self, unexplained: Sequence[str]) -> tuple[Report, str, list[str]]:
        with BreakerBook(self.settings.require("control")) as book:
            samples = book.samples(self.release.name, target=self.target)
        return write_rollout_report(
            self.folder.path,
            events=events_of(self.ledger, self.release.name, self.run),
            health=samples,
            release_name=self.release.name,
            title=self.release.title,
            run=self.run,
            started=self.started,
            now=datetime.now(UTC),
            target=describe(self.dsn),
            changes=self.release.changes,
            drift=unexplained,
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
            ledger=ledger,
            folder=RunFolder.make(settings.archives_path, STAGE, run, started),
            stop=stop or StopSwitch(),
        )
