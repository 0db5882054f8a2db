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

_REINDEX = pglast.enums.ReindexObjectType

# Statements that PostgreSQL refuses inside a transaction block, by parse node, when their test holds.
_ALONE: dict[str, Callable[[Any], bool]] = {
    "IndexStmt": lambda node: bool(node.concurrent),
    "DropStmt": lambda node: bool(node.concurrent),
    "ReindexStmt": lambda node: (
        node.kind not in (_REINDEX.REINDEX_OBJECT_INDEX, _REINDEX.REINDEX_OBJECT_TABLE)
        or any(option.defname == "concurrently" for option in node.params or ())
    ),
    "VacuumStmt": lambda node: bool(node.is_vacuumcmd),
    "ClusterStmt": lambda node: node.relation is None,
    "CreatedbStmt": lambda _: True,
    "DropdbStmt": lambda _: True,
    "CreateTableSpaceStmt": lambda _: True,
    "DropTableSpaceStmt": lambda _: True,
    "AlterSystemStmt": lambda _: True,
    "AlterDatabaseStmt": lambda node: any(option.defname == "tablespace" for option in node.options or ()),
    "CreateSubscriptionStmt": lambda _: True,
    "DropSubscriptionStmt": lambda _: True,
    "DiscardStmt": lambda node: node.target == pglast.enums.DiscardMode.DISCARD_ALL,
    # A procedure or a DO block may commit inside; PostgreSQL then refuses an outer transaction.
    "CallStmt": lambda _: True,
    "DoStmt": lambda _: True,
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
    def concurrent(self) -> bool:
        """True for CREATE, DROP and REINDEX .. CONCURRENTLY and DETACH PARTITION .. CONCURRENTLY.

        They wait for every transaction that might still look, hold up no reader or writer meanwhile, and leave an invalid
        index or a partition half detached when a time-out cuts them short.
        """
        if self.kind == "ReindexStmt":
            return any(option.defname == "concurrently" for option in self.node.params or ())
        return self.kind in ("IndexStmt", "DropStmt", "AlterTableStmt") and self.needs_autocommit

    @property
    def refreshes_concurrently(self) -> bool:
        """True for REFRESH MATERIALIZED VIEW CONCURRENTLY: long, but cut short it leaves nothing."""
        return self.kind == "RefreshMatViewStmt" and bool(self.node.concurrent)

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
        return cls.parse(read_content(path), path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Script:
        """Parse the bytes of a script; ``path`` is for messages only."""
        try:
            text = content.decode("utf-8-sig")  # editors leave a byte order mark, which psql skips as well
        except UnicodeDecodeError as error:
            raise ScriptError(f"{path}: is not UTF-8 (byte {error.start})", remedy="Save the file as UTF-8.") from error
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            # The parser would take it for the end of the file and leave the rest out without a word.
            raise ScriptError(f"{path}:{line}: holds a NUL character", remedy="Remove it: SQL text cannot hold one.")
        try:
            slices = split(text, with_parser=True, only_slices=True)
        except ParseError as error:
            raise _syntax_error(error, text, path) from error
        statements = tuple(_statement(number, text, part) for number, part in enumerate(slices, start=1))
        if not statements:
            raise ScriptError(f"{path}: holds no statement", remedy="A script must contain at least one SQL statement.")
        return cls(path=path, sha256=hashlib.sha256(content).hexdigest(), statements=statements)


def read_content(path: Path) -> bytes:
    """The bytes of a script; ScriptError when they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read ({error.strerror})", remedy="Check the path.") from error


def _statement(number: int, text: str, part: slice) -> Statement:
    sql = text[part]
    return Statement(number=number, line=text.count("\n", 0, part.start) + 1, sql=sql, node=parse_sql(sql)[0].stmt)


def _syntax_error(error: ParseError, text: str, path: Path) -> ScriptError:
    offset = _offset(error, text)
    line = text.count("\n", 0, offset) + 1
    place = f"{path}:{line}:{offset - text.rfind(chr(10), 0, offset)}"
    if text.startswith("\\", offset):
        return ScriptError(
            f"{place}: {text[offset:].split(maxsplit=1)[0]} is a psql meta-command",
            remedy="Change scripts run through psql, the CLI and Airflow alike: write plain SQL. Nothing of this script ran.",
        )
    return ScriptError(f"{place}: {error.args[0]}", remedy="Nothing of this script ran. Correct it and start again.")


def _offset(error: ParseError, text: str) -> int:
    """Where the error is, in characters. pglast's own answer is short by one for each byte that UTF-8 needs on top."""
    try:
        parse_sql("".join(character if character.isascii() else "z" for character in text))
    except ParseError as plain:
        error = plain
    offset = error.args[1] if len(error.args) > 1 else None
    return offset if isinstance(offset, int) else len(text.rstrip())
