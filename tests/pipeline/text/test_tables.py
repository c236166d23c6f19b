from __future__ import annotations

import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from pipeline.text import tables
from tests.pipeline.text import reference


def kind(char: str) -> int:
    return int(tables.TABLE[ord(char)] >> tables.CLASS_SHIFT) & tables.CLASS_MASK


def script(char: str) -> str:
    return tables.SCRIPTS[int(tables.TABLE[ord(char)]) >> tables.SCRIPT_SHIFT]


@pytest.mark.parametrize("plane", range(17))
def test_every_code_point_has_the_class_and_folding_of_its_category(plane: int):
    step = 1 if plane < 2 else 7
    for point in range(plane << 16, (plane + 1) << 16, step):
        char = chr(point)
        category = unicodedata.category(char)
        if char in "'’":
            expected = tables.APOSTROPHE
        elif reference.unspaced(char):
            expected = tables.UNSPACED
        elif category[0] in "LN":
            expected = tables.WORD
        elif category[0] == "M":
            expected = tables.MARK
        else:
            expected = tables.IGNORABLE if category == "Cf" and char != "\u200b" else tables.SEPARATOR
        assert kind(char) == expected, hex(point)
        if category[0] == "L":
            assert int(tables.TABLE[point]) & tables.FOLD_MASK == ord(reference.fold(char)), hex(point)
        traits = int(tables.TRAITS[point])
        assert bool(traits & tables.SPACE) == char.isspace(), hex(point)
        assert bool(traits & tables.ALPHABETIC) == char.isalpha(), hex(point)
        assert bool(traits & tables.LOWER) == (category == "Ll"), hex(point)


@pytest.mark.parametrize(
    ("chars", "name"),
    [
        ("aZéＡ", "Latin"),
        ("世々〇", "Han"),
        ("のゟ", "Hiragana"),
        ("カーｶｰ", "Katakana"),
        ("한ᄀ", "Hangul"),
        ("Жђ", "Cyrillic"),
        ("بپ", "Arabic"),
        ("ωΆ", "Greek"),
        ("กเ", "Thai"),
        ("ກ", "Lao"),
        ("ក", "Khmer"),
        ("က", "Myanmar"),
        ("क", "Devanagari"),
        ("ა", "Georgian"),
        ("אב", "Hebrew"),
        ("𗀀", "Tangut"),
        ("1٣ª#😀𝐀", "Common"),
        ("ߊ", "Other"),
    ],
)
def test_scripts(chars: str, name: str):
    assert {script(char) for char in chars if char != "ª"} == {name}


def test_tables_are_read_only_and_built_in_a_moment():
    for table in (tables.TABLE, tables.TRAITS):
        assert len(table) == 0x110000
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
    code = "import numpy, time; s = time.process_time(); import pipeline.text.tables; print(time.process_time() - s)"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert seconds < 0.3


def test_trait_bits_do_not_overlap():
    bits = [tables.SPACE, tables.ALPHABETIC, tables.LOWER, tables.TERMINATOR, tables.WIDE_TERMINATOR]
    bits += [tables.CLOSER, tables.QUOTE, tables.BULLET]
    assert np.bitwise_or.reduce(bits) == sum(bits) == 255
