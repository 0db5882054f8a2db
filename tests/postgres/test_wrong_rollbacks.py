"""The proof that can fail, does: seeded wrong rollbacks are all caught and named, and correct ones raise no alarm.

Each case of ``wrong_rollbacks/`` is the release's own rollback script plus or minus something. It runs on a copy of the
database on which the change stands, through the runner that proves the release, and the runner's verdict is what counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from comporta.ledger.migration import migrate
from comporta.postgres.connection import with_database
from comporta.postgres.script import Script
from comporta.release.model import Change, Release, load_release
from comporta.settings import Settings
from comporta.shadow.clone import Shadow
from comporta.shadow.images import Images
from comporta.validation import runner
from comporta.validation.model import Proof, Subject, Verdict, required
from comporta.validation.runner import Task, Validation, open_validation
from comporta.validation.scenarios import load_scenarios
from comporta.validation.trial import Trial

if TYPE_CHECKING:
    from tests.postgres.conftest import Servers

PROJECT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("wrong_rollbacks")
OTHER = "comporta_other_superuser"
PASSES, STOPS = 0, 1


@dataclass(frozen=True)
class Case:
    """How a rollback differs from the release's, and what the proof must say of it, word for word.

    ``replace`` maps a text that occurs once to another; ``without`` deletes the statements that hold a text; ``until``
    ends the script before the first statement that holds a text. ``beside`` runs in another session, which stays open.
    ``afterwards`` takes back on the server what is no part of the clone. ``unseen`` says why the proof cannot see it yet.
    """

    name: str
    change: str
    says: Sequence[str] = ()
    prepend: str = ""
    append: str = ""
    replace: dict[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    until: str = ""
    instead: str = ""
    beside: str = ""
    afterwards: str = ""
    twice: bool = False
    unseen: str = ""
    end_to_end: bool = False

    @property
    def title(self) -> str:
        """Unique among the cases."""
        return f"{self.change}: {self.name}"

    def script(self, change: Change) -> str:
        """The rollback as this case has it; a text that is not in the release's script is an error."""
        if self.instead:
            return self.instead
        statements = [statement.sql for statement in change.rollback.statements]
        for text in self.without:
            assert any(text in each for each in statements), f"{text!r} is in no statement of {change.rollback.path}"
            statements = [each for each in statements if text not in each]
        if self.until:
            end = next(number for number, each in enumerate(statements) if self.until in each)
            statements = statements[:end]
        whole = ";\n\n".join(statements)
        for text, other in self.replace.items():
            assert whole.count(text) == 1, f"{text!r} occurs {whole.count(text)} times in {change.rollback.path}"
            whole = whole.replace(text, other)
        return ";\n".join(filter(None, (self.prepend, *[whole] * (2 if self.twice else 1), self.append)))


def read_cases(name: str) -> list[Case]:
    entries = yaml.safe_load((CASES / name).read_text(encoding="utf-8"))
    cases = [Case(**entry) for entry in entries]
    assert len({(case.change, case.name) for case in cases}) == len(cases), "two cases of one change have one name"
    return cases


SEEDED = read_cases("wrong.yaml")
WRONG = [case for case in SEEDED if not case.unseen]
UNSEEN = [case for case in SEEDED if case.unseen]
CORRECT = read_cases("correct.yaml")


@dataclass
class Trials:
    """A validation of the release, and the score of the cases so far."""

    validation: Validation
    caught: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    alarms: set[str] = field(default_factory=set)

    def prove(self, case: Case) -> Proof:
        """Prove the case's script in place of the release's, on a copy of the database on which its change stands."""
        release = self.validation.release
        change = release.change(case.change)
        script = Script.parse(case.script(change).encode(), change.rollback.path)
        changed = replace(change, rollback=script)
        changes = tuple(changed if each.name == change.name else each for each in release.changes)
        validation = replace(self.validation, release=replace(release, changes=changes))
        task = standing(release, case.change, case.beside)
        try:
            with pytest.MonkeyPatch.context() as patch:  # the fixture has made the golden copy: one look is enough
                patch.setattr(Validation, "_ensure_golden", lambda *_, **__: None, raising=False)
                patch.setattr(runner, "target_digest", lambda _: "", raising=False)
                return validation.prove(task)
        finally:
            if case.afterwards:
                tell(with_database(self.validation.shadow_dsns[0], "postgres"), case.afterwards)


def standing(release: Release, name: str, beside: str = "") -> Task:
    """The rollback of one change from where it stands already: applying is the same for all cases, and done once."""
    below = required(release, name)
    subject = Subject(f"{name} standing", release.change(name).title, (*below, name), (), (name,), below)
    (restore,) = load_scenarios(["restore"])

    def run(trial: Trial) -> None:
        with psycopg.connect(trial.dsn, autocommit=True) if beside else nullcontext() as other:
            if other is not None:
                execute(other, beside)
            trial.rollback()

    return Task(subject, replace(restore, run=run))


def tell(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        execute(conn, statements)


def execute(conn: psycopg.Connection[Any], statements: str) -> None:
    for statement in Script.parse(statements.encode(), CASES).statements:
        conn.execute(statement.sql.encode())


def sentences(proof: Proof) -> str:
    return "\n".join((*proof.reasons, *proof.differences))


@pytest.fixture(scope="module")
def target(servers: Servers) -> Iterator[str]:
    """A target that also has what the demo catalogue has not, so that a rollback can lose it."""
    dsn = servers.target.fresh_catalogue()
    tell(dsn, (CASES / "setup.sql").read_text(encoding="utf-8"))
    yield dsn
    servers.target.fresh_catalogue()


@pytest.fixture(scope="module")
def settings(
    servers: Servers, target: str, free_shadow: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """The release of the project, on servers and in an archive of this module's own."""
    with psycopg.connect(servers.control.dsn, autocommit=True) as conn:
        migrate(conn, PROJECT / "sql/control")
    admin = with_database(free_shadow, "postgres")
    tell(admin, f"drop role if exists {OTHER}; create role {OTHER} superuser")
    yield Settings(
        home=PROJECT,
        control_dsn=servers.control.dsn,
        target_dsn=target,
        shadow_dsn=free_shadow,
        archives=tmp_path_factory.mktemp("archives"),
    )
    Images(Shadow(target, free_shadow), ()).drop_others(())
    tell(admin, f"drop role {OTHER}")


def opened(
    settings: Settings, name: str, *, writes_per_s: int = 0, **options: Any
) -> AbstractContextManager[Validation]:
    """A validation without readers, which stays out of the ledger."""
    return open_validation(
        settings,
        run_id=name,
        started=datetime.now(UTC),
        actor="test",
        say=print,
        record=False,
        rates={"reads_per_s": 0, "writes_per_s": writes_per_s},
        **options,
    )


@pytest.fixture(scope="module")
def trials(settings: Settings) -> Iterator[Trials]:
    """One validation for all cases, with a golden copy of the target on the shadow."""
    with opened(settings, "wrong-rollbacks") as whole:
        validation = replace(
            whole, tasks=tuple(standing(whole.release, change.name) for change in whole.release.changes)
        )
        validation.prepare()
        yield Trials(validation)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.title)
def test_a_wrong_rollback_is_caught_and_what_it_did_is_named(trials: Trials, case: Case) -> None:
    """A script that stops by itself is caught anyhow: where that is not the point, it must come to its end."""
    proof = trials.prove(case)
    unsaid = [said for said in case.says if said not in sentences(proof)]
    (trials.missed if unsaid or proof.verdict != Verdict.FAILS else trials.caught).add(case.title)
    assert proof.verdict == Verdict.FAILS
    assert unsaid == []
    assert ("rollback stopped" in sentences(proof)) == any("rollback stopped" in said for said in case.says)


@pytest.mark.parametrize("case", UNSEEN, ids=lambda case: case.title)
def test_what_the_proof_does_not_see_is_on_record(trials: Trials, case: Case) -> None:
    """Once this fails, the proof has learnt to see it: delete ``unseen`` from the case and its line from the page."""
    assert sentences(trials.prove(case)) == ""


@pytest.mark.parametrize("case", CORRECT, ids=lambda case: case.title)
def test_a_correct_rollback_raises_no_alarm(trials: Trials, case: Case) -> None:
    proof = trials.prove(case)
    (trials.quiet if proof.verdict == Verdict.HOLDS else trials.alarms).add(case.title)
    assert sentences(proof) == ""
    assert proof.verdict == Verdict.HOLDS


def test_where_pg_dump_alone_differs_the_proof_says_so_and_holds(trials: Trials) -> None:
    case = next(case for case in CORRECT if case.name == "grants in another order")
    proof = trials.prove(case)
    assert proof.verdict == Verdict.HOLDS
    assert proof.notes == (runner.SECOND_OPINION,)


def test_everything_wrong_was_caught_and_nothing_else(trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    """The score of the cases that were asked for; over the whole file it covers all five changes."""
    tried, sound = trials.caught | trials.missed, trials.quiet | trials.alarms
    with capsys.disabled():
        print(f"\nwrong rollbacks: {len(trials.caught)} of {len(tried)} caught; ", end="")
        print(f"correct ones: {len(trials.alarms)} of {len(sound)} raised an alarm")
    assert (trials.missed, trials.alarms) == (set(), set())


END_TO_END = [case for case in (*WRONG, *CORRECT) if case.end_to_end]


@pytest.mark.parametrize("case", END_TO_END, ids=lambda case: case.title)
def test_a_rollback_file_is_proved_from_apply_to_verdict(settings: Settings, tmp_path: Path, case: Case) -> None:
    """The change is applied and verified first, as a person has it who proves a file of their own."""
    file = written(case, settings, tmp_path)
    name = "".join(character if character.isalnum() else "-" for character in case.name)
    with opened(settings, name, only=[case.change], scenarios=["restore"], rollback=file) as validation:
        [task] = validation.tasks
        validation.prepare()
        proof = validation.prove(task)
        _, verdict = validation.report()
    assert proof.verdict == (Verdict.FAILS if case.says else Verdict.HOLDS)
    assert verdict == ("stop" if case.says else "pass")
    assert [phase.role for phase in proof.phases] == ["apply", "verify", "rollback"]
    for said in case.says:
        assert said in sentences(proof)


@pytest.mark.parametrize("case", [case for case in END_TO_END if case.change == "OPT3"], ids=lambda case: case.title)
def test_the_command_line_names_the_difference_and_ends_with_status_1(
    settings: Settings, tmp_path: Path, case: Case
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from comporta.cli import main; main()", "prove", case.change),
            *("--rollback", str(written(case, settings, tmp_path)), "--scenario", "restore"),
            *("--reads", "0", "--writes", "0", "--json"),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT / "plugins"),
            "COMPORTA_HOME": str(PROJECT),
            "COMPORTA_CONTROL_DSN": settings.control_dsn,
            "COMPORTA_TARGET_DSN": settings.target_dsn,
            "COMPORTA_SHADOW_DSN": settings.shadow_dsn,
            "COMPORTA_ARCHIVES": str(tmp_path / "archives"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == (STOPS if case.says else PASSES), done.stderr
    assert "Traceback" not in done.stderr
    [proof] = json.loads(done.stdout)["proofs"]
    assert f"{case.change} · restore: {proof['verdict']}" in done.stderr
    for reason in proof["reasons"]:
        assert reason in done.stderr
    for said in case.says:
        assert said in "\n".join((*proof["reasons"], *proof["differences"]))


def test_a_rollback_that_forgets_later_writes_holds_only_until_somebody_writes(
    settings: Settings, tmp_path: Path
) -> None:
    """Without its replay OPT1's rollback gives the table back as it was before: restore cannot tell, late writes can."""
    replay = "call comporta.replay('OPT1/after', 'catalogue.geometrias', 'comporta_opt1_before.geometrias', 5)"
    batch = "comporta.replay_batch('OPT1/after', parent, original, 10000)"
    file = written(Case("forgets later writes", "OPT1", replace={replay: "perform 1", batch: "0"}), settings, tmp_path)
    scenarios = ["restore", "late_writes"]
    with opened(settings, "late", writes_per_s=10, only=["OPT1"], scenarios=scenarios, rollback=file) as validation:
        validation.prepare()
        restore, late_writes = map(validation.prove, validation.tasks)
    assert restore.verdict == Verdict.HOLDS
    assert late_writes.verdict == Verdict.FAILS
    assert late_writes.lost_writes
    assert "acknowledged write(s) lost" in sentences(late_writes)


def written(case: Case, settings: Settings, folder: Path) -> Path:
    """The case's script as a file."""
    release = load_release(settings.release_path, settings.home / "sql")
    file = folder / f"{case.change}.sql"
    file.write_text(case.script(release.change(case.change)), encoding="utf-8")
    return file


def test_there_are_enough_cases_over_all_changes() -> None:
    changes = {"OPT1", "OPT2", "OPT3", "OPT4", "OPT5"}
    assert len(WRONG) >= 40
    assert len(CORRECT) >= 50
    assert {case.change for case in WRONG} == {case.change for case in CORRECT} == changes
    assert all(case.says for case in SEEDED)
    assert not any(case.says for case in CORRECT)
    assert len([case for case in END_TO_END if case.says]) >= 6
