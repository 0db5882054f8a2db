"""The link "Report" on a task that wrote one."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.xcom import XCom

REPORT_KEY = "report"


def report_address(page: str) -> str:
    """Where the signed-in user reads a page of ``archives/``: on this API server."""
    return f"{str(conf.get('api', 'base_url', fallback='')).rstrip('/')}/comporta/reports/{page}"


class ReportLink(BaseOperatorLink):
    """Opens the page that the task recorded under the XCom key ``report``; empty until it has one."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """Address on this API server; the reader must be signed in."""
        page = XCom.get_value(key=REPORT_KEY, ti_key=ti_key)
        return report_address(page) if page else ""


class ReportOperator(PythonOperator):
    """Calls a function that writes a report and records its page; the task then carries the link."""

    operator_extra_links = (ReportLink(),)
