"""A change script as PostgreSQL itself would read it: statements with their lines, split by the server's own grammar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pglast
from pglast.parser import ParseError, parse_sql, split

from comporta.errors import ScriptError

# Statements that PostgreSQL refuses inside a transaction block, by parse node, when their test holds.
_ALONE: dict[str, Callable[[Any], bool]] = {
    "IndexStmt": lambda node: bool(node.concurrent),
    "DropStmt": lambda node: bool(node.concurrent),
    "ReindexStmt": lambda node: any(option.defname == "concurrently" for option in node.params or ()),
    "VacuumStmt": lambda node: bool(node.is_vacuumcmd),
    "ClusterStmt": lambda node: node.relation is None,
    "CreatedbStmt": lambda node: True,
    "DropdbStmt": lambda node: True,
    "CreateTableSpaceStmt": lambda node: True,
    "DropTableSpaceStmt": lambda node: True,
    "AlterSystemStmt": lambda node: True,
    # A procedure or a DO block may commit inside; PostgreSQL then refuses an outer transaction.
    "CallStmt": lambda node: True,
    "DoStmt": lambda node: True,
}


@dataclass(frozen=True)
class Statement:
    """One statement: its 1-based number and line in the file, its text without the semicolon, and its parse node."""

    number: int
    line: int
    sql: str
    node: Any

    @property
    def kind(self) -> str:
        """Name of the parse node, such as ``IndexStmt``."""
        return type(self.node).__name__

    @property
    def needs_autocommit(self) -> bool:
        """True when the statement may not, or must not, run inside a transaction block."""
        if self.kind == "AlterTableStmt":
            return any(
                command.subtype == pglast.enums.AlterTableType.AT_DetachPartition and command.def_.concurrent
                for command in self.node.cmds
            )
        test = _ALONE.get(self.kind)
        return bool(test and test(self.node))

    @property
    def transaction_control(self) -> str | None:
        """``begin``, ``commit`` or ``rollback`` for a transaction statement, else None."""
        if self.kind != "TransactionStmt":
            return None
        kinds = pglast.enums.TransactionStmtKind
        return {
            kinds.TRANS_STMT_BEGIN: "begin",
            kinds.TRANS_STMT_START: "begin",
            kinds.TRANS_STMT_COMMIT: "commit",
            kinds.TRANS_STMT_ROLLBACK: "rollback",
        }.get(self.node.kind)

    @property
    def headline(self) -> str:
        """First line of the statement, at most 100 characters, for progress and logs."""
        first = self.sql.strip().splitlines()[0]
        return first if len(first) <= 100 else first[:97] + "..."


@dataclass(frozen=True)
class Script:
    """A parsed script; ``sha256`` is over the exact bytes of the file."""

    path: Path
    sha256: str
    statements: tuple[Statement, ...]

    @classmethod
    def read(cls, path: Path) -> Script:
        """Parse a file. ScriptError names file, line and what is wrong; nothing has run then."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ScriptError(f"{path}: cannot be read ({error.strerror})", remedy="Check the path.") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Script:
        """Parse the bytes of a script; ``path`` is for messages only."""
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ScriptError(f"{path}: is not UTF-8 (byte {error.start})", remedy="Save the file as UTF-8.") from error
        _refuse_meta_commands(text, path)
        try:
            parse_sql(text)
            slices = split(text, with_parser=True, only_slices=True)
        except ParseError as error:
            raise _syntax_error(error, text, path) from error
        statements = tuple(_statement(number, text, part) for number, part in enumerate(slices, start=1))
        if not statements:
            raise ScriptError(f"{path}: holds no statement", remedy="A script must contain at least one SQL statement.")
        return cls(path=path, sha256=hashlib.sha256(content).hexdigest(), statements=statements)


def _statement(number: int, text: str, part: slice) -> Statement:
    start = _skip_leading_comments(text, part.start, part.stop)
    sql = text[start : part.stop]
    return Statement(number=number, line=text.count("\n", 0, start) + 1, sql=sql, node=parse_sql(sql)[0].stmt)


def _skip_leading_comments(text: str, start: int, stop: int) -> int:
    """Move past blank space and comments, so that a statement's line is the line of its first word."""
    while start < stop:
        if text[start].isspace():
            start += 1
        elif text.startswith("--", start):
            end = text.find("\n", start)
            start = stop if end < 0 else end + 1
        elif text.startswith("/*", start):
            start = text.index("*/", start) + 2
        else:
            break
    return start


def _refuse_meta_commands(text: str, path: Path) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("\\"):
            raise ScriptError(
                f"{path}:{number}: {line.split()[0]} is a psql meta-command",
                remedy="Change scripts run through psql, the CLI and Airflow alike: write plain SQL.",
            )


def _syntax_error(error: ParseError, text: str, path: Path) -> ScriptError:
    offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return ScriptError(
        f"{path}:{line}:{column}: {error.args[0]}",
        remedy="Nothing of this script ran. Correct it and start again.",
    )
