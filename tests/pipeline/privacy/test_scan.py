"""The search on arbitrary bytes, against regular expressions, and on long runs."""

from __future__ import annotations

import ipaddress

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.kinds import KINDS
from pipeline.privacy.masking import find, mask
from pipeline.privacy.network import SPECIAL_IPV4
from pipeline.privacy.scan import ALL_KINDS, search
from pipeline.text.arrow import large_strings
from tests.pipeline.privacy import reference

CONFIG = PrivacyConfig()
PIECES = [
    *(
        "a",
        "x@y.com",
        "@",
        ".",
        "-",
        "+",
        " ",
        "(",
        ")",
        "/",
        ":",
        "::",
        "=",
        "'",
        '"',
        "_",
        ",",
        "1",
        "86",
        "13812345678",
    ),
    *("91.12.4.177", "415", "4111 1111 1111 1111", "DE89", "3704", "-----BEGIN ", "PRIVATE KEY-----", "ghp_", "eyJ"),
    *(
        "password",
        "Tel",
        "card",
        "\0",
        "\n",
        "电话",
        "，",
        "１",
        "＠",
        "．",
        "é",
        "\u00a0",
        "\u2010",
        "2001:db8::",
        "Z",
        "X",
    ),
]
SPECIAL = [ipaddress.ip_network(f"{network}/{prefix}") for network, prefix in SPECIAL_IPV4]


def raw(*texts: bytes) -> pa.Array:
    """Texts of bytes that may be no UTF-8."""
    return large_strings(np.cumsum([0, *map(len, texts)]), np.frombuffer(b"".join(texts), np.uint8))


def rows(findings) -> list[tuple[int, int, int, int]]:
    columns = (findings.documents, findings.kinds, findings.starts, findings.ends)
    return [*zip(*(column.tolist() for column in columns), strict=True)]


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(PIECES)).map(lambda p: "".join(p).encode())))
)
def test_a_text_is_searched_alone_whatever_its_bytes(texts: list[bytes]):
    together = rows(find(raw(*texts), CONFIG))
    alone = [(number, *row[1:]) for number, text in enumerate(texts) for row in rows(find(raw(text), CONFIG))]
    assert together == alone
    last = (-1, 0)
    for document, kind, start, end in together:
        assert 0 <= start < end <= len(texts[document])
        assert 0 <= kind < len(KINDS)
        assert (document, start) >= last  # in order, without overlaps
        last = (document, end)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, 60))
def test_what_lies_outside_of_a_text_does_not_matter(pieces: list[str], cut: int):
    text = "".join(pieces).encode()
    whole = pa.array([b"12@a.b" + text + b"@b.com3812345678"], pa.large_binary())
    data = np.frombuffer(whole.buffers()[2], np.uint8)
    start, end = 6, 6 + len(text) - min(cut, len(text))
    inside = large_strings(np.array([start, end]), data)
    assert rows(find(inside, CONFIG)) == rows(find(raw(text[: end - start]), CONFIG))


@given(
    st.lists(st.sampled_from([*"ab1.-_+@ ,:<>\n", "a@b.com", "x.y@host.co.uk", "电", "，"]), max_size=40).map("".join)
)
@example("a@b.comx.y@host.co.uk")
def test_email_addresses_agree_with_a_regular_expression(text: str):
    expected = [match.span() for match in reference.EMAIL.finditer(text) if len(match[0].split("@")[0]) <= 64]
    mine = [
        (len(text.encode()[:start].decode()), len(text.encode()[:end].decode()))
        for _, kind, start, end in rows(search(pa.array([text], pa.large_string()), np.array([ALL_KINDS]), True))
        if KINDS[kind] == "email"
    ]
    # The expression is stricter about what stands around an address: each of its matches is one of ours, unless one of
    # ours that begins earlier overlaps it (a@b.com.x@y.de).
    for start, end in {*expected} - {*mine}:
        assert any(earlier < start < stop for earlier, stop in mine), text[start:end]
    for start, end in mine:
        local, domain = text[start:end].split("@")
        assert local[0] not in ".-+"
        assert ".." not in text[start:end]
        assert domain.rpartition(".")[2].isalpha()


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*". ,;-", "电", "x", "0", "\n"]),
            st.integers(0, 300).map(str),
            st.ip_addresses(v=4).map(str),
        ),
        max_size=25,
    ).map("".join)
)
def test_ipv4_addresses_agree_with_a_regular_expression(text: str):
    expected = []
    for match in reference.IPV4.finditer(text):
        address = ipaddress.ip_address(match[0])
        octets = address.packed
        if not any(address in network for network in SPECIAL) and max(octets) >= 32 and octets[2:] != b"\0\0":
            expected.append(match.span())
    mine = [
        (len(text.encode()[:start].decode()), len(text.encode()[:end].decode()))
        for _, kind, start, end in rows(find(pa.array([text], pa.large_string()), CONFIG))
        if KINDS[kind] == "ip_address"
    ]
    assert set(expected) <= set(mine)
    assert {text[start:end] for start, end in mine} <= {match[0] for match in reference.IPV4_ALONE.finditer(text)}


@given(st.ip_addresses(v=6), st.booleans())
def test_ipv6_addresses_of_somebody_are_found(address: ipaddress.IPv6Address, full: bool):
    number = (int(address) & ((1 << 124) - 1)) | (0x2 << 124)
    address = ipaddress.IPv6Address(number)
    text = address.exploded if full else str(address)
    first, second = number >> 112, (number >> 96) & 0xFFFF
    nobody = first == 0x2001 and (second < 0x200 or second == 0xDB8)
    nobody |= "::" in text and len([group for group in text.split(":") if group]) < 3  # a range, or a name in code
    assert reference.found(f"at {text}, port") == ([] if nobody else [("ip_address", text)])


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "@",
            "a@",
            "1 ",
            "1.1.1.",
            "::",
            "a:",
            "sk-",
            "token=",
            "-----BEGIN PRIVATE KEY-----",
            ".eyJ",
            "１",
            "-",
        ),
        *("call 1234567 ", "GB82 ", "a.", "(0", "＠"),
    ],
)
def test_long_runs_end(piece: str):
    size = 5_000_000 if len(piece) == 1 and piece.isascii() else 300_000
    text = (piece * (size // len(piece.encode()))).encode()
    findings = find(raw(text), CONFIG)
    half = find(raw(text[: len(text) // 2]), CONFIG)
    assert len(findings) <= 2 * len(half) + 2


def test_empty_texts_nulls_slices_and_types():
    texts = pa.array(["", None, "a@b.de", "x", "c@d.de"])
    assert rows(find(texts, CONFIG)) == [(2, KINDS.index("email"), 0, 6), (4, KINDS.index("email"), 0, 6)]
    assert rows(find(texts.slice(2, 2), CONFIG)) == [(0, KINDS.index("email"), 0, 6)]
    chunked = pa.chunked_array([texts.slice(0, 3), texts.slice(3)])
    assert rows(find(chunked, CONFIG)) == rows(find(texts, CONFIG))
    assert len(find(pa.array([], pa.string()), CONFIG)) == 0
    masked, counts = mask(texts, CONFIG)
    assert masked.to_pylist() == ["", "", "<EMAIL>", "x", "<EMAIL>"]
    assert counts.shape == (5, len(KINDS))
    with pytest.raises(TypeError, match="expected an Arrow array of string"):
        find(pa.array([1]), CONFIG)
