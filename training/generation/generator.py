"""Text from a trained model: one stream or a batch; greedy, drawn or by beam search; the same for the same seed.

Shape suffixes: B sequences, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.checkpoints import describe, load_model
from training.config import SpecialTokens, from_dict
from training.config.generation import GenerationConfig
from training.continuing import CONTINUING, continues_text, sees_prefix
from training.generation import beams
from training.generation.drawing import Constraint, adjusted, check_numbers, choose, next_token
from training.generation.hypothesis import Hypothesis, Sample
from training.generation.linear import lay_out
from training.generation.sequences import Answering, Sequences, Trunk
from training.generation.speculation import speculate
from training.generation.stops import StopWatch, until_stop
from training.generation.texts import begin_of_text_id, end_of_text_id, load_tokenizer, objective_of
from training.models import Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT_PROMPTS = (
    "The",
    "In the beginning, the",
    "To install the package,",
    "中国",
    "这本书",
    "El",
    "Le monde",
    "Россия",
    "日本",
)
_TOGETHER = 16
"""Prompts that `sample` continues at a time."""

log = logging.getLogger(__name__)


class Generator:
    """A model in evaluation mode, with its tokenizer.

    The model sees a begin-of-text id (for our own models the one that ends a text), the prompt and what it has written
    so far. Where that is longer than its context, only the newest tokens are seen: a prompt that is too long loses its
    beginning, with a warning in the log. A bidirectional model reads from left to right; with `prefix` the prompt sees
    itself whole, as a prefix language model was trained. The encoder of an encoder-decoder reads the prompt and an
    end-of-text id, and its decoder writes from the begin-of-text id on.

    With a `draft`, a smaller model, a single stream is decoded speculatively. Raises ValueError where the draft has
    another vocabulary. What is asked of a Generator raises ValueError for an id that the model does not know, and where
    its logits are no numbers.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        end_of_text: int,
        begin_of_text: int | None = None,
        prefix: bool = False,
        draft: Generator | None = None,
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.end_of_text = end_of_text
        self.begin_of_text = end_of_text if begin_of_text is None else begin_of_text
        self.draft = draft
        if draft is not None:
            _check_draft(self, draft)

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder reads the prompt, and a decoder writes."""
        return getattr(self.model.config, "architecture", "transformer") == "encoder_decoder"

    @classmethod
    def load(
        cls,
        checkpoint_dir: str | Path,
        device: str | torch.device = "cpu",
        draft: Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Generator:
        """Load a checkpoint folder, with weights of `dtype`, which on a CPU are laid out for fast products.

        Raises ValueError naming what it lacks, and where its model continues no text.
        """
        description = describe(checkpoint_dir)
        objective = objective_of(description)
        answers = (description.get("model") or {}).get("architecture") == "encoder_decoder"
        if not (answers or continues_text(objective)):
            raise ValueError(
                f"{checkpoint_dir}: a model trained on the objective {objective.name} cannot continue a text; only "
                f"{' and '.join(CONTINUING)} models can"
            )
        tokenizer = load_tokenizer(checkpoint_dir)
        model, _ = load_model(checkpoint_dir, device)
        if dtype != torch.float32:
            model.to(dtype).reset_buffers()  # the position tables stay float32
        lay_out(model)
        end_of_text = end_of_text_id(checkpoint_dir, tokenizer)
        begin_of_text = begin_of_text_id(checkpoint_dir, end_of_text)
        if answers:
            special = from_dict(SpecialTokens, description.get("special_tokens") or {}, "special_tokens")
            begin_of_text = end_of_text if special.padding is None else special.padding
        return cls(model, tokenizer, end_of_text, begin_of_text, sees_prefix(objective), draft)

    def stream(
        self, prompt: str, settings: GenerationConfig | None = None, constraint: Constraint | None = None
    ) -> Iterator[str]:
        """Yield the continuation in pieces of whole characters, as they come; a stop string and its parts never come.

        A character whose last bytes the model never wrote is not yielded; bytes that are no UTF-8 come as U+FFFD.
        """
        settings = settings or GenerationConfig()
        pieces = self.decode(self.token_ids(self.encode(prompt), settings, constraint))
        return until_stop(pieces, settings.stop) if settings.stop else pieces

    def generate(
        self, prompt: str, settings: GenerationConfig | None = None, constraint: Constraint | None = None
    ) -> str:
        """Return the whole continuation."""
        return "".join(self.stream(prompt, settings, constraint))

    def sample(self, prompts: Sequence[str], settings: GenerationConfig | None = None) -> list[Sample]:
        """Continue each prompt on its own, with the same seed; with beams, by the best of them."""
        settings = settings or GenerationConfig()
        samples = []
        for first in range(0, len(prompts), _TOGETHER):
            some = prompts[first : first + _TOGETHER]
            found = self.batch([self.encode(prompt) for prompt in some], settings)
            for prompt, (best, *_) in zip(some, found, strict=True):
                text = "".join(until_stop(self.decode(best.ids), settings.stop))
                samples.append(Sample(prompt, text, len(best.ids), best.finished))
        return samples

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any special ones."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of ids in pieces of whole characters."""
        from tokenizers.decoders import DecodeStream

        decoder = DecodeStream(skip_special_tokens=True)
        seen: list[int] = []
        yielded = 0
        for token in ids:
            seen.append(token)
            piece = decoder.step(self.tokenizer, token)
            if piece:
                yielded += len(piece)
                yield piece
        # The stream holds a token back whose last character is not whole, and the whole ones before that character too.
        rest = self.tokenizer.decode(seen, skip_special_tokens=True)[yielded:].rstrip("\ufffd")
        if rest:
            yield rest

    @torch.inference_mode()
    def token_ids(
        self, prompt: Sequence[int], settings: GenerationConfig | None = None, constraint: Constraint | None = None
    ) -> Iterator[int]:
        """Yield the ids that follow a prompt of ids, until the end of the text (not yielded) or `max_new_tokens`.

        The token that completes a stop string is the last that is yielded. With beams all ids come at once. A
        constraint goes with a stream that is drawn or greedy; it is decoded without the draft.
        """
        settings = settings or GenerationConfig()
        if settings.beams > 1:
            if constraint is not None:
                raise ValueError("a constraint holds one stream: set beams to 1")
            yield from self.batch([prompt], settings)[0][0].ids
            return
        ends = {self.end_of_text, *settings.stop_tokens}
        watch = StopWatch(self.tokenizer, settings.stop) if settings.stop else None
        for token in self._chosen(prompt, settings, constraint):
            if token in ends:
                return
            yield token
            if watch is not None and watch.ends(token):
                return

    @torch.inference_mode()
    def batch(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationConfig | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """Continue prompts of ids, of different lengths, at once: for each its hypotheses, the best first.

        There is one without beams, drawn with the seed of the prompt in `seeds`, by default that of the settings for
        each. With beams there are at most as many as they.
        """
        settings = settings or GenerationConfig()
        if not prompts:
            return []
        if settings.max_new_tokens == 0:
            return [[Hypothesis([], 0.0, False)] for _ in prompts]
        sequences = self.sequences(prompts, settings.max_new_tokens)
        ends = {self.end_of_text, *settings.stop_tokens}
        if settings.beams > 1:
            return beams.search(sequences, settings, ends, self._completes(settings))
        return [[one] for one in self._written(sequences, settings, ends, seeds or [settings.seed] * len(prompts))]

    def _chosen(
        self, prompt: Sequence[int], settings: GenerationConfig, constraint: Constraint | None
    ) -> Iterator[int]:
        """The tokens that follow a prompt, those that end the text included."""
        if not settings.max_new_tokens:
            return
        random = torch.Generator().manual_seed(settings.seed)
        sequences = self.sequences([prompt], settings.max_new_tokens)
        if self.draft is not None and constraint is None:
            proposing = self.draft.sequences([prompt], settings.max_new_tokens)
            context_length = min(self.model.config.context_length, self.draft.model.config.context_length)
            yield from speculate(sequences, proposing, settings, random, context_length)
            return
        for _ in range(settings.max_new_tokens):
            if constraint is not None and constraint.finished:
                return
            token = next_token(sequences.logits()[:, -1], sequences.ids[0], settings, random, constraint)
            if token is None:
                return
            if constraint is not None:
                constraint.advance(token)
            yield token
            sequences.append([token])

    def _written(
        self, sequences: Sequences, settings: GenerationConfig, ends: set[int], seeds: Sequence[int]
    ) -> list[Hypothesis]:
        """One hypothesis for each row; what has ended is no longer read."""
        randoms = [torch.Generator().manual_seed(seed) for seed in seeds]
        watches = [StopWatch(self.tokenizer, settings.stop) if settings.stop else None for _ in seeds]
        ids: list[list[int]] = [[] for _ in seeds]
        scores, counts, finished = [0.0] * len(seeds), [0] * len(seeds), [False] * len(seeds)
        alive = list(range(len(seeds)))
        for _ in range(settings.max_new_tokens):
            logits_BV = sequences.logits()[:, -1]
            check_numbers(logits_BV)
            tokens = self._tokens(logits_BV, sequences, settings, [randoms[row] for row in alive])
            gained = _log_probabilities(logits_BV, tokens)
            going = []
            for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
                scores[row] += gained[place]
                counts[row] += 1
                if token in ends:
                    finished[row] = True
                    continue
                ids[row].append(token)
                watch = watches[row]
                if watch is not None and watch.ends(token):
                    finished[row] = True
                    continue
                going.append(place)
            if not going:
                break
            sequences.select(going)
            sequences.append([tokens[place] for place in going])
            alive = [alive[place] for place in going]
        lengths = [max(count, 1) ** settings.length_penalty for count in counts]
        return [
            Hypothesis(written, score / length, done)
            for written, score, length, done in zip(ids, scores, lengths, finished, strict=True)
        ]

    def _tokens(
        self, logits_BV: Tensor, sequences: Sequences, settings: GenerationConfig, randoms: Sequence[torch.Generator]
    ) -> list[int]:
        logits_BV = adjusted(logits_BV, sequences.ids, settings)
        if settings.greedy:
            tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
            return tokens
        return [choose(row_V, settings, random) for row_V, random in zip(logits_BV.cpu(), randoms, strict=True)]

    def sequences(self, prompts: Sequence[Sequence[int]], room: int) -> Sequences:
        """The rows that the model goes on from; raises ValueError for an unknown id, and warns of a long prompt."""
        unknown = [token for prompt in prompts for token in prompt if not 0 <= token < self.model.vocabulary_size]
        if unknown:
            raise ValueError(
                f"token id {unknown[0]} lies outside the model's vocabulary of {self.model.vocabulary_size}"
            )
        context_length = self.model.config.context_length
        for prompt in prompts:
            if 1 + len(prompt) > context_length:
                log.warning(
                    "the prompt has %d tokens, the model sees %d: its beginning is cut off", len(prompt), context_length
                )
        if self.has_encoder:
            inputs = [[*prompt, self.end_of_text][-context_length:] for prompt in prompts]
            return Sequences(Answering(self.model, inputs), [[self.begin_of_text] for _ in prompts], room)
        ids = [[self.begin_of_text, *prompt] for prompt in prompts]
        return Sequences(Trunk(self.model, [len(row) for row in ids], self.prefix), ids, room)

    def _completes(self, settings: GenerationConfig) -> beams.Completes:
        """Whether the last of the ids completes a stop string."""
        if not settings.stop:
            return lambda ids: False

        def completes(ids: Sequence[int]) -> bool:
            text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
            return any(stop in text for stop in settings.stop)

        return completes


def _log_probabilities(logits_BV: Tensor, tokens: Sequence[int]) -> list[float]:
    """What the model itself gives each row's token."""
    chosen_B1 = torch.tensor(tokens, device=logits_BV.device)[:, None]
    result: list[float] = (logits_BV.gather(1, chosen_B1)[:, 0] - logits_BV.logsumexp(dim=-1)).tolist()
    return result


def _check_draft(target: Generator, draft: Generator) -> None:
    """Raise ValueError where the ids of the draft do not mean what they mean to the target, or it reads otherwise."""
    if draft.has_encoder != target.has_encoder:
        raise ValueError("the draft model must have an encoder where the model has one, and none where it has none")
    sizes = (draft.model.vocabulary_size, target.model.vocabulary_size)
    if sizes[0] != sizes[1]:
        raise ValueError(f"the draft model has a vocabulary of {sizes[0]} ids, the model one of {sizes[1]}")
    same = draft.tokenizer is target.tokenizer or draft.tokenizer.get_vocab() == target.tokenizer.get_vocab()
    if not same or draft.end_of_text != target.end_of_text or draft.begin_of_text != target.begin_of_text:
        raise ValueError("the draft model has another vocabulary: take one that was trained with the same tokenizer")
