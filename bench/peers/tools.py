"""The tools under comparison, each behind the same few verbs: write the plan, deploy, revert, ask what it knows."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict

from comporta.errors import ComportaError
from comporta.postgres.script import Script
from comporta.postgres.tools import client_program

from .plan import Plan

LIMIT_S = 600.0
_OURS = Path(__file__).with_name("ours.py")
_DELIMITER = "@@"


@dataclass(frozen=True)
class Ran:
    """One or more programs, run one after the other to the first that failed; ``code`` None: cut off at its limit."""

    code: int | None
    seconds: float
    cpu_seconds: float
    output: str

    @property
    def ok(self) -> bool:
        """Every program ended with 0."""
        return self.code == 0

    def said(self, lines: int = 3) -> list[str]:
        """The last lines that hold something."""
        found = [
            line.strip() for line in self.output.splitlines() if line.strip() and not line.strip().startswith("at ")
        ]
        return [line[:220] for line in found[-lines:]]


class Tool(Protocol):
    """``name`` is the column; ``proves`` and ``verifies`` say what is inside its time.

    ``lock_timeout_ms`` is what somebody who thinks of it gives by hand; no tool sets one by itself.
    """

    name: str
    verifies: bool
    proves: bool
    lock_timeout_ms: int

    def version(self) -> str | None:
        """What is installed, None when it is not (or not all of it)."""

    def write(self, plan: Plan, folder: Path, dsn: str) -> None:
        """Lay out the project of ``plan`` in the empty ``folder``."""

    def deploy(self) -> Ran:
        """Apply the whole plan, and verify it where the tool can."""

    def revert(self, limit_s: float = LIMIT_S) -> Ran:
        """Roll the whole plan back."""

    def ask(self) -> Ran:
        """The tool's own view of what is deployed and whether its records are right."""

    def is_at_ease(self, asked: Ran) -> bool:
        """True when ``ask`` found nothing to complain about while everything is deployed."""


def run(
    commands: Sequence[Sequence[str | Path]],
    *,
    environment: Mapping[str, str],
    folder: Path,
    limit_s: float = LIMIT_S,
) -> Ran:
    """Run programs in turn; one that exceeds the limit is ended with everything that it started."""
    before, started = _child_cpu(), time.perf_counter()
    output, code = "", 0
    for command in commands:
        left = limit_s - (time.perf_counter() - started)
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=max(left, 1.0))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, _ = process.communicate()
                return Ran(None, time.perf_counter() - started, _child_cpu() - before, output + said)
        output += said
        if code := process.returncode:
            break
    return Ran(code, time.perf_counter() - started, _child_cpu() - before, output)


def _child_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _libpq(dsn: str, lock_timeout_ms: int) -> dict[str, str]:
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = {names[key]: str(value) for key, value in conninfo_to_dict(dsn).items() if key in names}
    return {**given, "PGOPTIONS": f"-c lock_timeout={lock_timeout_ms}"} if lock_timeout_ms else given


def _write_scripts(plan: Plan, folder: Path) -> None:
    for number, step in enumerate(plan, start=1):
        for role, text in (("apply", step.apply), ("verify", step.verify), ("rollback", step.rollback)):
            (folder / f"{number:02}_{step.name}.{role}.sql").write_text(text, encoding="utf-8")


@dataclass
class Psql:
    """The scripts through psql, one process a script: the baseline."""

    name: str = "psql"
    verifies: bool = True
    proves: bool = False
    lock_timeout_ms: int = 0
    folder: Path = field(default_factory=Path)
    dsn: str = ""

    def version(self) -> str | None:
        """Of the client."""
        try:
            program = client_program("psql")
            return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
        except (ComportaError, OSError, subprocess.CalledProcessError):
            return None

    def write(self, plan: Plan, folder: Path, dsn: str) -> None:
        """Files as they are."""
        self.folder, self.dsn = folder, dsn
        _write_scripts(plan, folder)

    def deploy(self) -> Ran:
        """Apply and verify, change by change."""
        files = (
            file.with_name(file.name.replace(".apply.", f".{role}."))
            for file in sorted(self.folder.glob("*.apply.sql"))
            for role in ("apply", "verify")
        )
        return self._run(list(files), LIMIT_S)

    def apply(self) -> Ran:
        """Apply all changes."""
        return self._run(sorted(self.folder.glob("*.apply.sql")), LIMIT_S)

    def verify(self) -> Ran:
        """Verify all changes."""
        return self._run(sorted(self.folder.glob("*.verify.sql")), LIMIT_S)

    def revert(self, limit_s: float = LIMIT_S) -> Ran:
        """Backwards."""
        return self._run(sorted(self.folder.glob("*.rollback.sql"), reverse=True), limit_s)

    def ask(self) -> Ran:
        """It keeps no records."""
        return Ran(0, 0.0, 0.0, "keeps no records")

    def is_at_ease(self, asked: Ran) -> bool:
        """Nothing to be wrong."""
        return asked.ok

    def _run(self, files: Sequence[Path], limit_s: float) -> Ran:
        program = client_program("psql")
        commands: list[list[str | Path]] = [
            [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file] for file in files
        ]
        return run(commands, environment=_libpq(self.dsn, self.lock_timeout_ms), folder=self.folder, limit_s=limit_s)


@dataclass
class Ours:
    """Apply, verify and rollback with fingerprint and checksums before and after, two processes like the others."""

    name: str = "comporta"
    verifies: bool = True
    proves: bool = True
    lock_timeout_ms: int = 0
    folder: Path = field(default_factory=Path)
    dsn: str = ""

    def version(self) -> str | None:
        """Of this checkout."""
        return "this checkout"

    def write(self, plan: Plan, folder: Path, dsn: str) -> None:
        """Files as they are."""
        self.folder, self.dsn = folder, dsn
        _write_scripts(plan, folder)

    def deploy(self) -> Ran:
        """Proof of before, then apply and verify."""
        return self._run("deploy", LIMIT_S)

    def revert(self, limit_s: float = LIMIT_S) -> Ran:
        """Rollback, then proof of after: ends with 1 when anything is not as it was."""
        return self._run("revert", limit_s)

    def ask(self) -> Ran:
        """The marks that the scripts keep."""
        return self._run("status", LIMIT_S)

    def is_at_ease(self, asked: Ran) -> bool:
        """The records of ours are the ledger's; see the trial."""
        return asked.ok

    def _run(self, action: str, limit_s: float) -> Ran:
        environment = {"PEERS_DSN": self.dsn, "PEERS_LOCK_TIMEOUT_MS": str(self.lock_timeout_ms)}
        return run(
            [[sys.executable, _OURS, action, self.folder]], environment=environment, folder=self.folder, limit_s=limit_s
        )


@dataclass
class Sqitch:
    """Native scripts through psql, as sqitch does it; ``deploy --verify`` and ``revert``."""

    name: str = "sqitch"
    verifies: bool = True
    proves: bool = False
    lock_timeout_ms: int = 0
    folder: Path = field(default_factory=Path)
    dsn: str = ""

    def version(self) -> str | None:
        """None without DBD::Pg, too."""
        if not (shutil.which("sqitch") and shutil.which("perl")):
            return None
        driver = subprocess.run(["perl", "-MDBD::Pg", "-e", "1"], check=False, capture_output=True)
        said = subprocess.run(["sqitch", "--version"], check=False, capture_output=True, text=True)
        found = re.search(r"v?(\d+\.\d+[\w.]*)", said.stdout)
        return found[1] if found and driver.returncode == 0 else None

    def write(self, plan: Plan, folder: Path, dsn: str) -> None:
        """sqitch.conf, sqitch.plan and a script a role."""
        self.folder, self.dsn = folder, dsn
        conf = f'[core]\n\tengine = pg\n[engine "pg"]\n\ttarget = db:pg:\n\tclient = {client_program("psql")}\n'
        lines = ["%syntax-version=1.0.0", "%project=catalogue", ""]
        for number, step in enumerate(plan):
            requires = f" [{' '.join(step.requires)}]" if step.requires else ""
            lines.append(f"{step.name}{requires} 2026-01-01T00:00:0{number}Z bench <bench@example.org> # {step.name}")
        (folder / "sqitch.conf").write_text(conf, encoding="utf-8")
        (folder / "sqitch.plan").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for role in ("deploy", "verify", "revert"):
            (folder / role).mkdir()
        for step in plan:
            for role, text in (("deploy", step.apply), ("verify", step.verify), ("revert", step.rollback)):
                (folder / role / f"{step.name}.sql").write_text(text, encoding="utf-8")

    def deploy(self) -> Ran:
        """All changes, each verified."""
        return self.run([["deploy", "--verify"]])

    def apply(self) -> Ran:
        """All changes, none verified."""
        return self.run([["deploy", "--no-verify"]])

    def verify(self) -> Ran:
        """All that is deployed."""
        return self.run([["verify"]])

    def revert(self, limit_s: float = LIMIT_S) -> Ran:
        """All changes."""
        return self.run([["revert", "-y"]], limit_s)

    def ask(self) -> Ran:
        """``check`` compares plan, scripts and registry; ``status`` tells what is deployed."""
        return self.run([["check"], ["status"]])

    def is_at_ease(self, asked: Ran) -> bool:
        """Both end with 0 and the status has nothing left to deploy."""
        return asked.ok and "Nothing to deploy (up-to-date)" in asked.output

    def run(self, commands: Sequence[Sequence[str]], limit_s: float = LIMIT_S) -> Ran:
        """sqitch commands in turn."""
        environment = {
            **_libpq(self.dsn, self.lock_timeout_ms),
            "SQITCH_FULLNAME": "bench",
            "SQITCH_EMAIL": "bench@example.org",
            "SQITCH_USER_CONFIG": os.devnull,
            "SQITCH_SYSTEM_CONFIG": os.devnull,
        }
        return run(
            [["sqitch", *command] for command in commands],
            environment=environment,
            folder=self.folder,
            limit_s=limit_s,
        )


@dataclass
class Liquibase:
    """One change set a change, in autocommit, its statements split by our parser and set apart by a line of their own."""

    program: str | None
    name: str = "liquibase"
    verifies: bool = False
    proves: bool = False
    lock_timeout_ms: int = 0
    folder: Path = field(default_factory=Path)
    dsn: str = ""
    steps: int = 0

    def version(self) -> str | None:
        """None without Java, too."""
        if not (self.program and shutil.which(self.program) and shutil.which("java")):
            return None
        said = subprocess.run([self.program, "--version"], check=False, capture_output=True, text=True)
        found = re.search(r"Liquibase Version: (\S+)", said.stdout)
        return found[1] if found else None

    def write(self, plan: Plan, folder: Path, dsn: str) -> None:
        """A YAML changelog; Liquibase's own splitting ends a statement at a semicolon inside ``$body$``, and takes only ``$$``."""
        self.folder, self.dsn, self.steps = folder, dsn, len(plan)
        lines = ["databaseChangeLog:"]
        for step in plan:
            for role, text in (("apply", step.apply), ("rollback", step.rollback)):
                script = Script.parse(text.encode(), Path(f"{step.name}.{role}.sql"))
                parts = "".join(f"{each.sql}\n{_DELIMITER}\n" for each in script.statements)
                (folder / f"{step.name}.{role}.sql").write_text(parts, encoding="utf-8")
            lines += [
                "- changeSet:",
                f"    id: {step.name}",
                "    author: bench",
                "    runInTransaction: false",
                f"    changes: [{{sqlFile: {self._file(step.name, 'apply')}}}]",
                f"    rollback: [{{sqlFile: {self._file(step.name, 'rollback')}}}]",
            ]
        (folder / "changelog.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def deploy(self) -> Ran:
        """``update``: there is no verify step."""
        return self.run([["update"]])

    def revert(self, limit_s: float = LIMIT_S) -> Ran:
        """``rollback-count``."""
        return self.run([["rollback-count", str(self.steps)]], limit_s)

    def ask(self) -> Ran:
        """``validate`` and ``status``."""
        return self.run([["validate"], ["status"]])

    def is_at_ease(self, asked: Ran) -> bool:
        """Both end with 0 and nothing is left to apply."""
        return asked.ok and "is up to date" in asked.output

    def run(self, commands: Sequence[Sequence[str]], limit_s: float = LIMIT_S) -> Ran:
        """Liquibase commands in turn, a JVM each."""
        parts = conninfo_to_dict(self.dsn)
        session = f"?options=-c%20lock_timeout={self.lock_timeout_ms}" if self.lock_timeout_ms else ""
        options = {
            "SEARCH_PATH": str(self.folder),
            "COMMAND_CHANGELOG_FILE": "changelog.yaml",
            "COMMAND_URL": f"jdbc:postgresql://{parts.get('host')}:{parts.get('port', 5432)}/{parts['dbname']}{session}",
            "COMMAND_USERNAME": str(parts.get("user")),
            "COMMAND_PASSWORD": str(parts.get("password") or "none"),
            "SHOW_BANNER": "false",
        }
        return run(
            [[str(self.program), *command] for command in commands],
            environment={f"LIQUIBASE_{key}": value for key, value in options.items()},
            folder=self.folder,
            limit_s=limit_s,
        )

    def _file(self, name: str, role: str) -> str:
        return (
            f"{{path: {name}.{role}.sql, relativeToChangelogFile: true, splitStatements: true, stripComments: false, "
            f'endDelimiter: "\\n{_DELIMITER}\\n"}}'
        )


def registry_left_out(text: str) -> bool:
    """True unless a difference is only about the tables that a tool keeps for itself."""
    return not re.search(r"\bsqitch\b|databasechangelog", text)


def edit(dsn: str, statement: str) -> int:
    """Forge something as superuser; the number of rows that it changed."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(statement.encode()).rowcount
