"""How text is written by a model; without torch, so that trackers, servers and recipes can name it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least, positive, within


@dataclass(frozen=True)
class GenerationConfig:
    """How the next tokens are chosen: greedy, drawn, or by beam search (`beams` above 1).

    The names and meanings are those of transformers' GenerationConfig, and so is the order in which the settings are
    applied: repetition_penalty, no_repeat_ngram, and for what is drawn temperature, top_k, top_p, min_p, typical_p.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    max_new_tokens: int = 100
    temperature: float = 0.8
    """0 is greedy: always the likeliest token, the one of the lowest id at a tie."""
    top_k: int = 50
    """Choose among the likeliest k only, and those that tie with the last of them; 0: no limit."""
    top_p: float = 1.0
    """Choose among the fewest tokens that hold this much probability (nucleus sampling, Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Leave out what has less than this share of the likeliest token's probability (Nguyen et al. 2024)."""
    typical_p: float = 1.0
    """Choose among the fewest tokens that hold this much probability, those first whose surprise is nearest to the
    entropy (Meister et al. 2023, section 4)."""
    repetition_penalty: float = 1.0
    """Logits of the tokens that are there already are divided by it where positive, else multiplied (Keskar et al.
    2019, section 4.1)."""
    no_repeat_ngram: int = 0
    """No n tokens in a row come twice, the prompt counted; 0: no limit (Paulus et al. 2018, section 2.5)."""
    beams: int = 1
    """Sequences that are followed at once; above 1 nothing is drawn, and temperature to typical_p have no effect."""
    beam_groups: int = 1
    """Groups of beams, each kept from what those before it chose (Vijayakumar et al. 2018, algorithm 1)."""
    diversity_penalty: float = 0.0
    """What a token's score loses for each beam of the groups before that chose it in the same step."""
    length_penalty: float = 1.0
    """A finished sequence is judged by its log-probability divided by its length to this power."""
    early_stopping: bool | Literal["never"] = False
    """true: end as soon as there are as many finished sequences as beams; false: when the best running one, at the
    present length, cannot better them; never: when it cannot at the length that would suit it best."""
    stop: tuple[str, ...] = ()
    """The text ends where one of these begins, which is not part of it."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end the text as the end-of-text id does."""
    seed: int = 1
    draft_tokens: int = 4
    """Tokens that a draft model proposes at a time (Leviathan et al. 2023, gamma)."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "no_repeat_ngram", "seed"):
            at_least(name, getattr(self, name), 0)
        for name in ("beams", "beam_groups", "draft_tokens"):
            at_least(name, getattr(self, name), 1)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 (greedy) or above, got {self.temperature}")
        for name in ("top_p", "min_p"):
            within(name, getattr(self, name), 0.0, 1.0)
        if not 0 < self.typical_p <= 1:
            raise ValueError(f"typical_p must lie above 0 and be at most 1 (no limit), got {self.typical_p}")
        positive("repetition_penalty", self.repetition_penalty)
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty must be a number, got {self.length_penalty}")
        if not (math.isfinite(self.diversity_penalty) and self.diversity_penalty >= 0):
            raise ValueError(f"diversity_penalty must be at least 0, got {self.diversity_penalty}")
        if self.beams % self.beam_groups:
            raise ValueError(f"beam_groups must divide beams = {self.beams}, got {self.beam_groups}")
        if self.diversity_penalty and self.beam_groups == 1:
            raise ValueError(f"diversity_penalty {self.diversity_penalty} means nothing without beam_groups above 1")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping must be true, false or "never", got {self.early_stopping!r}')
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must hold texts that are not empty, got {self.stop!r}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0
