"""The environment file is private, keeps its secrets between starts, and reads back as it was written."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.local import environment
from comporta.local.environment import WebPorts
from comporta.local.layout import Layout
from comporta.settings import load_settings

WEB = WebPorts(web=8080, worker_logs=8793, trigger_logs=8794)


@dataclass
class FakeCluster:
    port: int
    name: str = ""
    password: str = "p/w d'#$"

    def dsn(self, dbname: str) -> str:
        return make_conninfo(host="127.0.0.1", port=self.port, password="secret", dbname=dbname)


def compose(
    layout: Layout, kept: dict[str, str] | None = None, further: tuple[FakeCluster, ...] = ()
) -> dict[str, str]:
    return environment.compose(
        layout,
        control=FakeCluster(1),  # type: ignore[arg-type]
        target=FakeCluster(2),  # type: ignore[arg-type]
        shadow=FakeCluster(3),  # type: ignore[arg-type]
        further=further,  # type: ignore[arg-type]
        web=WEB,
        kept=kept or {},
    )


def test_secrets_are_kept_and_everything_else_is_made_anew(tmp_path: Path) -> None:
    """A second start must not invalidate sessions or encrypted connections."""
    first = compose(Layout(tmp_path))
    assert compose(Layout(tmp_path), first) == first
    assert compose(Layout(tmp_path))["AIRFLOW__CORE__FERNET_KEY"] != first["AIRFLOW__CORE__FERNET_KEY"]


def test_the_signing_secret_is_long_enough_for_hs512(tmp_path: Path) -> None:
    """HS512 asks for 64 bytes."""
    assert len(compose(Layout(tmp_path))["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64


def test_a_password_with_special_characters_survives_the_address(tmp_path: Path) -> None:
    """It is percent-encoded, also the slash."""
    address = compose(Layout(tmp_path))["AIRFLOW_CONN_TARGET"]
    assert address == "postgres://postgres:p%2Fw%20d%27%23%24@127.0.0.1:2/gis"


def test_the_file_is_private_and_reads_back(tmp_path: Path) -> None:
    """Values hold spaces and signs that a shell or a parser could take for its own."""
    path = tmp_path / "state" / "env"
    values = compose(Layout(tmp_path)) | {"ODD": 'a b #c $HOME "q" =x'}
    environment.write(path, values)
    assert environment.read(path) == values
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_shell_reads_the_file_alike(tmp_path: Path) -> None:
    """A person may source it in a terminal."""
    path = tmp_path / "env"
    environment.write(path, {"ODD": 'a b #c $HOME "q" =x'})
    shown = subprocess.run(["/bin/sh", "-c", f'. {path}; printf %s "$ODD"'], capture_output=True, text=True, check=True)
    assert shown.stdout == 'a b #c $HOME "q" =x'


def test_settings_find_the_servers_in_the_file(tmp_path: Path) -> None:
    """The command line works from a second terminal without any variable set."""
    layout = Layout(tmp_path)
    values = compose(layout)
    environment.write(layout.environment, values)
    settings = load_settings(tmp_path)
    assert settings.control_dsn == values["COMPORTA_CONTROL_DSN"]
    assert settings.target_dsn == values["COMPORTA_TARGET_DSN"]
    assert settings.shadow_dsn == values["COMPORTA_SHADOW_DSN"]


def test_a_further_shadow_is_known_to_the_settings_and_to_airflow(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    values = compose(layout, further=(FakeCluster(4, "shadow_2"),))
    environment.write(layout.environment, values)
    assert [conninfo_to_dict(dsn)["port"] for dsn in load_settings(tmp_path).shadows()] == ["3", "4"]
    assert values["AIRFLOW_CONN_SHADOW_2"].endswith("@127.0.0.1:4/gis")
    assert "AIRFLOW_CONN_SHADOW_3" not in values


def test_children_inherit_no_strangers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PGPASSWORD or AIRFLOW__ variable of the caller's shell must not leak into our processes."""
    monkeypatch.setenv("PGPASSWORD", "x")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("KEPT", "yes")
    child = environment.for_child({"AIRFLOW_HOME": "/here"})
    assert child["KEPT"] == "yes"
    assert child["AIRFLOW_HOME"] == "/here"
    assert "PGPASSWORD" not in child
    assert "AIRFLOW__CORE__EXECUTOR" not in child
