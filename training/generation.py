"""Text from a trained model: greedy or sampled, streamed character by character, the same for the same seed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.checkpoints import describe, load_model
from training.config import ObjectiveConfig, from_dict
from training.continuing import CONTINUING, continues_text, sees_prefix
from training.models import Model
from training.sampling import SamplingConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    continuation: str
    tokens: int
    """Tokens generated, the end of the text not counted."""
    finished: bool
    """Whether the model ended the text itself."""


class Generator:
    """A model in evaluation mode, with its tokenizer.

    The model sees a begin-of-text id (for our own models the one that ends a text), the prompt and what it has written
    so far. Where that is longer than its context, only the newest tokens are seen: a prompt that is too long loses its
    beginning, with a warning in the log. A bidirectional model reads from left to right; with `prefix` the prompt sees
    itself whole, as a prefix language model was trained.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        end_of_text: int,
        begin_of_text: int | None = None,
        prefix: bool = False,
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.end_of_text = end_of_text
        self.begin_of_text = end_of_text if begin_of_text is None else begin_of_text

    @classmethod
    def load(cls, checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> Generator:
        """Load a checkpoint folder; raises ValueError naming what it lacks, and where its model continues no text."""
        objective = objective_of(describe(checkpoint_dir))
        if not continues_text(objective):
            raise ValueError(
                f"{checkpoint_dir}: a model trained on the objective {objective.name} cannot continue a text; only "
                f"{' and '.join(CONTINUING)} models can"
            )
        tokenizer = load_tokenizer(checkpoint_dir)
        model, _ = load_model(checkpoint_dir, device)
        end_of_text = end_of_text_id(checkpoint_dir, tokenizer)
        begin_of_text = begin_of_text_id(checkpoint_dir, end_of_text)
        return cls(model, tokenizer, end_of_text, begin_of_text, sees_prefix(objective))

    def stream(self, prompt: str, settings: SamplingConfig | None = None) -> Iterator[str]:
        """Yield the continuation in pieces of whole characters, as they come.

        A character whose last bytes the model never wrote is not yielded; bytes that are no UTF-8 come as U+FFFD.
        """
        return self.decode(self.token_ids(self.encode(prompt), settings))

    def generate(self, prompt: str, settings: SamplingConfig | None = None) -> str:
        """Return the whole continuation."""
        return "".join(self.stream(prompt, settings))

    def sample(self, prompts: Sequence[str], settings: SamplingConfig | None = None) -> list[Sample]:
        """Continue each prompt on its own, with the same seed."""
        settings = settings or SamplingConfig()
        samples = []
        for prompt in prompts:
            ids = list(self.token_ids(self.encode(prompt), settings))
            samples.append(Sample(prompt, "".join(self.decode(ids)), len(ids), len(ids) < settings.max_new_tokens))
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
    def token_ids(self, prompt: Sequence[int], settings: SamplingConfig | None = None) -> Iterator[int]:
        """Yield the ids that follow a prompt of ids, until the end of the text (not yielded) or `max_new_tokens`.

        Raises ValueError for an id that the model does not know.
        """
        settings = settings or SamplingConfig()
        unknown = [token for token in prompt if not 0 <= token < self.model.vocabulary_size]
        if unknown:
            raise ValueError(
                f"token id {unknown[0]} lies outside the model's vocabulary of {self.model.vocabulary_size}"
            )
        context_length = self.model.config.context_length
        ids = [self.begin_of_text, *prompt]
        if len(ids) > context_length:
            log.warning(
                "the prompt has %d tokens, the model sees %d: its beginning is cut off", len(prompt), context_length
            )
        device = next(self.model.parameters()).device
        given = len(ids)
        random = torch.Generator().manual_seed(settings.seed)
        for _ in range(settings.max_new_tokens):
            ids_BT = torch.tensor([ids[-context_length:]], device=device)
            logits_V = self._logits(ids_BT, given - max(0, len(ids) - context_length)).cpu()
            token = choose(logits_V, settings, random)
            if token == self.end_of_text:
                return
            ids.append(token)
            yield token

    def _logits(self, ids_BT: Tensor, known: int) -> Tensor:
        """Logits (V,) of the token that follows ids (1, T), of which the first `known` are the prompt's."""
        how: dict[str, Any] = {} if self.model.config.attention == "causal" else {"causal": True}
        if self.prefix:
            how["prefix_BT"] = (torch.arange(ids_BT.shape[1], device=ids_BT.device) < known)[None]
        hidden_D = self.model.hidden(ids_BT, **how)[0, -1]
        # What stands in for a model in training has none.
        readout = getattr(self.model, "readout", None)
        logits_V: Tensor = self.model.head(hidden_D if readout is None else readout(hidden_D))
        return logits_V


def choose(logits_V: Tensor, settings: SamplingConfig, random: torch.Generator) -> int:
    """Choose a token by its logits (V,), in float64 on the CPU so that a seed means the same on every device."""
    logits_V = logits_V.double()
    if settings.temperature == 0:
        return int(logits_V.argmax())
    values, order = torch.sort(logits_V / settings.temperature, descending=True, stable=True)
    if settings.top_k:
        values = values[: settings.top_k]
    probability = torch.softmax(values, dim=0)
    before = probability.cumsum(0) - probability
    probability = probability[: max(1, int((before < settings.top_p).sum()))]
    mass = probability.cumsum(0)
    point = torch.rand((), generator=random, dtype=torch.float64) * mass[-1]
    return int(order[min(int(torch.searchsorted(mass, point, right=True)), len(mass) - 1)])


def objective_of(description: dict[str, Any]) -> ObjectiveConfig:
    """What the model of a checkpoint was trained on, from its config.json; causal where that does not say.

    Raises ValueError naming a wrong field.
    """
    found = description.get("objective") or "causal"
    return from_dict(ObjectiveConfig, {"name": found} if isinstance(found, str) else found, "objective")


def load_tokenizer(checkpoint_dir: str | Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint; raises ValueError where it has none or a damaged one."""
    path = Path(checkpoint_dir) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path}: missing; this checkpoint was trained without a tokenizer and cannot read text")
    return read_tokenizer(path)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer.json; raises ValueError where it is damaged, or the package tokenizers is not installed."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError("text needs the package tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: damaged: {error}") from None


def end_of_text_id(checkpoint_dir: str | Path, tokenizer: Tokenizer | None = None) -> int:
    """The id that ends a document: `end_of_text` of config.json, else the tokenizer's `<|endoftext|>`.

    Raises ValueError where neither is there.
    """
    description: dict[str, Any] = describe(checkpoint_dir)
    known = description.get("end_of_text")
    if known is None:
        known = (tokenizer or load_tokenizer(checkpoint_dir)).token_to_id(END_OF_TEXT)
    if known is None:
        raise ValueError(f"{checkpoint_dir}: neither config.json nor the tokenizer names an end-of-text id")
    return int(known)


def begin_of_text_id(checkpoint_dir: str | Path, end_of_text: int) -> int:
    """The id that every text starts with: `begin_of_text` of an imported model's config.json, else `end_of_text`."""
    return int(describe(checkpoint_dir).get("begin_of_text", end_of_text))


def as_dicts(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The JSON form of samples."""
    return [dataclasses.asdict(sample) for sample in samples]
