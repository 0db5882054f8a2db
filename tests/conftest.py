"""What every test shares: where the project is, and no leaking of a developer's settings into tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """Root folder of the project."""
    return PROJECT


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_a_running_system() -> None:
    """Tests never reach a database that ``make run`` or a person configured: they make their own."""
    for name in [name for name in os.environ if name.startswith(("COMPORTA_", "AIRFLOW_CONN_", "PG"))]:
        del os.environ[name]
