"""The release file is refused by the name of what is wrong, before anything is contacted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from textwrap import indent

import pytest

from comporta.errors import ConfigurationError, ScriptError
from comporta.release.model import Release, load_release


class Project:
    """A project folder of a test: a release file, and three scripts for each stem."""

    def __init__(self, home: Path) -> None:
        self.file = home / "release.yaml"
        self.sql = home / "sql"
        for folder in ("apply", "verify", "rollback", "support"):
            (self.sql / folder).mkdir(parents=True)

    def scripts(self, *stems: str) -> None:
        for stem in stems:
            for name in (f"apply/{stem}.sql", f"verify/{stem}.sql", f"rollback/ROLLBACK_{stem}.sql"):
                (self.sql / name).write_text(f"select '{name}';")

    def release(self, changes: str, more: str = "") -> Release:
        head = "name: trial\ntitle: Trial\nauthor: somebody\n"
        return self.load(f"{head}{more}changes:\n{indent(changes, '  ')}\n")

    def load(self, text: str) -> Release:
        self.file.write_text(text, encoding="utf-8")
        return load_release(self.file, self.sql)

    def refusal(self, changes: str, more: str = "") -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.release(changes, more)
        return str(caught.value)


@pytest.fixture
def trial(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.scripts("a", "b", "c", "d")
    return made


A, B = "A: {stem: a, title: First}\n", "B: {stem: b, title: Second}\n"
CHAIN = """\
A: {stem: a, title: A}
B: {stem: b, title: B, requires: [A]}
C: {stem: c, title: C, requires: [B]}
D: {stem: d, title: D}
"""


def test_the_shipped_release_loads_with_its_changes_in_order(project: Path) -> None:
    release = load_release(project / "config/release.yaml", project / "sql")
    assert [change.name for change in release.changes] == ["OPT1", "OPT2", "OPT3", "OPT4", "OPT5"]
    assert release.support
    assert release.dry_run.queries


def test_a_change_is_three_scripts_with_one_stem_bound_by_their_digests(trial: Project) -> None:
    [change] = trial.release(A).changes
    assert [script.path.name for script in (change.apply, change.verify, change.rollback)] == [
        "a.sql", "a.sql", "ROLLBACK_a.sql",
    ]  # fmt: skip
    assert change.digests["rollback"] == hashlib.sha256(b"select 'rollback/ROLLBACK_a.sql';").hexdigest()
    assert len(set(change.digests.values())) == 3


def test_support_scripts_are_read_in_the_order_of_their_names(trial: Project) -> None:
    for name in ("20_b.sql", "10_a.sql", "notes.txt"):
        (trial.sql / "support" / name).write_text("select 1;")
    assert [script.path.name for script in trial.release(A).support] == ["10_a.sql", "20_b.sql"]


@pytest.mark.parametrize(
    ("changes", "more", "expected"),
    [
        pytest.param("A: {stem: a, title: A, needs: [B]}", "", "changes.A.needs: unknown key", id="in-a-change"),
        pytest.param(A, "owner: somebody\n", "owner: unknown key", id="at-the-top"),
        pytest.param(A, "budget: {longest_stall: 5}\n", "budget.longest_stall: unknown key", id="in-the-budget"),
        pytest.param(A, "dry_run: {reads: 5}\n", "dry_run.reads: unknown key", id="in-the-dry-run"),
        pytest.param(
            "A: {stem: a, title: A, budget: {stall: 5}}", "", "changes.A.budget.stall: unknown key", id="in-an-override"
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_path(trial: Project, changes: str, more: str, expected: str) -> None:
    message = trial.refusal(changes, more)
    assert expected in message
    assert str(trial.file) in message


@pytest.mark.parametrize(
    ("changes", "more", "path"),
    [
        pytest.param("A: {stem: ../a, title: A}", "", "changes.A.stem", id="stem-that-leaves-the-folder"),
        pytest.param("A: {title: A}", "", "changes.A.stem", id="no-stem"),
        pytest.param("{}", "", "changes", id="no-changes"),
        pytest.param(A, "budget: {longest_stall_ms: 0}\n", "budget.longest_stall_ms", id="no-budget-at-all"),
        pytest.param(A, "dry_run: {reads_per_s: -1}\n", "dry_run.reads_per_s", id="negative-rate"),
        pytest.param(A, "name: Trial Release\n", "name", id="name-with-a-space"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_its_path(trial: Project, changes: str, more: str, path: str) -> None:
    head = "" if more.startswith("name") else "name: trial\n"
    with pytest.raises(ConfigurationError, match=r"1 setting\(s\) refused") as caught:
        trial.load(f"{head}title: Trial\nauthor: somebody\n{more}changes:\n  {changes}\n")
    assert f"\n  {path}: " in str(caught.value)


def test_every_refused_setting_is_told_at_once(trial: Project) -> None:
    message = trial.refusal("A: {stem: a, title: A, x: 1, y: 2}", "z: 3\n")
    assert "3 setting(s) refused" in message
    assert [key for key in ("changes.A.x", "changes.A.y", "z: unknown") if key not in message] == []


@pytest.mark.parametrize(
    "name", ["apply/b.sql", "verify/b.sql", "rollback/ROLLBACK_b.sql"], ids=["apply", "verify", "rollback"]
)
def test_a_missing_script_is_named_with_its_change(trial: Project, name: str) -> None:
    (trial.sql / name).unlink()
    message = trial.refusal(A + B)
    assert "1 script(s) missing" in message
    assert f"B: {trial.sql / name}" in message


def test_all_missing_scripts_are_told_at_once(trial: Project) -> None:
    assert "3 script(s) missing" in trial.refusal("Z: {stem: z, title: Z}")


def test_a_script_that_is_no_sql_is_named(trial: Project) -> None:
    (trial.sql / "verify/a.sql").write_text("select 1;\nselec 2;")
    with pytest.raises(ScriptError, match=r"verify/a\.sql:2:1"):
        trial.release(A)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param("A: {stem: a, title: A, requires: [A]}", {"A"}, id="itself"),
        pytest.param(
            "A: {stem: a, title: A, requires: [B]}\nB: {stem: b, title: B, requires: [A]}", {"A", "B"}, id="two"
        ),
        pytest.param(
            "A: {stem: a, title: A, requires: [C]}\nB: {stem: b, title: B, requires: [A]}\n"
            "C: {stem: c, title: C, requires: [B]}\nD: {stem: d, title: D}",
            {"A", "B", "C"},
            id="three-of-four",
        ),
    ],
)
def test_a_circle_of_requirements_is_named(trial: Project, changes: str, names: set[str]) -> None:
    message = trial.refusal(changes)
    [circle] = [line for line in message.splitlines() if "circle: " in line]
    steps = circle.rpartition("circle: ")[2].split(" -> ")
    assert steps[0] == steps[-1]
    assert set(steps) == names


def test_a_change_that_stands_before_what_it_requires_is_named(trial: Project) -> None:
    message = trial.refusal("A: {stem: a, title: A, requires: [B]}\n" + B)
    assert "A stands before B, which it requires" in message


def test_a_requirement_that_is_not_in_the_release_is_named(trial: Project) -> None:
    assert "A requires OPT9, which is not in the release" in trial.refusal("A: {stem: a, title: A, requires: [OPT9]}")


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        pytest.param("changes:\n  A: {stem: a, title: A}\n  A: {stem: b, title: B}\n", "A", 3, id="a-change"),
        pytest.param("name: one\nname: two\n", "name", 2, id="at-the-top"),
        pytest.param("changes:\n  A:\n    stem: a\n    title: A\n    'stem': b\n", "stem", 5, id="within-a-change"),
    ],
)
def test_a_key_given_twice_is_refused_by_name_and_line(trial: Project, text: str, key: str, line: int) -> None:
    """YAML would silently keep the last one."""
    with pytest.raises(ConfigurationError) as caught:
        trial.load(text)
    assert f"key '{key}' is given twice" in str(caught.value)
    assert f"line {line}, " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"name: [", "is not YAML", id="cut-short"),
        pytest.param(b"a: 1\n\tb: 2\n", "is not YAML", id="tab"),
        pytest.param(b"name: !!python/object/apply:os.getcwd []\n", "is not YAML", id="python-object"),
        pytest.param("title: são".encode("latin-1"), "is not UTF-8", id="latin-1"),
        pytest.param(b"", "the file: ", id="empty"),
        pytest.param(b"- A\n- B\n", "the file: ", id="a-list"),
        pytest.param(b"just words", "the file: ", id="words"),
    ],
)
def test_a_file_that_is_no_release_is_refused_in_words(trial: Project, content: bytes, expected: str) -> None:
    trial.file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_release(trial.file, trial.sql)
    assert str(caught.value).startswith(f"{trial.file}: ")
    assert expected in str(caught.value)


def test_a_release_file_that_is_not_there_is_named(trial: Project) -> None:
    with pytest.raises(ConfigurationError, match=r"release\.yaml: cannot be read \(No such file"):
        load_release(trial.file, trial.sql)


@pytest.mark.parametrize(
    ("name", "expected"), [("A", ["C", "B"]), ("B", ["C"]), ("C", []), ("D", [])], ids=["A", "B", "C", "D"]
)
def test_dependants_are_in_the_order_in_which_they_must_be_rolled_back(
    trial: Project, name: str, expected: list[str]
) -> None:
    assert [change.name for change in trial.release(CHAIN).dependants(name)] == expected


def test_an_unknown_change_is_answered_with_those_that_exist(trial: Project) -> None:
    with pytest.raises(ConfigurationError, match="no change 'OPT9' in release trial: it has A, B, C, D"):
        trial.release(CHAIN).dependants("OPT9")


def test_a_change_states_only_what_differs_from_the_budget_of_the_release(trial: Project) -> None:
    release = trial.release(
        "A: {stem: a, title: A, budget: {longest_stall_ms: 500}}\n" + B,
        "budget: {longest_stall_ms: 100, longest_exclusive_lock_ms: 20}\n",
    )
    first, second = (change.budget for change in release.changes)
    assert (first.longest_stall_ms, first.longest_exclusive_lock_ms) == (500, 20)
    assert (second.longest_stall_ms, second.longest_exclusive_lock_ms) == (100, 20)
    assert second.lock_timeout_ms == 2000


def test_an_accepted_hazard_keeps_its_reason(trial: Project) -> None:
    [change] = trial.release("A: {stem: a, title: A, accepts: {H14: the keys reference the registry}}").changes
    assert change.accepts == {"H14": "the keys reference the registry"}


@pytest.mark.parametrize(
    "accepts", ["{h14: the keys reference it}", "{H1: the keys reference it}", "{H14: fine}"],
    ids=["small-letter", "one-digit", "no-reason"],
)  # fmt: skip
def test_only_a_hazard_code_with_a_reason_is_accepted(trial: Project, accepts: str) -> None:
    assert "changes.A.accepts.H1" in trial.refusal(f"A: {{stem: a, title: A, accepts: {accepts}}}").replace(
        "h14", "H14"
    )
