"""Registers what Comporta adds to the Airflow UI. Every process of Airflow imports this file: light imports, no logic."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from comporta.orchestration.cleared import ClearsOnRecord
from comporta.orchestration.early_answers import HoldEarlyAnswers
from comporta.orchestration.fresh_forms import FreshForms
from comporta.orchestration.lazy import LazyApp
from comporta.orchestration.listener import listener

_ICONS = {"icon": "/comporta/static/gates-light.svg", "icon_dark_mode": "/comporta/static/gates-dark.svg"}


class ComportaPlugin(AirflowPlugin):
    """The pages under ``/comporta`` of the API server, and where the UI shows them: in its navigation and on every run."""

    name = "comporta"
    fastapi_apps = [{"app": LazyApp("comporta.orchestration.web:app"), "url_prefix": "/comporta", "name": "Comporta"}]  # noqa: RUF012 (Airflow reads a plain list)
    external_views = [  # noqa: RUF012 (as above)
        {
            "name": "Gates",
            "href": "/comporta/gates",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "gates",
            **_ICONS,
        },
        {
            "name": "Gates",
            "href": "/comporta/gates?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "gates-of-run",
            **_ICONS,
        },
    ]
    fastapi_root_middlewares = [  # noqa: RUF012 (as above)
        {"middleware": HoldEarlyAnswers, "name": "Answers wait until Airflow can take them"},
        {"middleware": ClearsOnRecord, "name": "Who cleared what is on record before the answer"},
        {"middleware": FreshForms, "name": "Forms show what is asked now"},
    ]
    listeners = [listener]  # noqa: RUF012 (likewise)
