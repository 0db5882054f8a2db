"""`comporta lint` says what squawk finds, where, and with an exit status; what it leaves out has a reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comporta.cli import app
from comporta.errors import ConfigurationError
from comporta.release import lint as module
from comporta.release.lint import EXCLUDED_RULES, lint
from comporta.release.model import load_release

BAD = "set lock_timeout = '1s';\n\ncreate index places_name_idx on places (name);\n"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.sql"
    file.write_text(BAD)
    return file


def test_an_index_made_under_a_lock_is_found_with_its_line_and_cure(bad: Path) -> None:
    [finding] = lint([bad])
    assert (finding.file, finding.line, finding.rule) == (str(bad), 3, "require-concurrent-index-creation")
    assert finding.level == "warning"
    assert "concurrently" in finding.cure


def test_a_script_with_nothing_to_say_about_gives_no_finding(tmp_path: Path) -> None:
    file = tmp_path / "good.sql"
    file.write_text("create index concurrently places_name_idx on places (name);\n")
    assert lint([file]) == []


def test_a_line_that_says_why_may_be_left_out(tmp_path: Path) -> None:
    """The way out for a finding that does not hold: a comment beside the statement, not a rule less for everyone."""
    file = tmp_path / "reasoned.sql"
    file.write_text(
        "-- squawk-ignore require-concurrent-index-creation\ncreate index places_name_idx on places (name);\n"
    )
    assert lint([file]) == []


def test_a_file_that_is_not_there_is_no_clean_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such file: .*absent\.sql"):
        lint([tmp_path / "absent.sql"])


def test_a_syntax_error_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "broken.sql"
    file.write_text("select 1;\nselec 2;\n")
    assert {(each.line, each.rule, each.level) for each in lint([file])} == {(2, "syntax-error", "error")}


def test_every_rule_that_is_left_out_has_its_reason() -> None:
    assert all(len(reason) > 20 for reason in EXCLUDED_RULES.values())


def test_squawk_has_nothing_to_say_about_the_shipped_scripts(project: Path) -> None:
    release = load_release(project / "config/release.yaml", project / "sql")
    scripts = [script.path for change in release.changes for script in (change.apply, change.verify, change.rollback)]
    found = {(Path(each.file).name, each.rule) for each in lint([*scripts, *(each.path for each in release.support)])}
    # These index a table that the same script made and that nobody reads yet, behind a DO block where squawk cannot see it.
    assert found <= {("OPT3_indexed_views_rpc_search.sql", "require-concurrent-index-creation")}


def test_a_linter_that_is_not_installed_is_named(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="squawk was not found"):
        lint([bad])


def test_a_linter_that_breaks_is_quoted(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "squawk"
    broken.write_text("#!/bin/sh\necho no such rule >&2\necho not json\nexit 2\n")
    broken.chmod(0o700)
    monkeypatch.setattr(module, "_squawk", lambda: str(broken))
    with pytest.raises(ConfigurationError, match="squawk ended with status 2: no such rule"):
        lint([bad])


def test_the_command_prints_place_and_rule_and_ends_with_1(bad: Path) -> None:
    done = CliRunner().invoke(app, ["lint", str(bad)])
    assert done.exit_code == 1
    assert f"{bad}:3: warning require-concurrent-index-creation: " in done.stdout
    assert "1 finding(s)" in done.stderr


def test_a_line_number_stays_a_number(tmp_path: Path) -> None:
    """A console that knows emoji would turn ``:100:`` into one."""
    file = tmp_path / "long.sql"
    file.write_text("\n" * 99 + "create index places_name_idx on places (name);\n")
    assert f"{file}:100: warning" in CliRunner().invoke(app, ["lint", str(file)]).stdout


def test_the_command_speaks_json_to_machines(bad: Path) -> None:
    done = CliRunner().invoke(app, ["lint", "--json", str(bad)])
    [finding] = json.loads(done.stdout)
    assert (finding["line"], finding["rule"]) == (3, "require-concurrent-index-creation")
