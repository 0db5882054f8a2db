"""The transactions of the load, as pgbench runs them, and read here too: what they are for, and one run of them by hand.

pgbench tells how long a transaction takes, but neither which recorded statement it stands for nor what its session holds
afterwards. So a script is read with the few rules of pgbench that it uses: ``\\set`` (an expression that PostgreSQL computes as
well), ``\\if``, ``\\gset`` and ``\\aset``, and values put in for ``:name`` wherever it stands, within quotes too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError, fingerprint

from comporta.errors import ComportaError
from comporta.postgres.connection import Connection

# What a client has before its first transaction, beside the ids that exist: no row of its own, and none that it has seen.
BEGINNING: Mapping[str, int] = {"my_id": 0, "seen_id": 0}

_VARIABLE = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")
_META = re.compile(r"^\s*\\(\w+)\s*(.*)$")
# Two arguments, the second with one pair of parentheses inside at most; further parameters shape the draw, not its range.
_RANDOM = re.compile(r"\brandom(?:_\w+)?\(([^(),]+),\s*((?:[^(),]|\([^()]*\))+)(?:,[^()]*)?\)")
# Text in quotes is matched first, so that no semicolon in it ends anything.
_END = re.compile(r"(?P<quoted>'[^']*')|\\;|;|\\(?P<take>[ga]set)[ \t]*(?P<prefix>\w*)")
_LAST = re.compile(r"(?:(?<!\\);|\\[ga]set[ \t]*\w*)\s*$")
_NO_WORK = (ast.VariableSetStmt, ast.TransactionStmt)


class LoadNotRead(ComportaError):
    """A script of the load cannot be read: file and reason are named, nothing of it ran."""


@dataclass(frozen=True)
class Command:
    """A line of a script: a meta command (``set``, ``if``, ``elif``, ``else``, ``endif``) or a statement (``sql``).

    ``take`` is the prefix of the variables that the statement's row becomes; None when its rows are for nobody.
    """

    kind: str
    text: str
    take: str | None = None


@dataclass(frozen=True)
class Transaction:
    """One kind of transaction: its name is the file's."""

    name: str
    path: Path
    commands: tuple[Command, ...]

    @classmethod
    def read(cls, path: Path) -> Transaction:
        """Read a script; LoadNotRead when it is none of pgbench's."""
        try:
            commands = tuple(_commands(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise LoadNotRead(f"{path}: {error}", remedy="Correct the script: pgbench -f must run it.") from error
        script = cls(path.stem, path, commands)
        if not script.statements:
            raise LoadNotRead(f"{path}: there is no statement in it", remedy="Write one, or remove the file.")
        return script

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that do work, with 1 for every variable: their shape, not their values."""
        shapes = (_VARIABLE.sub("1", each.text) for each in self.commands if each.kind == "sql")
        return tuple(shape for shape in shapes if not isinstance(self._node(shape), _NO_WORK))

    @property
    def stands_for(self) -> str:
        """The fingerprint of the statement that it is for, which is its last: what comes before only prepares."""
        return fingerprint(self.statements[-1])

    @property
    def reads_only(self) -> bool:
        """True when what it is for is a query."""
        return isinstance(self._node(self.statements[-1]), ast.SelectStmt)

    def _node(self, statement: str) -> Any:
        try:
            (raw,) = parse_sql(statement)
        except (ParseError, ValueError) as error:
            remedy = "Correct the script: pgbench -f must run it."
            raise LoadNotRead(f"{self.path}: {error} in: {' '.join(statement.split())[:120]}", remedy=remedy) from error
        return raw.stmt

    def run(self, conn: Connection, given: Mapping[str, int], *, without_last: bool = False) -> tuple[str, ...]:
        """Run it once, the middle standing for each random draw, and return what was sent; psycopg.Error passes through.

        It writes and takes roles: call it inside a transaction that is rolled back. ``without_last`` returns the statement
        that it is for with the others, but does not send it.
        """
        variables = {name: str(value) for name, value in {"client_id": 0, **BEGINNING, **given}.items()}
        branches: list[bool | None] = []  # of each open \\if: True within its branch, False before it, None behind it
        sent: list[str] = []
        for command in self.commands:
            if command.kind in ("if", "elif", "else", "endif"):
                _branch(conn, command, variables, branches)
            elif not all(branches):
                continue
            elif command.kind == "set":
                name, _, expression = command.text.partition(" ")
                variables[name] = _compute(conn, expression, variables)
            else:
                sent.append(_filled(command.text, variables))
                if without_last and fingerprint(sent[-1]) == self.stands_for:
                    break
                cursor = conn.execute(sent[-1].encode())
                if command.take is not None and (row := cursor.fetchone()) is not None:
                    names = (column.name for column in cursor.description or ())
                    variables |= {f"{command.take}{name}": str(value) for name, value in zip(names, row, strict=True)}
        return tuple(sent)


def read_transactions(folder: Path) -> tuple[Transaction, ...]:
    """Every script of the folder, by name; LoadNotRead when there is none, or when two stand for one statement."""
    scripts = tuple(Transaction.read(path) for path in sorted(folder.glob("*.sql")))
    if not scripts:
        raise LoadNotRead(f"{folder}: there is no transaction of the load in it", remedy="Add pgbench scripts (*.sql).")
    known: dict[str, Transaction] = {}
    for script in scripts:
        if (other := known.setdefault(script.stands_for, script)) is not script:
            raise LoadNotRead(
                f"{folder}: {other.path.name} and {script.path.name} end in the same statement",
                remedy="Keep one of them: the recorded calls of a statement are those of one transaction.",
            )
    return scripts


def _commands(text: str) -> Iterator[Command]:
    pending: list[str] = []
    for line in text.splitlines():
        if not line.strip() or (line.lstrip().startswith("--") and not pending):
            continue
        meta = _META.match(line)
        if meta and not pending:
            yield Command(meta[1], meta[2].strip())
            continue
        pending.append(line)
        if _LAST.search(line):
            yield from _statements("\n".join(pending))
            pending.clear()
    if pending:
        raise ValueError(f"a statement does not end: {' '.join(pending)[:80]}")


def _statements(text: str) -> Iterator[Command]:
    begin = 0
    for end in _END.finditer(text):
        if end["quoted"]:
            continue
        if statement := text[begin : end.start()].strip():
            yield Command("sql", statement, end["prefix"] if end["take"] else None)
        begin = end.end()
    if text[begin:].strip():
        raise ValueError(f"a statement does not end on its line: {text[begin:].strip()[:80]}")


def _filled(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables[found[1]], text)


def _compute(conn: Connection, expression: str, variables: Mapping[str, str]) -> str:
    middle = _RANDOM.sub(r"(((\1) + (\2)) / 2)", _filled(expression, variables))
    row = conn.execute(f"select ({middle})::text".encode()).fetchone()
    assert row is not None
    return str(row[0])


def _branch(conn: Connection, command: Command, variables: Mapping[str, str], branches: list[bool | None]) -> None:
    """Open, change or close the innermost branch, as pgbench's conditional does."""

    def holds() -> bool:
        return command.kind == "else" or _compute(conn, f"({command.text})", variables) == "true"

    if command.kind == "endif":
        branches.pop()
    elif command.kind == "if":
        branches.append(holds() if all(branches) else None)
    elif branches[-1] is False and all(branches[:-1]):
        branches[-1] = holds()
    else:
        branches[-1] = None
