"""A write comes from a page of ours, or from a program that shows its token."""

from __future__ import annotations

import pytest

from comporta.orchestration.same_origin import foreign_origin

US = {"host": "airflow.example"}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": "https://airflow.example"},
        {"origin": "https://airflow.example"},
        {"sec-fetch-site": "same-origin"},
        {"authorization": "Bearer token", "origin": "https://other.example", "sec-fetch-site": "cross-site"},
    ],
    ids=["the page", "a browser without Sec-Fetch-Site", "no origin", "a token shown on purpose"],
)
def test_taken(headers: dict[str, str]) -> None:
    """https outside and http inside is the same page: a proxy changes the scheme, not the host."""
    assert foreign_origin(US | headers) is None


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "does not say which page"),
        ({"origin": "null"}, "comes from null"),
        ({"origin": "https://airflow.example.evil.example"}, "comes from https://airflow.example.evil.example"),
        ({"origin": "https://airflow.example:8443"}, "comes from https://airflow.example:8443"),
        ({"origin": "https://airflow.example", "sec-fetch-site": "same-site"}, "Sec-Fetch-Site: same-site"),
        ({"sec-fetch-site": "none"}, "Sec-Fetch-Site: none"),
        ({"authorization": "Basic abc", "sec-fetch-site": "cross-site"}, "Sec-Fetch-Site: cross-site"),
    ],
    ids=["nothing said", "opaque", "a longer name", "another port", "a neighbour", "typed in", "basic sign-in"],
)
def test_refused(headers: dict[str, str], why: str) -> None:
    """The complaint names what the browser said."""
    assert why in str(foreign_origin(US | headers))
