"""Text from trained models: streams, batches, beams, draws, drafts and constraints.

The way of a token: `sequences` (what the model reads, each token once) -> `drawing` or `beams` (which token comes
next) -> `generator` (until the text ends) -> `stops` (the text up to a stop string).
"""

from training.config.generation import GenerationConfig
from training.generation.drawing import Constraint, choose
from training.generation.generator import DEFAULT_PROMPTS, Generator
from training.generation.hypothesis import Hypothesis, Sample, as_dicts
from training.generation.texts import (
    END_OF_TEXT,
    begin_of_text_id,
    end_of_text_id,
    load_tokenizer,
    objective_of,
    read_tokenizer,
)

__all__ = [
    "DEFAULT_PROMPTS",
    "END_OF_TEXT",
    "Constraint",
    "GenerationConfig",
    "Generator",
    "Hypothesis",
    "Sample",
    "as_dicts",
    "begin_of_text_id",
    "choose",
    "end_of_text_id",
    "load_tokenizer",
    "objective_of",
    "read_tokenizer",
]
