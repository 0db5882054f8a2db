"""Airflow's plugin loader runs every file that it finds under its bare name; it must find our plugin file and nothing more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOAD = """
import json, sys
from pathlib import Path

from airflow import plugins_manager

found = plugins_manager.get_plugin_info()
plugins = [plugin["name"] for plugin in found]
folder = Path(sys.argv[1]).resolve()
ours = {
    name: str(Path(module.__file__).resolve().relative_to(folder))
    for name, module in list(sys.modules.items())
    if getattr(module, "__file__", None) and Path(module.__file__).resolve().is_relative_to(folder)
}
views = [
    {name: view.get(name) for name in ("name", "href", "destination", "url_route")}
    for plugin in found if plugin["name"] == "comporta" for view in plugin["external_views"]
]
print(json.dumps({
    "plugins": plugins, "errors": plugins_manager.get_import_errors(), "ours": ours, "views": views,
    "package": sorted(name for name in sys.modules if name.startswith("comporta.")),
    "heavy": sorted({"fastapi", "pydantic_settings", "psycopg", "airflow.api_fastapi.core_api.security"} & sys.modules.keys()),
}))
"""


@pytest.fixture(scope="module")
def loaded(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh Airflow process has imported after loading its plugins."""
    home = tmp_path_factory.mktemp("airflow")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(project / "plugins")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_our_plugin_is_found(loaded: dict[str, Any]) -> None:
    """An ignore file that hides too much would pass every other test here."""
    assert "comporta" in loaded["plugins"]
    assert loaded["errors"] == {}


def test_no_module_of_the_package_is_executed_under_a_bare_name(loaded: dict[str, Any]) -> None:
    """A second copy of a module makes one class into two, and one named like a stdlib module replaces it."""
    under_other_names = {
        name: path
        for name, path in loaded["ours"].items()
        if path.startswith("comporta/") and name != "comporta" and not name.startswith("comporta.")
    }
    assert under_other_names == {}


def test_plugin_files_do_not_carry_the_name_of_a_standard_module(project: Path) -> None:
    """What lies beside the package is loaded under its bare name on purpose."""
    names = {path.stem for path in (project / "plugins").glob("*.py")}
    assert names, "no plugin file was found"
    assert names.isdisjoint(sys.stdlib_module_names)


def test_the_gates_page_is_in_the_navigation_and_on_every_run(loaded: dict[str, Any]) -> None:
    """Airflow drops a view whose route is taken, with no more than a warning in a log."""
    assert loaded["views"] == [
        {"name": "Gates", "href": "/comporta/gates", "destination": "nav", "url_route": "gates"},
        {
            "name": "Gates",
            "href": "/comporta/gates?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "gates-of-run",
        },
    ]


def test_the_plugin_is_light_until_somebody_opens_a_page(loaded: dict[str, Any]) -> None:
    """Every task process loads the plugin, and the API's modules cost it 1.7 CPU seconds."""
    assert loaded["heavy"] == []
    package = set(loaded["package"])
    assert "comporta.orchestration.lazy" in package
    assert not {name for name in package if name.startswith(("comporta.orchestration.gates_", "comporta.gates."))}
    assert "comporta.orchestration.web" not in package
