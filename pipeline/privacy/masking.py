"""Finding and masking in Arrow arrays: the public functions of the package."""

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.kinds import KINDS
from pipeline.privacy.scan import Findings, search
from pipeline.text.arrow import large_strings, utf8_view


def _array(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _allowed(config: PrivacyConfig, documents: int, languages: pa.Array | pa.ChunkedArray | None) -> NDArray[np.int64]:
    """The kinds that count in each document, as bits: (documents,)."""
    allowed = np.zeros(documents, np.int64)
    for code, kind in enumerate(KINDS):
        if config.policy(kind) == "keep":
            continue
        if kind in config.languages:
            if languages is None:
                raise ValueError(
                    f"privacy.languages restricts {kind}, but the languages of the documents are not given"
                )
            within = pc.is_in(_array(languages), pa.array(config.languages[kind], pa.string()))
            allowed |= within.to_numpy(zero_copy_only=False).astype(np.int64) << code
        else:
            allowed |= 1 << code
    return allowed


def find(
    texts: pa.Array | pa.ChunkedArray,
    config: PrivacyConfig,
    languages: pa.Array | pa.ChunkedArray | None = None,
) -> Findings:
    """All matches of the kinds that are not kept, in the order of the texts; they do not overlap.

    `languages` (texts,) of strings are needed where the configuration restricts kinds to some. Nulls are empty texts.
    Raises ValueError where they are missing, TypeError where `texts` is neither string nor large_string.
    """
    texts = _array(texts)
    return search(texts, _allowed(config, len(texts), languages), config.public_addresses_only)


@numba.njit(nogil=True, cache=True)
def _copy(data: NDArray[np.uint8], begin: np.int64, end: np.int64, out: NDArray[np.uint8], at: np.int64) -> np.int64:
    for position in range(begin, end):
        out[at + position - begin] = data[position]
    return at + end - begin


@numba.njit(nogil=True, cache=True)
def _replace(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    documents: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    begins: NDArray[np.int64],
    stops: NDArray[np.int64],
    masks: NDArray[np.uint8],
    mask_offsets: NDArray[np.int64],
    offsets: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    at, match = np.int64(0), np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        position = starts[document]
        while match < len(documents) and documents[match] == document:
            at = _copy(data, position, starts[document] + begins[match], out, at)
            kind = kinds[match]
            at = _copy(masks, mask_offsets[kind], mask_offsets[kind + 1], out, at)
            position = starts[document] + stops[match]
            match += 1
        at = _copy(data, position, ends[document], out, at)
        offsets[document + 1] = at


def replace(texts: pa.Array, findings: Findings, config: PrivacyConfig) -> pa.Array:
    """The texts (large_string) with the matches of the kinds that are masked replaced; all other bytes are the same."""
    codes = [code for code, kind in enumerate(KINDS) if config.policy(kind) == "mask"]
    masked = np.isin(findings.kinds, codes)
    if not masked.any():
        return (
            texts.cast(pa.large_string()) if texts.null_count == 0 else pc.fill_null(texts.cast(pa.large_string()), "")
        )
    masks = [config.mask_of(kind).encode() for kind in KINDS]
    mask_offsets = np.cumsum([0, *(len(mask) for mask in masks)])
    view = utf8_view(texts)
    kinds, begins, stops = findings.kinds[masked], findings.starts[masked], findings.ends[masked]
    size = int((view.ends - view.starts).sum() - (stops - begins).sum() + np.diff(mask_offsets)[kinds].sum())
    out, offsets = np.empty(size, np.uint8), np.empty(len(texts) + 1, np.int64)
    _replace(
        *view,
        findings.documents[masked],
        kinds,
        begins,
        stops,
        np.frombuffer(b"".join(masks), np.uint8),
        mask_offsets,
        offsets,
        out,
    )
    return large_strings(offsets, out)


def mask(
    texts: pa.Array | pa.ChunkedArray,
    config: PrivacyConfig,
    languages: pa.Array | pa.ChunkedArray | None = None,
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The texts with their masks, and the matches by document and kind: (texts, kinds), the kinds dropped included.

    A text without a match is the same, byte for byte; nulls become empty texts. Raises as `find` does.
    """
    texts = _array(texts)
    findings = find(texts, config, languages)
    return replace(texts, findings, config), findings.counts(len(texts))
