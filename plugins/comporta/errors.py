"""The error tree of Comporta. An error names the thing, what was expected, what was found, and the way out.

ComportaError
├── ConfigurationError      a file or setting of ours is wrong; nothing was contacted
├── UnreachableServer       a server does not answer or refuses the sign-in
├── UnsafeTarget            going on could touch a database that must not be touched
├── ScriptError             a script cannot be read as SQL; nothing of it ran
├── StatementFailed         a statement of a script failed; what ran before it stays
└── (each room adds its own beside the code that raises it)
"""

from __future__ import annotations


class ComportaError(Exception):
    """Something is wrong that a person can put right: ``message`` says what, ``remedy`` says how.

    ``transient`` is True when the same may succeed a moment later, without anybody's doing.
    """

    transient: bool = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class ConfigurationError(ComportaError):
    """A file or setting of ours is wrong: expected and found are named, nothing was contacted."""


class UnreachableServer(ComportaError):
    """A server does not answer or refuses the sign-in: host, port and reason are named, never the password."""

    transient = True


class UnsafeTarget(ComportaError):
    """Going on could touch a database that must not be touched; nothing was changed."""


class ScriptError(ComportaError):
    """A script cannot be read as SQL: file, line and column are named, nothing of it ran."""


class StatementFailed(ComportaError):
    """A statement of a script failed: file, line, statement and error are named, and what remains to run.

    ``statement`` is its 1-based number in the script, ``sqlstate`` None where the server said nothing (it is gone).
    ``transient`` is True when the same script may succeed a moment later: a lock that was not had, a lost connection.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        sqlstate: str | None = None,
        statement: int | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.sqlstate = sqlstate
        self.statement = statement
        self.transient = transient
