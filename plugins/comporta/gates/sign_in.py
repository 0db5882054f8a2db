"""Who somebody is, by Airflow's word: a login and a password that its auth manager accepts."""

from __future__ import annotations

import httpx

from comporta.errors import ComportaError, ConfigurationError, UnreachableServer
from comporta.settings import Settings


class SignInRefused(ComportaError):
    """Airflow does not accept this login and password; nothing was decided."""


def sign_in(settings: Settings, login: str, password: str) -> None:
    """Return when Airflow accepts the two; SignInRefused when it does not, UnreachableServer when it does not answer."""
    if not settings.web_url:
        raise ConfigurationError(
            "the web server is not known: COMPORTA_WEB_URL is neither in the environment nor in .comporta/env",
            remedy="Start the local system with `make run`, or set it, such as http://127.0.0.1:8080.",
        )
    try:
        with httpx.Client(base_url=settings.web_url, timeout=10.0, trust_env=False) as client:
            answer = client.post("/auth/token", json={"username": login, "password": password})
    except httpx.HTTPError as error:
        raise UnreachableServer(
            f"Airflow does not answer at {settings.web_url}: {error}",
            remedy="Start it, or answer as the user of this machine: without --as.",
        ) from error
    if answer.is_error:
        raise SignInRefused(
            f"Airflow does not accept the password of {login} (HTTP {answer.status_code})",
            remedy="The passwords of a local system are in .comporta/web-passwords.json.",
        )
