"""A real Airflow and a real browser for the tests in this folder: private to a file of tests, and gone after it.

Not for the whole session: four processes would take their share of the other tests' time, and Playwright keeps an event loop
running in this thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from comporta.local.private import PrivateAirflow, private_airflow

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",  # root cannot have one; it sees pages of this machine only
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DAGS = ("pair", "single", "signatures", "many", "asks", "waits", "stock", "ours", "sleeps", "scripts")

SignIn = Callable[..., Page]
PICTURES = os.environ.get("COMPORTA_PICTURES")


@pytest.fixture(scope="module")
def airflow() -> Iterator[PrivateAirflow]:
    """A healthy Airflow that knows the DAGs of ``tests/e2e/dags``."""
    place = PROJECT / ".comporta-test" / "airflow"
    with private_airflow(PROJECT, place, dags=HERE / "dags", gates=HERE / "gates.yaml") as running:
        for dag_id in DAGS:
            running.airflow.wait_for_dag(dag_id, within_s=90)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each gets a context, that is cookies and storage, of its own."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing: `make test` installs it, or `apt-get install chromium` does")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def sign_in(browser: Browser, airflow: PrivateAirflow) -> Iterator[SignIn]:
    """``sign_in("cfo")``: a page of somebody who signed in on Airflow's own page; options are a context's."""
    with ExitStack() as contexts:

        def entered(login: str, **options: Any) -> Page:
            context = browser.new_context(base_url=airflow.address, **options)
            contexts.callback(context.close)
            page = context.new_page()
            page.goto("/", timeout=30_000)
            fields = page.locator("input")
            fields.first.fill(login, timeout=30_000)
            fields.nth(1).fill(airflow.passwords[login])
            page.keyboard.press("Enter")
            page.wait_for_url(lambda url: "/auth/login" not in url, timeout=30_000)
            return page

        yield entered
