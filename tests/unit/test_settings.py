"""Settings come from the environment, then from ``.comporta/env``; what is missing says how to set it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comporta.errors import ConfigurationError
from comporta.settings import load_settings, project_root

FROM_FILE = "host=127.0.0.1 dbname=from_file"
FROM_ENVIRONMENT = "host=127.0.0.1 dbname=from_environment"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".comporta").mkdir()
    (tmp_path / ".comporta" / "env").write_text(f'COMPORTA_TARGET_DSN="{FROM_FILE}"\nUNRELATED=1\n')
    return tmp_path


def test_what_the_environment_does_not_say_is_read_from_the_file(home: Path) -> None:
    assert load_settings(home).require("target") == FROM_FILE


def test_the_environment_comes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPORTA_TARGET_DSN", FROM_ENVIRONMENT)
    assert load_settings(home).require("target") == FROM_ENVIRONMENT


def test_settings_are_read_when_they_are_loaded_and_not_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings(home)
    monkeypatch.setenv("COMPORTA_TARGET_DSN", FROM_ENVIRONMENT)
    assert (before.target_dsn, load_settings(home).target_dsn) == (FROM_FILE, FROM_ENVIRONMENT)


@pytest.mark.parametrize("name", ["control", "shadow"])
def test_a_missing_server_says_which_variable_and_which_file_would_name_it(home: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(home).require(name)
    message = str(caught.value)
    assert f"COMPORTA_{name.upper()}_DSN" in message
    assert str(home / ".comporta" / "env") in message
    assert "make run" in message


@pytest.mark.parametrize("name", ["control", "target", "shadow"])
def test_a_connection_string_that_cannot_be_read_is_named_and_not_quoted(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"COMPORTA_{name.upper()}_DSN", "host=127.0.0.1 password=hunter2 hunter2")
    with pytest.raises(ConfigurationError, match=f"COMPORTA_{name.upper()}_DSN cannot be read") as caught:
        load_settings(home).require(name)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_home_without_a_file_is_a_home_all_the_same(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.target_dsn == ""
    assert settings.release_path == tmp_path / "config/release.yaml"
    assert settings.archives_path == tmp_path / "archives"


def test_comporta_home_names_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPORTA_HOME", str(tmp_path))
    monkeypatch.setenv("COMPORTA_RELEASE", "config/other.yaml")
    assert load_settings().home == tmp_path.resolve()
    assert load_settings().release_path == tmp_path.resolve() / "config/other.yaml"


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPORTA_ARCHIVES", "/var/lib/archives")
    assert load_settings(tmp_path).archives_path == Path("/var/lib/archives")


def test_without_comporta_home_the_nearest_project_upwards_is_meant(tmp_path: Path) -> None:
    (tmp_path / "sql/support").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    assert project_root(tmp_path / "plugins/comporta/settings.py") == tmp_path


def test_outside_of_any_project_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Set COMPORTA_HOME"):
        project_root(tmp_path / "somewhere.py")
