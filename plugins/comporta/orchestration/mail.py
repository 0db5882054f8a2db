"""Sends a mail through Airflow's SMTP provider, over the connection ``smtp_default``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk.exceptions import AirflowException

from comporta.notices.errors import MailDeferred, MailRefused, MailServerAway
from comporta.notices.model import Mail

SMTP_CONNECTION = "smtp_default"
LONGEST_WAIT_S = 10
_PERMANENT = 500


class PostHook(SmtpHook):
    """The provider's hook with one try, no longer than ten seconds, and a text beside the HTML.

    The provider tries six times in a row, each up to its time-out, before anybody hears of it; when to try again is
    written down in ``comporta.mail`` instead.
    """

    smtp_retry_limit = 0

    def __init__(self, smtp_conn_id: str = SMTP_CONNECTION) -> None:
        super().__init__(smtp_conn_id=smtp_conn_id)
        self._plain = ""

    @property
    def timeout(self) -> int:
        """Seconds for any answer of the server: as the connection says, and no longer than ``LONGEST_WAIT_S``."""
        return min(int(self.conn.extra_dejson.get("timeout", LONGEST_WAIT_S)), LONGEST_WAIT_S)

    def send(self, mail: Mail) -> None:
        """Hand over one mail; errors as the provider raises them."""
        self._plain = mail.plain
        self.send_email_smtp(
            to=[mail.address],
            subject=mail.subject,
            html_content=mail.html,
            mime_subtype="alternative",
            custom_headers=_headers(mail),
        )

    def _build_mime_message(self, *args: Any, **kwargs: Any) -> tuple[MIMEMultipart, list[str]]:
        message, recipients = super()._build_mime_message(*args, **kwargs)
        parts: Any = message.get_payload()
        parts.insert(0, MIMEText(self._plain, "plain", "utf-8"))  # of alternatives, the last is the best
        return message, recipients


@contextmanager
def post(connection: str = SMTP_CONNECTION) -> Iterator[Callable[[Mail], None]]:
    """A function that sends one mail, over one session with the server that is opened at the first.

    It raises a MailError: what concerns the mail (4xx: deferred, 5xx: refused) apart from what concerns the server.
    """
    hook: PostHook | None = None

    def send(mail: Mail) -> None:
        nonlocal hook
        try:
            if hook is None:
                hook = PostHook(connection)
                hook.get_conn()
            hook.send(mail)
        except (OSError, AirflowException, RuntimeError) as error:
            _close(hook)
            hook = None  # what the server expects next after an error is not known
            raise _in_our_words(error, mail) from error

    try:
        yield send
    finally:
        _close(hook)


def _headers(mail: Mail) -> dict[str, str]:
    thread = {"References": f"<gate-{mail.gate}@comporta.localhost>"} if mail.gate else {}
    return {"Message-ID": mail.message_id, "Auto-Submitted": "auto-generated", **thread}


def _close(hook: PostHook | None) -> None:
    if hook is not None and hook._smtp_client is not None:
        hook.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # the hook's own way to end


def _in_our_words(error: Exception, mail: Mail) -> Exception:
    """The error classes of the protocol by what they carry: recipients refused, or a code of the server."""
    refused: dict[str, tuple[int, bytes]] = getattr(error, "recipients", {})
    code, said = refused.get(mail.address, (getattr(error, "smtp_code", 0), getattr(error, "smtp_error", b"")))
    text = f"{code} {said.decode(errors='replace') if isinstance(said, bytes) else said}" if code else _reason(error)
    about_us = hasattr(error, "sender") or type(error).__name__ in _NOT_OF_THIS_MAIL
    if not code or about_us:
        return MailServerAway(text, remedy=f"Check the Airflow connection {SMTP_CONNECTION} and the mail server.")
    if code >= _PERMANENT:
        return MailRefused(text, remedy="Correct the address in config/gates.yaml, then: comporta mail retry")
    return MailDeferred(text)


# The greeting, HELO and the sign-in; a refused sender has the attribute "sender".
_NOT_OF_THIS_MAIL = frozenset({"SMTPConnectError", "SMTPHeloError", "SMTPAuthenticationError"})


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
