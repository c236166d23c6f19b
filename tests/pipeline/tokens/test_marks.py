from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.execution import run_stage
from pipeline.stage import StageError
from pipeline.store import Committed, StageRef, Store
from pipeline.text.arrow import utf8_view
from pipeline.text.sentences import sentence_starts
from pipeline.text.words import SEGMENTERS, WORD_START, word_flags
from pipeline.tokens.encoding import Encoded, ReferenceEncoder
from pipeline.tokens.marks import Marks, MarksConfig, mark_tokens, marks_of, text_flags
from pipeline.tokens.spans import TokensMismatch, load_aligner
from pipeline.tokens.stages import TokenizerConfig
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.tokens.wordpiece import train_wordpiece
from tests.pipeline.tokens.corpus import committed_documents, make_documents
from tests.pipeline.tokens.test_stages import tokenize, train

PARTS = [
    *("The end. ", "Don't ", "naïve ", "我们在北京。", "但是", "東京で", "한국어 ", "हिन्दी। ", "<|mask|>", "a", "."),
    *("\n\n", "  ", "🙂👩\u200d🚀", "e\u0301", "\u00ad", "\0", "\ufffd"),
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, bytes]:
    texts = [document["text"] for document in make_documents(60)] + ["The end. Don't naïve 我们 在 北京 。 但是"] * 20
    return {"bpe": train_tokenizer(texts, 800, "o200k")[0], "wordpiece": train_wordpiece(texts, 800)[0]}


def plain_marks(text: str, places: list[tuple[int, int]], gaps: bool) -> list[int]:
    """The marks by their definition, one token after another; `places` are the tokens' bytes."""
    view = utf8_view(pa.array([text], pa.large_string()))
    words = {int(at) for at in np.flatnonzero(word_flags(view, SEGMENTERS["jieba"])[0] & WORD_START)}
    sentences = sentence_starts(pa.array([text], pa.large_string()))[1].tolist()
    data, marks, end_before, blank_before = text.encode(), [], 0, False
    blanks = {at for at, char in enumerate(character_of(text)) if char.isspace()}
    for start, end in places:
        inside = [at for at in range(start, end) if at not in blanks]
        word = (inside[0] in words and start >= end_before) if inside else not blank_before
        begun = [at for at in sentences if (end_before if gaps else start) <= at < end]
        marks.append(int(word) + 2 * bool(begun))
        blank_before, end_before = not inside, max(end, end_before)
    assert len(data) >= end_before
    return [3, *marks[1:]] if marks else []


def character_of(text: str) -> list[str]:
    """The character that each byte belongs to."""
    return [char for char in text for _ in char.encode()]


def marks_and_spans(tokenizer: bytes, texts: list[str]) -> tuple[Encoded, Any, np.ndarray]:
    batch = pa.array(["not this", *texts], pa.large_string())[1:]
    encoded = ReferenceEncoder(tokenizer).encode(batch)
    spans = load_aligner(tokenizer).spans(batch, encoded)
    view = utf8_view(batch)
    return encoded, spans, mark_tokens(view, *text_flags(view, SEGMENTERS["jieba"]), encoded.offsets, spans)


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
@settings(max_examples=120, deadline=None)
@given(texts=st.lists(st.one_of(TEXTS, st.text(max_size=20)), max_size=4))
def test_marks_are_those_of_the_definition(tokenizers: dict[str, bytes], model: str, texts: list[str]) -> None:
    encoded, spans, marks = marks_and_spans(tokenizers[model], texts)
    for i, text in enumerate(texts):
        mine = slice(encoded.offsets[i], encoded.offsets[i + 1])
        places = list(zip(spans.starts[mine].tolist(), spans.ends[mine].tolist(), strict=True))
        assert marks[mine].tolist() == plain_marks(text, places, gaps=model == "wordpiece")


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(TEXTS, st.text(max_size=30)))
def test_the_bytes_of_tokens_are_their_text(tokenizers: dict[str, bytes], text: str) -> None:
    encoded, spans, _ = marks_and_spans(tokenizers["bpe"], [text])
    reference = Tokenizer.from_str(tokenizers["bpe"].decode())
    data = text.encode()
    assert b"".join(data[a:b] for a, b in zip(spans.starts, spans.ends, strict=True)) == data
    for i in range(len(encoded.ids)):  # the first tokens decode to the text up to there, or up to a broken character
        assert data[: spans.ends[i]].decode(errors="replace") == reference.decode(
            encoded.ids[: i + 1].tolist(), skip_special_tokens=False
        )


def test_marks_of_some_texts(tokenizers: dict[str, bytes]) -> None:
    text = "The end. Don't end.\n\n我们在北京。但是"
    for tokenizer in tokenizers.values():
        _, spans, marks = marks_and_spans(tokenizer, [text])
        data = text.encode()
        words: list[bytes] = []
        for begin, end, mark in zip(spans.starts, spans.ends, marks, strict=True):
            words[len(words) :] = [data[begin:end]] if mark & 1 else [words.pop() + data[begin:end]]
        found = [word.decode().strip() for word in words]
        whole = ["The", "end", ".", "Don't", "end", ".", "我们", "在", "北京", "。", "但是"]
        assert "".join(found) == "".join(whole)
        assert np.count_nonzero(marks & 2) == 4
        assert {"Don't", "我们"} <= {*found}


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_other_ids_than_the_texts_are_refused(tokenizers: dict[str, bytes], model: str) -> None:
    aligner = load_aligner(tokenizers[model])
    batch = pa.array(["one two", "three four"], pa.large_string())
    encoded = ReferenceEncoder(tokenizers[model]).encode(batch)
    for change in (1, 10_000):
        ids = encoded.ids.copy()
        ids[encoded.offsets[1]] += change
        with pytest.raises(TokensMismatch, match="document 1"):
            aligner.spans(batch, Encoded(ids, encoded.offsets))
    with pytest.raises(TokensMismatch, match="document 0"):
        aligner.spans(pa.array(["one twos", "three four"]), encoded)


def test_a_tokenizer_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="use bpe or wordpiece"):
        load_aligner(json.dumps({"model": {"type": "Unigram"}, "decoder": None}).encode())


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    documents = make_documents(90)
    return [{**documents[0], "text": ""}, {**documents[1], "text": " \n"}, *documents[2:]]


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, documents: list) -> Any:
    store = Store.at(tmp_path_factory.mktemp("store"))
    given_ = committed_documents(store, documents, shards=5)
    tokenizer = train(store, given_, TokenizerConfig(model=request.param, vocabulary_size=500, validation_fraction=0.2))
    sizes = [file.bytes for file in given_.committed().files("documents")]
    return store, given_, tokenizer, tokenize(store, given_, tokenizer, unit_bytes=sum(sizes[:2]) + 100)


def inputs_of(store: Store, given_: StageRef, tokenizer: Committed, tokenized: Committed) -> dict[str, StageRef]:
    others = {one.name: store.ref(one.name, one.fingerprint) for one in (tokenizer, tokenized)}
    return {"filter": given_, **others}


def marked(run: Any, workers: int = 0, **config: Any) -> Committed:
    return run_stage(Marks(MarksConfig(**config), inputs_of(*run)), run[0], workers=workers)


def test_there_is_a_file_for_each_shard_with_the_marks_of_its_texts(run: Any, documents: list) -> None:
    *_, tokenizer, tokenized = run
    marks = marked(run)
    files = marks_of(marks)
    texts = {document["id"]: document["text"] for document in documents}
    data = Path(tokenizer.files("tokenizer")[0].path).read_bytes()
    assert [*files] == [file.path.removeprefix(f"{tokenized.path}/") for file in tokenized.files("tokens")]
    assert len({file.unit for file in files.values()}) > 1
    assert {file.attributes["split"] for file in files.values()} == {"train", "validation"}
    seen = 0
    for index in tokenized.files("index"):
        for row in index.table().to_pylist():
            mine = np.memmap(files[row["shard"]].path, np.uint8, "r")[row["offset"] : row["offset"] + row["tokens"]]
            expected = marks_and_spans(data, [texts[row["id"]]])[2]
            assert mine.tolist() == [*expected, 0]
            seen += 1
    assert seen == len(documents) == marks.counts["read"] == marks.counts["kept"]
    for shard in tokenized.files("tokens"):
        file = files[shard.path.removeprefix(f"{tokenized.path}/")]
        values = np.fromfile(file.path, np.uint8)
        assert len(values) == file.attributes["tokens"] == shard.attributes["tokens"]
        assert file.rows == shard.rows
        assert (np.fromfile(shard.path, "<u2")[values == 0] == 0).sum() == shard.rows
        assert np.count_nonzero(values & 1) == file.attributes["words"]
        assert np.count_nonzero(values & 2) == file.attributes["sentences"]
    assert marks.manifest["summary"]["tokens"] == tokenized.counts["tokens"]
    assert marks.manifest["summary"]["words"] == marks.counts["words"] > marks.counts["sentences"] > len(documents) - 2


def test_workers_do_not_change_a_byte_and_the_segmenter_does(run: Any, tmp_path: Path, documents: list) -> None:
    marks = marked(run)
    assert Marks(MarksConfig(segmenter="characters"), inputs_of(*run)).fingerprint() != marks.fingerprint
    other = marked(run, segmenter="characters")
    assert other.counts["words"] > marks.counts["words"]
    assert other.counts["sentences"] == marks.counts["sentences"]
    assert marks.verify() == []


def test_other_documents_than_those_of_the_shards_are_refused(run: Any, documents: list) -> None:
    store, _, tokenizer, tokenized = run
    other = committed_documents(store, documents[:-1], shards=5)
    with pytest.raises(StageError, match="not made from filter"):
        run_stage(Marks(MarksConfig(), inputs_of(store, other, tokenizer, tokenized)), store, workers=0)


def test_shards_that_are_not_of_the_texts_are_refused(run: Any, tmp_path: Path) -> None:
    *_, tokenized = run
    for path in Path(tokenized.path).rglob("*"):
        target = tmp_path / "tokenize" / path.relative_to(tokenized.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    shard = tmp_path / "tokenize/tokens/00001.bin"
    tokens = np.fromfile(shard, "<u2")
    tokens[np.flatnonzero(tokens)[50]] += 1
    tokens.tofile(shard)
    inputs = {**inputs_of(*run), "tokenize": StageRef("tokenize", tokenized.fingerprint, str(tmp_path / "tokenize"))}
    with pytest.raises(StageError, match=r"unit 'document shards .*document \d+ of the batch"):
        run_stage(Marks(MarksConfig(), inputs), Store.at(tmp_path / "store"), workers=0)
