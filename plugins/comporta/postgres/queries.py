"""Named queries: SQL is source beside the code that runs it, not strings in Python."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def load(package: str, name: str) -> str:
    """Return the text of ``name`` (``*.sql``) that ships inside ``package``; FileNotFoundError when it does not."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
