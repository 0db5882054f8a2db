"""The newest PostgreSQL that has every extension is chosen; a missing extension is said, not met later."""

from __future__ import annotations

from pathlib import Path

import pytest

from comporta.local.cluster import REQUIRED_EXTENSIONS, ServerProgramsMissing, find_programs


def install(root: Path, share: Path, major: str, *, without: str = "") -> None:
    (root / major / "bin").mkdir(parents=True)
    (root / major / "bin" / "initdb").touch()
    (share / major / "extension").mkdir(parents=True)
    for name in REQUIRED_EXTENSIONS:
        if name != without:
            (share / major / "extension" / f"{name}.control").touch()


def test_the_newest_complete_version_is_chosen(tmp_path: Path) -> None:
    """Version 9 is older than 15, whatever the alphabet says; 17 lacks an extension."""
    root, share = tmp_path / "lib", tmp_path / "share"
    install(root, share, "9")
    install(root, share, "15")
    install(root, share, "17", without="pg_cron")
    assert find_programs(root, share) == root / "15" / "bin"


def test_no_complete_version_is_an_error_that_names_what_was_found(tmp_path: Path) -> None:
    """The way out is in the message."""
    root, share = tmp_path / "lib", tmp_path / "share"
    install(root, share, "15", without="postgis")
    with pytest.raises(ServerProgramsMissing, match=r"versions found: 15\)\n.*make packages"):
        find_programs(root, share)
