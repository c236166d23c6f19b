from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from flows.explanation import print_explanation
from pipeline.catalog import build, explain
from pipeline.dedup.config import DedupConfig
from pipeline.store import Committed, StageRef
from tests.pipeline.dedup.corpora import Writer, deduplicate, shard

TEXT = Writer(1).write(60)
CHINESE = "水车从河里引水到田里，磨坊主人每天清晨打开闸门，让河水流进水渠，带动木轮慢慢转动。" * 2


def told(workspace: Path, key: str, **terminal: Any) -> str:
    console = Console(file=io.StringIO(), width=200, **terminal)
    print_explanation(console, explain(workspace, key))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents against those of an earlier run; ids are telling."""
    root = tmp_path_factory.mktemp("explanation")

    def page(texts: list[str], ids: list[str], source: str) -> pa.Table:
        table = shard(texts, source, [name.ljust(32, "0") for name in ids])
        urls = pa.array([f"https://{source}.org/{index}" for index in range(len(texts))])
        return table.set_column(table.schema.get_field_index("url"), table.schema.field("url"), urls)

    old = deduplicate([page([" ".join(TEXT), CHINESE], ["a01d", "a02d"], "old")], root)
    changed = [*TEXT[:30], "\x1b[31mcommand", *TEXT[31:]]
    copies = [f"{' '.join(Writer(2).write(80))}. {number}" for number in range(12)]
    new = deduplicate(
        [
            page([" ".join(changed), CHINESE.replace("河水", "溪水", 1)], ["b01d", "b02d"], "new"),
            page(copies, [f"c{number:03d}" for number in range(12)], "copies"),
        ],
        root,
        DedupConfig(),
        known=old["duplicates"],
    )
    build(root, new, reference(old["duplicates"]))
    return root


def reference(committed: Committed) -> StageRef:
    return StageRef(committed.name, committed.fingerprint, committed.path)


def test_a_duplicate_of_a_known_document(workspace: Path) -> None:
    shown = told(workspace, "b01d")
    assert "dropped by deduplicate, rule near_duplicate" in shown
    assert re.search(r"Duplicate: \d\d\.\d% of its words lie in shingles that the twin has, too", shown)
    assert "a01d" + "0" * 28 in shown
    assert "https://old.org/0" in shown
    assert "from an earlier run" in shown
    for measure in ("estimated by MinHash", "Jaccard", "words in shingles of the twin", "shingles that the twin holds"):
        assert re.search(rf"{measure}.* 0\.\d{{3}}", shown), measure
    assert f"{TEXT[29]} [-\ufffd[31mcommand-] {{+{TEXT[30]}+}} {TEXT[31]}" in shown
    assert "\x1b" not in shown


def test_changes_are_in_colours(workspace: Path) -> None:
    shown = told(workspace, "b01d", force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[9;31m\[-\ufffd\[31mcommand-\]\x1b\[0m", shown)
    assert f"\x1b[32m{{+{TEXT[30]}+}}\x1b[0m" in shown


def test_a_chinese_pair_by_characters(workspace: Path) -> None:
    assert "[-溪-]{+河+}水" in told(workspace, "b02d")


def test_a_kept_document_lists_the_copies_that_went(workspace: Path) -> None:
    kept = next(row for number in range(12) if (row := told(workspace, f"c{number:03d}")) and "kept to the end" in row)
    assert "11 duplicates went because this one stayed" in kept
    assert len(re.findall(r"^│ c\d{3}00000000", kept, re.MULTILINE)) == 8
    assert "and 3 more" in kept
    gone = next(row for number in range(12) if "Duplicate:" in (row := told(workspace, f"c{number:03d}")))
    assert re.search(r"outcome +kept to the end", gone)


def test_a_known_document(workspace: Path) -> None:
    shown = told(workspace, "https://old.org/0")
    assert "a document of an earlier run" in shown
    assert "One duplicate went because this one stayed" in shown
    assert "Decisions" not in shown
