"""How likely a model finds continuations of contexts: requests, encoded, batched, computed once and kept.

A model that reads from left to right is asked in trees (trees.py), any other one by what it scores texts by
(training.evaluation.text_scores).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from training.continuing import continues_text
from training.evaluation.batching import POSITIONS, groups
from training.evaluation.judged import Judged
from training.evaluation.text_scores import text_scorer
from training.models.transformer import Transformer
from training.suites.cache import Cache
from training.suites.forward import hidden, predict, stack
from training.suites.trees import Tree, plant

Told = Callable[[int, int], None]
"""Is told how many of how many requests are answered."""
Asked = tuple[tuple[int, ...], int]
"""Ids that the model sees and predicts, and the place of the first that is asked for."""


class Request(NamedTuple):
    """A context and a continuation of one token at least, as ids without what stands before each text."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Answer(NamedTuple):
    """What the model makes of a request."""

    log_probability: float
    """Natural log, the sum over the continuation's tokens."""
    tokens: int
    """Of the continuation."""
    matched: int
    """How many tokens of the continuation, from its first, the model would write itself when it always takes the
    likeliest; 0 where the model does not read from left to right."""


def encode(judged: Judged, pairs: Sequence[tuple[str, str]], where: str) -> list[Request]:
    """Requests of (context, continuation) texts, parted as lm-evaluation-harness does.

    Spaces at the end of a context count as the beginning of the continuation; the continuation's tokens are those of
    both texts together, less as many as the context alone has. Raises ValueError where none is left.
    """
    moved = []
    for context, continuation in pairs:
        bare = context.rstrip()
        moved.append((bare, context[len(bare) :] + continuation))
    texts = list(dict.fromkeys([context for context, _ in moved] + [context + text for context, text in moved]))
    ids = {text: tuple(tokens.tolist()) for text, tokens in zip(texts, judged.encode(texts), strict=True)}
    requests = []
    for context, continuation in moved:
        before, whole = ids[context], ids[context + continuation]
        rest = whole[len(before) :]
        if not rest:
            raise ValueError(f"{where}: the tokenizer finds no token in {continuation!r} behind its context")
        requests.append(Request(whole[: len(before)], rest))
    return requests


class Likelihood:
    """Answers requests for one model.

    Raises ValueError for a model that gives texts no score (one of span corruption, or of sentence vectors).
    """

    def __init__(self, judged: Judged, cache: Cache, positions: int = 0, share: bool = True) -> None:
        self._judged, self._cache, self._share = judged, cache, share
        self._positions = positions or POSITIONS.get(judged.device.type, 2048)
        self.reads_forward = isinstance(judged.model, Transformer) and continues_text(judged.objective_config)
        scored_by = None if self.reads_forward else text_scorer(judged)
        if scored_by is None and not self.reads_forward:
            raise ValueError(
                f"{judged.checkpoint}: a model trained on the objective {judged.name} gives texts no score; likelihood "
                "tasks cannot be put to it"
            )
        self.score = "log_likelihood" if scored_by is None else scored_by[0]
        self._scorer = None if scored_by is None else scored_by[1]
        self.cut = 0
        """Contexts that lost their beginning, as they exceeded the model's context."""

    def answers(self, requests: Sequence[Request], where: str, tell: Told = lambda done, of: None) -> list[Answer]:
        """The answer to each request.

        A context that is too long loses its beginning. A continuation that is longer than the model's context is asked
        for in blocks of half of it, each behind as much as there is room for (lm-evaluation-harness refuses it). Raises
        ValueError for weights that give no finite number; `where` names the task for it.
        """
        sequences = [self._sequences(request) for request in requests]
        different = list(dict.fromkeys(one for blocks in sequences for one in blocks))
        found: dict[Asked, Answer] = {}
        for batch, trees in self._batches(different):
            keys = {one: self._cache.key(self.score, one) for one in batch}
            known = self._cache.find(list(keys.values()))
            if len(known) == len(keys):
                found.update({one: Answer(*known[key]) for one, key in keys.items()})
            else:
                # The batch as a whole, so that what it holds gives the same sums in every run.
                computed = self._forward(batch, trees) if self.reads_forward else self._by_scorer(batch)
                for one, answer in zip(batch, computed, strict=True):
                    if not np.isfinite(answer.log_probability):
                        raise ValueError(
                            f"{self._judged.checkpoint}: the model gives a text of {where} no finite probability; its "
                            "weights are damaged or its training has diverged"
                        )
                    found[one] = answer
                self._cache.add((keys[one], list(answer)) for one, answer in zip(batch, computed, strict=True))
            tell(len(found), len(different))
        return [_joined([found[one] for one in blocks]) for blocks in sequences]

    def _sequences(self, request: Request) -> list[Asked]:
        """The ids that the model sees and predicts, and the first that is asked for, in blocks where one is too few."""
        length = len(request.continuation)
        if self.reads_forward:
            # Input and targets: as many tokens and one more.
            room = self._judged.context_length
            whole, seen = (self._judged.begin_of_text, *request.context, *request.continuation), room + 1
        else:
            seen = room = self._judged.context_length - self._judged.frame.tokens
            whole = (*request.context, *request.continuation)
        self.cut += len(whole) > seen
        block = length if length <= room else max(room // 2, 1)
        found = []
        for start in range(len(whole) - length, len(whole), block):
            end = min(start + block, len(whole))
            begin = max(end - seen, 0)
            found.append((whole[begin:end], start - begin))
        return found

    def _batches(self, sequences: list[Asked]) -> Iterator[tuple[list[Asked], list[Tree]]]:
        """Sequences that are computed together, and the trees that they lie in; the same in every run."""
        if not self.reads_forward:
            # Few enough for a stopped run to lose little.
            order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index][0]))
            for begin in range(0, len(order), 256):
                yield [sequences[index] for index in order[begin : begin + 256]], []
            return
        # The last token of a sequence is only predicted, never read.
        trees = plant([whole[:-1] for whole, _ in sequences], share=self._share)
        for group in groups([len(tree.tokens_N) for tree in trees], self._positions):
            members = [index for number in group for index in trees[number].members]
            place = {index: number for number, index in enumerate(members)}
            mine = [trees[number] for number in group]
            renumbered = [tree._replace(members=tuple(place[index] for index in tree.members)) for tree in mine]
            yield [sequences[index] for index in members], renumbered

    def _by_scorer(self, batch: list[Asked]) -> list[Answer]:
        assert self._scorer is not None
        ids = [np.array(whole, dtype=np.int64) for whole, _ in batch]
        logs = self._scorer(ids, [start for _, start in batch])
        sums = [float(log[start:].astype(np.float64).sum()) for log, (_, start) in zip(logs, batch, strict=True)]
        return [Answer(total, len(whole) - start, 0) for total, (whole, start) in zip(sums, batch, strict=True)]

    @torch.inference_mode()
    def _forward(self, batch: list[Asked], trees: list[Tree]) -> list[Answer]:
        model, device = self._judged.model, self._judged.device
        rows = stack(trees, device)
        with self._judged.compute.autocast():
            hidden_ND = hidden(model, rows).flatten(0, 1)
        width = rows.ids_BT.shape[1]
        members = [
            (index, row * width + path[batch[index][1] - 1 :])
            for row, tree in enumerate(trees)
            for index, path in zip(tree.members, tree.paths, strict=True)
        ]
        # The last context token predicts the first token of each choice: nodes are asked once, tokens looked up.
        nodes, asked = np.unique(np.concatenate([path for _, path in members]), return_inverse=True)
        wanted = np.concatenate([batch[index][0][batch[index][1] :] for index, _ in members])
        order = np.argsort(asked, kind="stable")
        predicted = predict(
            model,
            hidden_ND[torch.from_numpy(nodes).to(device)],
            torch.from_numpy(asked[order]).to(device),
            torch.from_numpy(wanted[order]).to(device),
        )
        logs, hits = np.empty(len(wanted), dtype=np.float32), np.empty(len(wanted), dtype=bool)
        logs[order], hits[order] = predicted.log_probabilities.cpu().numpy(), predicted.likeliest.cpu().numpy()
        return _summed(members, logs, hits, len(batch))


def _joined(blocks: Sequence[Answer]) -> Answer:
    """The answer to a continuation that was asked for in blocks."""
    matched = 0
    for block in blocks:
        matched += block.matched
        if block.matched < block.tokens:
            break
    return Answer(sum(one.log_probability for one in blocks), sum(one.tokens for one in blocks), matched)


def _summed(members: Sequence[tuple[int, Any]], logs: Any, hits: Any, count: int) -> list[Answer]:
    answers: list[Answer | None] = [None] * count
    begin = 0
    for index, path in members:
        part = slice(begin, begin + len(path))
        misses = np.flatnonzero(~hits[part])
        matched = int(misses[0]) if len(misses) else len(path)
        answers[index] = Answer(float(logs[part].astype(np.float64).sum()), len(path), matched)
        begin = part.stop
    assert all(answers)
    return [answer for answer in answers if answer is not None]
