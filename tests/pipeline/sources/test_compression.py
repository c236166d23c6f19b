from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import random
import zlib
from pathlib import Path

import pytest

from pipeline.sources.compression import Damage, Piece, Place, Raw, detect, find_frames, read_pieces
from pipeline.sources.config import MIB, Limits
from pipeline.sources.content import BEGINNING
from tests.pipeline.sources.helpers import PACKERS, gz, zstd

CONTENT = b"".join(b"line %d of the content\n" % number for number in range(300))
COMPRESSION = {name: "none" if name == "plain" else name.partition("-")[0] for name in PACKERS}


def raw_of(data: bytes) -> Raw:
    return Raw(io.BytesIO(data), len(data))


def pieces(data: bytes, start: Place = BEGINNING, end: Place | None = None, limits: Limits | None = None):
    return list(read_pieces(raw_of(data), detect(data[:16]), start, end, limits or Limits()))


def joined(items) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, Piece))


def damages(items) -> list[Damage]:
    return [item for item in items if isinstance(item, Damage)]


@pytest.mark.parametrize("packer", PACKERS)
def test_every_compression_is_seen_and_undone(packer: str):
    data = PACKERS[packer](CONTENT)
    assert detect(data[:16]) == COMPRESSION[packer]
    items = pieces(data)
    assert joined(items) == CONTENT
    assert not damages(items)


@pytest.mark.parametrize("packer", PACKERS)
def test_places_are_the_same_from_wherever_reading_begins(packer: str):
    data = PACKERS[packer](CONTENT)
    by_place: dict[Place, int] = {}
    for item in pieces(data):
        for index, byte in enumerate(item.data):
            by_place[Place(item.place.frame, item.place.inner + index)] = byte
    places = sorted(by_place)
    assert bytes(by_place[place] for place in places) == CONTENT
    for begin, end in ((10, 5000), (1234, 1235), (0, 2000), (4000, len(places) - 1)):
        assert joined(pieces(data, places[begin], places[end])) == CONTENT[begin:end]


def test_archives_are_refused_by_name():
    for head, name in ((b"PK\x03\x04", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"\x04\x22\x4d\x18", "lz4")):
        with pytest.raises(ValueError, match=name):
            detect(head + b"0" * 12)


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "zstd", "xz"])
@pytest.mark.parametrize("lost", [0.7, 0.1, 0.001, 0.0])
def test_truncation_keeps_what_was_read(packer: str, lost: float):
    content = CONTENT * 20 + random.Random(1).randbytes(150_000) + CONTENT * 20
    data = PACKERS[packer](content)
    data = data[: len(data) - 1 - int(len(data) * lost)]
    items = pieces(data)
    (damage,) = damages(items)
    assert damage.rule == "truncated_stream"
    assert content.startswith(joined(items))
    assert damage.place == Place(0, len(joined(items)))
    if packer in ("gzip", "zstd"):  # the others decode blocks of up to 900 KB
        assert joined(items) == reference_prefix(packer, data)


def test_what_stands_before_a_broken_place_is_kept():
    choose = random.Random(1)
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31, 1)  # in small blocks, so that a broken header comes soon
    data = bytearray(deflate.compress(b"".join(b"%d " % choose.randrange(10**6) for _ in range(50_000))))
    data[len(data) // 2 :] = choose.randbytes(len(data) // 2)
    items = pieces(bytes(data))
    assert [damage.rule for damage in damages(items)][:1] == ["broken_stream"]
    inflate, expected, rest = zlib.decompressobj(31), [], bytes(data)
    with contextlib.suppress(zlib.error):
        while rest:
            expected.append(inflate.decompress(rest, 1))
            rest = inflate.unconsumed_tail
    got = joined(items)
    assert b"".join(expected).startswith(got)
    assert len(got) > 100_000
    assert len(b"".join(expected)) - len(got) < 256


def reference_prefix(packer: str, data: bytes) -> bytes:
    """All that another decoder gives of cut-off data."""
    if packer == "gzip":
        return zlib.decompressobj(31).decompress(data)
    from fastwarc.stream_io import ZstdReader

    reader, out = ZstdReader(io.BytesIO(data)), []
    with contextlib.suppress(OSError):
        while byte := reader.read(1):
            out.append(byte)
    return b"".join(out)


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "zstd", "xz"])
def test_frames_of_many_blocks_follow_one_another(packer: str):
    content = [b"x" * 3_000_000, random.Random(1).randbytes(500_000), b"", CONTENT * 200, b"y" * MIB, b"z" * 2 * MIB]
    items = pieces(b"".join(map(PACKERS[packer], content)), limits=Limits(max_decompression_ratio=1e9))
    assert not damages(items)
    assert joined(items) == b"".join(content)
    assert max(len(item.data) for item in items) <= MIB


@pytest.mark.parametrize("packer", ["gzip-members", "bzip2-streams", "zstd-frames"])
def test_a_broken_frame_costs_itself(packer: str):
    frames = [PACKERS[packer.partition("-")[0]](CONTENT[start : start + 700]) for start in range(0, len(CONTENT), 700)]
    frames[3] = frames[3][:-9] + bytes(byte ^ 0xFF for byte in frames[3][-9:])
    data = b"".join(frames)
    items = pieces(data)
    (damage,) = damages(items)
    assert damage.rule == "broken_stream"
    assert damage.place.frame == len(b"".join(frames[:3]))
    got = joined(items)
    assert got.startswith(CONTENT[:2100])
    assert got.endswith(CONTENT[2800:])


def test_bytes_between_frames_are_damage_and_padding_is_not():
    data = gz(b"one\n") + b"garbage" + gz(b"two\n")
    items = pieces(data)
    assert joined(items) == b"one\ntwo\n"
    assert [damage.rule for damage in damages(items)] == ["broken_stream"]
    padded = pieces(gz(b"one\n") + b"\0" * 512)
    assert joined(padded) == b"one\n"
    assert not damages(padded)


def test_empty_frames_are_passed():
    for pack in (gz, bz2.compress, zstd, lzma.compress):
        items = pieces(pack(b"") + pack(b"a") + pack(b"") + pack(b"b") + pack(b""))
        assert joined(items) == b"ab"
        assert not damages(items)


def test_skippable_zstd_frames_are_passed():
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    assert joined(pieces(skippable + zstd(b"a") + skippable + zstd(b"b"))) == b"ab"


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "zstd", "xz"])
def test_bombs_are_stopped(packer: str):
    data = PACKERS[packer](bytes(40 * MIB))
    items = pieces(data)
    assert [damage.rule for damage in damages(items)] == ["decompression_limit"]
    assert len(joined(items)) <= 18 * MIB
    (damage,) = damages(items)
    assert damage.value is not None
    assert damage.threshold == 300
    assert damage.value > damage.threshold
    items = pieces(data, limits=Limits(max_decompressed_bytes=2 * MIB))
    assert [damage.threshold for damage in damages(items)] == [2 * MIB]
    assert len(joined(items)) <= 4 * MIB


def test_a_stream_behind_a_bomb_is_read():
    for pack in (gz, bz2.compress, zstd):
        items = pieces(pack(bytes(20 * MIB)) + pack(b"after"))
        assert joined(items).endswith(b"after")
        assert len(damages(items)) == 1


@pytest.mark.parametrize("packer", ["gzip-members", "bzip2-streams", "zstd-frames"])
def test_frames_are_found_from_any_offset(packer: str):
    pack = PACKERS[packer.partition("-")[0]]
    frames = [pack(CONTENT[start : start + 700]) for start in range(0, len(CONTENT), 700)]
    starts = [len(b"".join(frames[:index])) for index in range(len(frames))]
    data = b"".join(frames)
    raw = raw_of(data)
    for target in range(1, len(data), 7):
        expected = [start for start in starts if start >= target][:1]
        assert find_frames(raw, detect(data), [target]) == expected
    assert find_frames(raw, detect(data), [1, 2, len(data) // 2]) == [
        starts[1],
        next(start for start in starts if start >= len(data) // 2),
    ]


def test_a_gzip_file_inside_a_member_is_no_beginning():
    """A member may hold a gzip file as it stands, in a stored block: a search for headers alone would split it."""
    inner = b"".join(gz(b"inner %d\n" % number) for number in range(50))
    stored = zlib.compressobj(0, zlib.DEFLATED, 31)
    outer = stored.compress(inner) + stored.flush()
    assert inner in outer
    data = gz(b"first\n") + outer + gz(b"last\n" * 3)
    assert find_frames(raw_of(data), "gzip", [25]) == [len(gz(b"first\n"))]
    inside = data.index(inner)
    assert find_frames(raw_of(data), "gzip", [inside]) == [len(data) - len(gz(b"last\n" * 3))]
    assert joined(pieces(data)) == b"first\n" + inner + b"last\n" * 3


def test_reading_a_file_that_shrinks_is_an_error(tmp_path: Path):
    raw = Raw(io.BytesIO(b"short"), 100)
    with pytest.raises(OSError, match="shorter"):
        list(read_pieces(raw, "none", Place(0, 0), None, Limits()))
