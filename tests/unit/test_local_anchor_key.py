"""``make run`` gives a ledger a key, once, and keeps the anchors of one that is gone."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from comporta.local.layout import Layout
from comporta.local.start import Starter


def test_a_key_is_made_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    starter = Starter(layout, rows=1, console=Console())
    starter._make_anchor_key()
    first = layout.anchor_key.read_bytes()
    starter._make_anchor_key()
    assert layout.anchor_key.read_bytes() == first
    assert layout.anchors.read_bytes() == b""


def test_after_a_clean_start_the_old_anchors_lie_beside_the_new_ones(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    starter = Starter(layout, rows=1, console=Console())
    starter._make_anchor_key()
    layout.anchors.write_text("signed\n")
    layout.anchor_key.unlink()
    starter._make_anchor_key()
    assert layout.anchors.read_bytes() == b""
    (kept,) = layout.anchors.parent.glob("until-*/ledger.jsonl")
    assert kept.read_text() == "signed\n"
