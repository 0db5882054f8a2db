"""`comporta lint`: squawk over every script, as a pre-filter. The dry run carries what no static check can see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comporta.errors import ConfigurationError

# Rules that do not hold for change scripts, each with its reason.
EXCLUDED_RULES = {
    "prefer-robust-stmts": "scripts are resumed through comporta.step, not through IF EXISTS on every statement",
    "require-timeout-settings": "with_lock sets a timeout for each lock, and the runner for the session",
    "ban-drop-table": "a rollback drops what its change added",
    "ban-drop-function": "a rollback drops what its change added; the dry run names what a change took away",
    "ban-drop-schema": "a change drops the schema that it worked in, once that is empty",
}


@dataclass(frozen=True)
class LintFinding:
    """One finding of the linter: where, which rule, what it says, and its cure."""

    file: str
    line: int
    rule: str
    level: str
    message: str
    cure: str


def lint(files: Sequence[Path]) -> list[LintFinding]:
    """Run squawk over ``files``; an empty list means that it has nothing to say."""
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ConfigurationError(f"no such file: {', '.join(missing)}", remedy="Check the path.")
    command = [
        _squawk(), "--reporter=json", "--pg-version=15", "--no-error-on-unmatched-pattern",
        f"--exclude={','.join(EXCLUDED_RULES)}", *map(str, files),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        found = json.loads(done.stdout or "[]")
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"squawk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}",
            remedy="Install the pinned squawk-cli.",
        ) from error
    return [
        LintFinding(
            file=item["file"],
            line=int(item["line"]) + 1,
            rule=item["rule_name"],
            level=str(item["level"]).lower(),
            message=item["message"],
            cure=item.get("help") or "",
        )
        for item in found
    ]


def _squawk() -> str:
    beside_python = Path(sys.executable).with_name("squawk")
    found = str(beside_python) if beside_python.exists() else shutil.which("squawk")
    if not found:
        raise ConfigurationError("squawk was not found", remedy="pip install the pinned squawk-cli.")
    return found
