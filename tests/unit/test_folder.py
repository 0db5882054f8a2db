"""The folder of a run: a record is there whole or not at all, and a repeated step finds the folder again."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comporta.errors import ConfigurationError
from comporta.reports.folder import RunFolder

STARTED = datetime(2028, 11, 20, 23, 59, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.make(tmp_path, "stage2", "run-1", STARTED)


def test_a_repeated_step_finds_the_folder_and_what_is_in_it(tmp_path: Path, folder: RunFolder) -> None:
    folder.write("clone", {"differences": []})
    again = RunFolder.make(tmp_path, "stage2", "run-1", STARTED)
    assert again == folder
    assert again.read("clone") == {"differences": []}


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("manual__2028-11-20T23:59:00+00:00", "stage2-manual__2028-11-20T23-59-00-00-00"),
        ("../../etc/passwd", "stage2-..-..-etc-passwd"),
        ("a b\n/c", "stage2-a-b--c"),
    ],
    ids=["airflow", "path", "blanks"],
)
def test_a_run_id_never_leaves_the_archives(tmp_path: Path, run_id: str, name: str) -> None:
    assert RunFolder.make(tmp_path, "stage2", run_id, STARTED).path == tmp_path / "2028-11-20" / name


def test_what_was_written_is_read_back(folder: RunFolder) -> None:
    record = {"name": "são", "seconds": 0.25, "none": None, "rows": [1, 2], "at": STARTED}
    folder.write("OPT1_apply", record)
    assert folder.read("OPT1_apply") == {**record, "at": "2028-11-20 23:59:00+00:00"}
    assert "são" in (folder.path / "OPT1_apply.json").read_text(encoding="utf-8")


def test_a_record_that_cannot_be_written_leaves_the_one_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("clone", {"take": 1})

    def power_cut(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="no space left"):
        folder.write("clone", {"take": 2})
    assert folder.read("clone") == {"take": 1}


def test_a_finished_record_leaves_no_part_behind(folder: RunFolder) -> None:
    folder.write("clone", {})
    assert [path.name for path in folder.path.iterdir()] == ["clone.json"]


def test_a_step_that_did_not_finish_is_named(folder: RunFolder) -> None:
    (folder.path / "clone.part").write_text(json.dumps({"half": 1}))
    assert not folder.has("clone")
    with pytest.raises(ConfigurationError, match=r"clone\.json is missing: the step that writes it did not finish"):
        folder.read("clone")
