"""Masks: what is replaced, and that nothing else is touched."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.privacy.config import EXAMPLES, PrivacyConfig
from pipeline.privacy.kinds import KINDS
from pipeline.privacy.masking import find, mask

TEXTS = [
    "write to a@b.de or 13812345678，谢谢",
    "nothing here — 这里没有",
    "91.12.4.177 and 4111 1111 1111 1111, GB82 WEST 1234 5698 7654 32, 11010519491231002X",
    'x@y.org, password = "hunter2Xy9"',
    "",
]
pieces = st.sampled_from(["a@b.de", "13812345678", " ", "，", "x", "91.12.4.177", "é", "\n", "1", '"', "密码", "."])


def test_tags():
    masked, counts = mask(pa.array(TEXTS), PrivacyConfig())
    assert masked.to_pylist() == [
        "write to <EMAIL> or <PHONE>，谢谢",
        TEXTS[1],
        "<IP_ADDRESS> and <CREDIT_CARD>, <IBAN>, <NATIONAL_ID>",
        '<EMAIL>, password = "<SECRET>"',
        "",
    ]
    assert counts.sum(axis=1).tolist() == [2, 0, 4, 2, 0]
    assert dict(zip(KINDS, counts.sum(axis=0).tolist(), strict=True)) == {
        "secret": 1,
        "email": 2,
        "ip_address": 1,
        "iban": 1,
        "national_id": 1,
        "credit_card": 1,
        "phone": 1,
    }


def test_examples_and_own_masks():
    config = PrivacyConfig(replacement="example", masks={"phone": "…"}, credit_card="keep")
    masked, _ = mask(pa.array(TEXTS), config)
    assert masked[0].as_py() == "write to email@example.com or …，谢谢"
    assert masked[2].as_py().startswith("192.0.2.1 and 4111 1111 1111 1111, XX00")


def test_masks_are_found_no_more():
    for config in (PrivacyConfig(), PrivacyConfig(replacement="example")):
        masked, _ = mask(pa.array(TEXTS), config)
        again, counts = mask(masked, config)
        assert counts.sum() == 0
        assert again.equals(masked)
    assert len(find(pa.array(list(EXAMPLES.values())), PrivacyConfig())) == 0


@given(
    st.lists(st.lists(pieces).map("".join), max_size=5), st.sampled_from(["", "M", "<a longer mask than any match>"])
)
def test_only_the_matches_change(texts: list[str], tag: str):
    config = PrivacyConfig(masks=dict.fromkeys(KINDS, tag))
    array = pa.array(texts, pa.large_string())
    findings = find(array, config)
    masked, counts = mask(array, config)
    for number, text in enumerate(texts):
        data, expected, position = text.encode(), b"", 0
        for document, start, end in zip(findings.documents, findings.starts, findings.ends, strict=True):
            if document == number:
                expected += data[position:start] + tag.encode()
                position = end
        assert masked[number].as_py().encode() == expected + data[position:]
        assert counts[number].sum() == (findings.documents == number).sum()


def test_kinds_of_some_languages():
    config = PrivacyConfig(languages={"phone": ["zh", "yue"]})
    texts = pa.array(["13812345678 a@b.de", "13812345678 a@b.de", "13812345678"])
    masked, _ = mask(texts, config, pa.array(["zh", "en", None]))
    assert masked.to_pylist() == ["<PHONE> <EMAIL>", "13812345678 <EMAIL>", "13812345678"]
    with pytest.raises(ValueError, match=r"privacy\.languages restricts phone"):
        mask(texts, config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phone": "hide"}, "'mask', 'drop' or 'keep'"),
        ({"maximum_per_document": -1}, "greater than or equal to 0"),
        ({"masks": {"phones": "x"}}, "Input should be"),
        ({"phone": "keep", "masks": {"phone": "x"}}, "phone is kept"),
        ({"phone": "drop", "masks": {"phone": "x"}}, "never used"),
        ({"phone": "keep", "languages": {"phone": ["zh"]}}, "phone is kept"),
        ({"fax": "mask"}, "Extra inputs"),
    ],
)
def test_wrong_settings(values: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        PrivacyConfig(**values)
