"""Whether a request that changes something comes from a page of ours or from a program that shows its own token."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def foreign_origin(headers: Mapping[str, str]) -> str | None:
    """Why a write with these headers (names in lower case) is not taken, or None when it is.

    A browser sends the session cookie along with whatever another page asks for, but it says which page that was. A token
    in the header is put there on purpose, so such a request needs no further sign of where it comes from.
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return "the request carries a cookie but does not say which page it comes from"
    if site not in {None, "same-origin"}:
        return f"the request comes from another site (Sec-Fetch-Site: {site})"
    # A proxy may speak https outside and http inside; the browser's idea of host and port reaches us either way.
    if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
        return f"the request comes from {origin}, and this is {headers.get('host', 'another host')}"
    return None
