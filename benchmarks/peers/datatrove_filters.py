"""datatrove's four filters on JSONL, in the peers' environment: what they measure and decide, and how long they take.

    python datatrove_filters.py decide|time REQUEST DOCUMENTS RESULT

Imports nothing of Headrace: REQUEST is JSON with the thresholds, stop words and tokenizer names to use, DOCUMENTS has
{text, language} a line. The values come from datatrove's own code, by thresholds that note what they are compared with.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import PUNCTUATION_SET, split_into_parts, split_into_sentences, split_into_words
from datatrove.utils.word_tokenizers import WordTokenizer

Rules = dict[str, float]
NO_LINE_RULES = {
    "remove_citations": False,
    "filter_no_terminal_punct": False,
    "min_num_sentences": -1,
    "min_words_per_line": -1,
    "max_word_length": -1,
    "filter_lorem_ipsum": False,
    "filter_javascript": False,
    "filter_curly_bracket": False,
    "filter_policy": False,
}


class Whitespace(WordTokenizer):
    """Words are what stands between white space: for texts of which that is all there is to say."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def tokenizer_of(request: dict[str, Any], language: str) -> Any:
    """The name of the language's tokenizer in datatrove, or the tokenizer."""
    return Whitespace() if request["whitespace"] else request["tokenizers"][language]


class Probe:
    """A threshold that notes what it is compared with, under its names in turn, and never bites."""

    __array_ufunc__ = None  # NumPy's scalars leave the comparison to this class

    def __init__(self, seen: dict[str, float], *names: str) -> None:
        self.seen, self.names = seen, names

    def _note(self, value: Any) -> bool:
        self.seen[next(name for name in self.names if name not in self.seen)] = float(value)
        return False

    def __lt__(self, value: Any) -> bool:
        return self._note(value)

    def __gt__(self, value: Any) -> bool:
        return self._note(value)


class Measuring:
    """The filters of one language with probes for thresholds."""

    def __init__(self, request: dict[str, Any], language: str) -> None:
        self.seen: dict[str, float] = {}
        self.tokenizer = tokenizer = tokenizer_of(request, language)
        lines = request["c4_lines"]
        probe = self._probe
        quality = GopherQualityFilter(
            min_doc_words=probe("words"),
            max_doc_words=probe("maximum_words"),
            min_avg_word_length=probe("mean_word_length"),
            max_avg_word_length=probe("maximum_mean_word_length"),
            max_symbol_word_ratio=probe("hash_to_word_ratio", "ellipsis_to_word_ratio"),
            max_bullet_lines_ratio=probe("bullet_line_fraction"),
            max_ellipsis_lines_ratio=probe("ellipsis_line_fraction"),
            max_non_alpha_words_ratio=probe("alphabetic_word_fraction"),
            min_stop_words=probe("stop_words"),
            stop_words=request["stop_words"].get(language, []),
            language=tokenizer,
        )
        repetition = GopherRepetitionFilter(
            dup_line_frac=probe("duplicate_line_fraction"),
            dup_para_frac=probe("duplicate_paragraph_fraction"),
            dup_line_char_frac=probe("duplicate_line_character_fraction"),
            dup_para_char_frac=probe("duplicate_paragraph_character_fraction"),
            top_n_grams=tuple((n, probe(f"top_{n}_gram_character_fraction")) for n in (2, 3, 4)),
            dup_n_grams=tuple((n, probe(f"duplicate_{n}_gram_character_fraction")) for n in range(5, 11)),
            language=tokenizer,
        )
        fineweb = FineWebQualityFilter(
            line_punct_thr=probe("fineweb_terminal_line_fraction"),
            short_line_thr=probe("fineweb_short_line_fraction"),
            char_duplicates_ratio=probe("fineweb_duplicate_line_character_fraction"),
            new_line_ratio=probe("fineweb_newline_word_ratio"),
            language=tokenizer,
        )
        sentences = C4QualityFilter(
            **{**NO_LINE_RULES, **lines, "min_num_sentences": probe("c4_kept_sentences")}, language=tokenizer
        )
        self.filters = (quality, repetition, fineweb, sentences)
        self.curly = C4QualityFilter(**{**NO_LINE_RULES, "filter_curly_bracket": True}, language=tokenizer)
        self.lorem = C4QualityFilter(**{**NO_LINE_RULES, "filter_lorem_ipsum": True}, language=tokenizer)
        self.line_filters = {
            "minimum_words": self._line_filter("min_words_per_line", lines["min_words_per_line"]),
            "maximum_word_length": self._line_filter("max_word_length", lines["max_word_length"]),
            "javascript": self._line_filter("filter_javascript", True),
            "policy": self._line_filter("filter_policy", True),
            "terminal_punctuation": self._line_filter("filter_no_terminal_punct", True),
        }

    def _probe(self, *names: str) -> Any:
        return Probe(self.seen, *names)

    @staticmethod
    def _line_filter(rule: str, value: Any) -> C4QualityFilter:
        return C4QualityFilter(**{**NO_LINE_RULES, rule: value})

    def values(self, text: str) -> Rules:
        """Every rule's value; one that datatrove does not come to (no words, no n-gram) is missing.

        Where Gopher's alphabetic words are counted, datatrove counts each punctuation mark as a word without a letter,
        though not where it counts words. The value without them is added.
        """
        self.seen.clear()
        for rules in self.filters:
            try:
                rules.filter(Document(text, "0"))
            except ZeroDivisionError:  # a text without words or lines
                continue
        found = dict(self.seen)
        words = [word for word in split_into_words(text, self.tokenizer) if not PUNCTUATION_SET.issuperset(word)]
        if words:
            alphabetic = sum(any(map(str.isalpha, word)) for word in words)
            found["alphabetic_word_fraction, punctuation aside"] = alphabetic / len(words)
        found["curly_brackets"] = float(not _kept(self.curly, text))
        found["lorem_ipsum_lines"] = float(not _kept(self.lorem, text))
        return found

    def lines(self, text: str) -> dict[str, str]:
        """Which lines with text each line rule keeps, as one digit a line."""
        rows = [line for line in text.split("\n") if line.strip()]
        return {
            rule: "".join("1" if _keeps_line(check, line) else "0" for line in rows)
            for rule, check in self.line_filters.items()
        }


def _kept(check: Any, text: str) -> bool:
    result = check.filter(Document(text, "0"))
    return result[0] if isinstance(result, tuple) else result


def _keeps_line(check: C4QualityFilter, line: str) -> bool:
    document = Document(line, "0")
    check.filter(document)
    return bool(document.text)


def plain_filters(request: dict[str, Any], language: str) -> dict[str, Any]:
    """The four filters as they are used, with the published thresholds, in FineWeb's order."""
    tokenizer = tokenizer_of(request, language)
    stop_words = request["stop_words"].get(language)
    return {
        "gopher_repetition": GopherRepetitionFilter(language=tokenizer),
        "gopher_quality": GopherQualityFilter(
            language=tokenizer, stop_words=stop_words, min_stop_words=2 if stop_words else None
        ),
        "c4": C4QualityFilter(
            language=tokenizer, min_num_sentences=request["c4_sentences"], remove_citations=False, **request["c4_lines"]
        ),
        "fineweb": FineWebQualityFilter(language=tokenizer),
    }


def decide(request: dict[str, Any], documents: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    measuring: dict[str, Measuring] = {}
    plain: dict[str, dict[str, Any]] = {}
    for document in documents:
        language, text = document["language"], document["text"]
        if language not in measuring:
            measuring[language] = Measuring(request, language)
            plain[language] = plain_filters(request, language)
        decisions = {}
        for name, rules in plain[language].items():
            try:
                result = rules.filter(Document(text, "0"))
            except ZeroDivisionError:
                result = (False, "division by zero")
            decisions[name] = None if result is True else result[1]
        yield {
            "values": measuring[language].values(text),
            "lines": measuring[language].lines(text),
            "dropped_for": decisions,
        }


def best_seconds(repeats: int, work: Callable[[], None]) -> float:
    """Process time of the fastest of several runs."""
    found = []
    for _ in range(repeats):
        split_into_parts.cache_clear()
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def measure_time(request: dict[str, Any], documents: list[dict[str, str]]) -> dict[str, float]:
    """Seconds of each filter, and of all four after another on each document, whose words they share as in a pipeline.

    Start-up and the loading of the tokenizers are not in them.
    """
    filters = {language: plain_filters(request, language) for language in {row["language"] for row in documents}}
    for language in filters:
        split_into_words("One two. Three.", request["tokenizers"][language])
        split_into_sentences("One two. Three.", request["tokenizers"][language])

    def run(*names: str) -> None:
        for row in documents:
            for name in names:
                filters[row["language"]][name].filter(Document(row["text"], "0"))

    names = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
    repeats = request["repeats"]
    seconds = {name: best_seconds(repeats, lambda name=name: run(name)) for name in names}
    return {**seconds, "all": best_seconds(repeats, lambda: run(*names))}


def main() -> None:
    mode, request_path, documents_path, result_path = sys.argv[1:]
    warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no words
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    with open(documents_path, encoding="utf-8") as stream:
        documents = [json.loads(line) for line in stream]
    with open(result_path, "w", encoding="utf-8") as stream:
        first = {"version": version("datatrove"), "spacy": version("spacy"), "jieba": version("jieba")}
        stream.write(json.dumps(first) + "\n")
        rows = [measure_time(request, documents)] if mode == "time" else decide(request, documents)
        for row in rows:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
