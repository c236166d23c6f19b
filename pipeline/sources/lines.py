"""Lines of a part's content, with a bound on their length; the ground of the JSONL and text readers."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.sources.content import Run


def first_line(content: bytes) -> int:
    """Return where the first line behind a line break begins, or -1."""
    return content.find(b"\n") + 1 or -1


def lines(run: Run, longest: int) -> Iterator[tuple[int, bytes | int]]:
    """Yield the offset in the run and the bytes of each line, without its line break.

    A line of more than `longest` bytes is not kept: its length stands in its place. The last line, where no line break
    ends it, is yielded only if the run ends with the file and not with damage.
    """
    offset, length = 0, 0  # of the line that has begun
    begun: list[bytes] = []  # its bytes so far, as long as they are not too many
    for piece in run:
        block = piece.data
        cut = block.rfind(b"\n")
        if cut >= 0:
            first = block.find(b"\n")
            length += first
            yield offset, b"".join([*begun, block[:first]]) if length <= longest else length
            offset += length + 1
            if cut > first:
                for line in block[first + 1 : cut].split(b"\n"):
                    yield offset, line if len(line) <= longest else len(line)
                    offset += len(line) + 1
            block, begun, length = block[cut + 1 :], [], 0
        length += len(block)
        if length > longest:
            begun = []
        elif block:
            begun.append(block)
    if run.damage is None and length:
        yield offset, b"".join(begun) if length <= longest else length
