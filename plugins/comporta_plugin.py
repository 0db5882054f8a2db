"""Registers what Comporta adds to the Airflow UI. Every process of Airflow imports this file: light imports, no logic."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from comporta.orchestration.lazy import LazyApp


class ComportaPlugin(AirflowPlugin):
    """The pages under ``/comporta`` of the API server."""

    name = "comporta"
    fastapi_apps = [{"app": LazyApp("comporta.orchestration.web:app"), "url_prefix": "/comporta", "name": "Comporta"}]  # noqa: RUF012 (Airflow reads a plain list)
