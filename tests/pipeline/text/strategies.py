"""Texts that hit the rules of the scan: fragments of every class of character, and any Unicode at all."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import strategies as st

FRAGMENTS = (
    *("a", "b", "Word", "Word's", "the", "of", "to", "DON’T", "1", "²", "x" * 30, "one two three four five six "),
    *(
        "的",
        "是",
        "国",
        "に",
        "ー",
        "カ",
        "ก",
        "ำ",
        "ກ",
        "က",
        "한",
        "글",
        "é",
        "e\u0301",
        "क्ष",
        "ς",
        "İ",
        "ß",
        "Ａ",
        "٣",
    ),
    *(" ", " ", " ", "  ", "\t", "\n", "\n", "\n\n", "\r\n", "\r", "\x0c", "\x85", "\u2028", "\xa0", "\u3000"),
    *(".", "...", "......", "…", ". ", "! ", "? ", "。", "！」", "؟ ", "। ", '"', "'", "’", "” ", "(", ")", "）"),
    *("#", "{", "}", "-", "* ", "• ", "・", "/", "_", "&", "<b>"),
    *("3 likes", "1,2M  Views", "٣ shares!", "Sign-in ", "items in cart", "Read more...", "CAPITALS ", "12345", "\r\n"),
    *(
        "国國",
        "囧",
        "锟斤拷",
        "涓枃鏂",
        "烫烫烫",
        "屯",
        "Ã©",
        "â€™",
        "Ã\xa0",
        "é\xa0»",
        "ô",
        "\xa0",
        "»",
        "ï¼Œ",
        "ð\x9f",
        "\ufffd",
        "\ue000",
        "\x92",
        "é",
    ),
    *("lorem ipsum ", "JavaScript ", "Privacy Policy ", "use of ", "cookies ", "terms of use "),
    *(
        "😀",
        "👩\u200d👩\u200d👧",
        "🇫🇷",
        "\u200b",
        "\u200d",
        "\u00ad",
        "\ufeff",
        "\x00",
        "\x7f",
        "\u0301",
        "\ufe0f",
        "שלום",
        "مرحبا",
        "\U000e0041",
    ),
)

fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)
# A few words over and over: n-grams, lines and paragraphs that repeat.
repetitive = st.lists(st.sampled_from(("aa ", "bbb ", "c ", "的", "\n", "\n\n")), max_size=120).map("".join)
texts = st.one_of(fragments, repetitive, st.text(max_size=40))


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array | pa.ChunkedArray:
    """String and large_string arrays, with nulls, slices and chunks."""
    kind = draw(st.sampled_from((pa.string(), pa.large_string())))
    chunks = [
        pa.array(draw(st.lists(st.one_of(st.none(), texts), max_size=4)), kind) for _ in range(draw(st.integers(0, 3)))
    ]
    chunks = [chunk[draw(st.integers(0, 1)) :] for chunk in chunks]
    return chunks[0] if len(chunks) == 1 and draw(st.booleans()) else pa.chunked_array(chunks, kind)
