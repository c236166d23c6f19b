"""The privacy stage with the real stage machinery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.stage import MASKED_RULE, MAXIMUM_RULE, Privacy
from pipeline.store import StageRef
from tests.pipeline.documents_stage import Documents, DocumentsConfig, content, run

TEXTS = [
    "write to jane.doe@mail.de or john@mail.de, tel 13812345678",
    "nothing to see",
    "x@y.de",
    "card 4111 1111 1111 1111, a@b.de",
    "a@b.de, b@c.de, c@d.de, d@e.de, 91.12.4.177",
    "",
]
VALUES = ["jane", "john", "13812345678", "x@y", "4111", "a@b", "b@c", "c@d", "d@e", "91.12"]


class Filtered(Documents):
    """Commits texts as the documents of a filter stage."""

    name = "filter"


def filtered(root: Path, *shards: list[str]) -> dict[str, StageRef]:
    return {"filter": run(Filtered(DocumentsConfig(shards=[*shards]), {}), root)[0]}


def rows(committed, kind: str) -> list[dict[str, Any]]:
    return [row for file in committed.files(kind) for row in file.table().to_pylist()]


def test_documents_are_masked_or_dropped(tmp_path: Path):
    inputs = filtered(tmp_path, TEXTS[:3], [], TEXTS[3:])
    config = PrivacyConfig(credit_card="drop", maximum_per_document=4)
    _, committed = run(Privacy(config, inputs), tmp_path)
    before = rows(inputs["filter"].committed(), "documents")
    after = rows(committed, "documents")
    assert [row["text"] for row in after] == [
        "write to <EMAIL> or <EMAIL>, tel <PHONE>",
        "nothing to see",
        "<EMAIL>",
        "",
    ]
    kept = [before[number] for number in (0, 1, 2, 5)]
    assert [{**row, "text": None} for row in after] == [{**row, "text": None} for row in kept]
    for file in committed.files("documents"):
        assert file.table().schema.equals(DOCUMENT_SCHEMA)
    by_id = {row["id"]: number for number, row in enumerate(before)}
    ledger = {by_id[row["id"]]: row for row in rows(committed, "ledger")}
    expected = {
        0: ("edited", MASKED_RULE, 3, None, len(TEXTS[0]) - len(after[0]["text"]), {"email": 2, "phone": 1}),
        2: ("edited", MASKED_RULE, 1, None, -1, {"email": 1}),
        3: ("dropped", "privacy.credit_card", 1, 0, len(TEXTS[3]), {"email": 1, "credit_card": 1}),
        4: ("dropped", MAXIMUM_RULE, 5, 4, len(TEXTS[4]), {"email": 4, "ip_address": 1}),
    }
    assert {
        number: (
            *tuple(row[name] for name in ("action", "rule", "value", "threshold", "bytes")),
            json.loads(row["detail"]),
        )
        for number, row in ledger.items()
    } == expected
    assert all(row["stage"] == "privacy" and row["source"].startswith("source-") for row in ledger.values())
    counts = committed.counts
    assert (counts["read"], counts["kept"], counts["dropped"], counts["edited"]) == (6, 4, 2, 2)
    assert counts["bytes_in"] == sum(map(len, TEXTS))
    assert counts["bytes_out"] == sum(len(row["text"]) for row in after)
    assert counts["bytes_in"] - counts["bytes_out"] == sum(row["bytes"] for row in ledger.values())
    assert (counts["privacy_email"], counts["privacy_phone"], counts["privacy_secret"]) == (8, 1, 0)
    summary = committed.manifest["summary"]
    assert summary["found_by_kind"]["email"] == 8
    assert summary["policy"]["credit_card"] == "drop"


def test_no_value_is_written_but_in_documents_that_keep_it(tmp_path: Path):
    inputs = filtered(tmp_path, TEXTS)
    ref, committed = run(Privacy(PrivacyConfig(maximum_per_document=4), inputs), tmp_path)
    written = "".join(str(row) for kind in ("ledger", "documents") for row in rows(committed, kind))
    written += "".join(path.read_text() for path in Path(ref.path).rglob("*.json"))
    assert "email" in written
    for value in VALUES:
        assert value not in written


def test_kept_kinds_and_languages(tmp_path: Path):
    inputs = filtered(tmp_path, TEXTS[:3])
    _, committed = run(Privacy(PrivacyConfig(email="keep", phone="keep"), inputs), tmp_path)
    assert [row["text"] for row in rows(committed, "documents")] == TEXTS[:3]
    assert rows(committed, "ledger") == []
    assert "email" not in committed.manifest["summary"]["found_by_kind"]
    _, committed = run(Privacy(PrivacyConfig(languages={"email": ["zh"]}), inputs), tmp_path)
    assert "jane.doe@mail.de" in rows(committed, "documents")[0]["text"]


def test_workers_and_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = filtered(tmp_path, TEXTS[:3], TEXTS[3:])
    _, one = run(Privacy(PrivacyConfig(), inputs), tmp_path / "one")
    _, two = run(Privacy(PrivacyConfig(), inputs), tmp_path / "two", workers=2)
    assert content(one) == content(two)
    monkeypatch.setattr("pipeline.annotate._BATCH_ROWS", 1)
    _, three = run(Privacy(PrivacyConfig(), inputs), tmp_path / "three")
    for kind in ("documents", "ledger"):
        assert rows(one, kind) == rows(three, kind)
    assert one.manifest["counts"] == three.manifest["counts"]


def test_an_empty_corpus(tmp_path: Path):
    inputs = filtered(tmp_path)
    _, committed = run(Privacy(PrivacyConfig(), inputs), tmp_path)
    assert committed.counts["read"] == 0
