"""The reference of a run: an earlier one whose tokenizer and held-out documents it takes, so that both can be compared.

The split is a function of a document's id, so what the reference holds out is in no training part here, if fraction
and seed are the same; and they are, since they belong to the tokenizer. A copy of a held-out document under another id
is another matter: `decontaminate` takes those out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from pipeline.stage import StageConfig, document_input
from pipeline.store import Committed, StageRef, Store
from pipeline.tokens.marks import Marks, MarksConfig
from pipeline.tokens.stages import Tokenize, TokenizerConfig, TrainTokenizer

REFERENCE = "reference"
"""The name under which the reference's token shards are an input of training and evaluation."""


class ReferenceConfig(StageConfig):
    """Which run's tokenizer and held-out documents are taken; it lies in the same workspace."""

    recipe: str | None = Field(None, description="Name of a recipe: the newest run of it.")
    tokens: str | None = Field(None, description="Or the fingerprint of a committed output of the stage tokenize.")

    @model_validator(mode="after")
    def _check(self) -> ReferenceConfig:
        if (self.recipe is None) == (self.tokens is None):
            raise ValueError("give either recipe or tokens")
        return self


@dataclass(frozen=True)
class Reference:
    """A committed corpus of token shards, as another run takes it up."""

    store: Store
    ref: StageRef
    tokens: Committed
    tokenizer: TrainTokenizer

    def marks(self, config: MarksConfig) -> StageRef:
        """The marks of its shards. Raises ValueError where they were not made."""
        inputs = self._inputs(self.tokens)
        ref = self.store.ref(Marks.name, Marks(config, {**inputs, Tokenize.name: self.ref}).fingerprint())
        if not ref.is_committed:
            raise ValueError(
                f"reference: the held-out documents of {self.ref.path} have no marks of words and sentences, which the "
                "objective needs; run the reference with a section marks"
            )
        return ref

    def _inputs(self, committed: Committed) -> dict[str, StageRef]:
        return inputs_of(self.store, committed)


def inputs_of(store: Store, committed: Committed) -> dict[str, StageRef]:
    """What a committed stage was made from."""
    return {name: store.ref(name, fingerprint) for name, fingerprint in committed.manifest["inputs"].items()}


def find_reference(
    config: ReferenceConfig, store: Store, records: Sequence[dict[str, Any]], given: TokenizerConfig | None
) -> Reference:
    """Open the reference; `records` are those of the workspace's runs, `given` the recipe's own tokenizer section.

    Raises ValueError where there is no such run, it has not written its token shards, or its tokenizer is another one
    than the recipe asks for.
    """
    fingerprint = config.tokens or _newest(config, records)
    ref = store.ref(Tokenize.name, fingerprint)
    if not ref.is_committed:
        raise ValueError(f"reference: {ref.path} holds no committed token shards; run the reference first")
    tokens = ref.committed()
    inputs = inputs_of(store, tokens)
    made = inputs[TrainTokenizer.name].committed()
    tokenizer = TrainTokenizer(TokenizerConfig.model_validate(made.manifest["config"]), inputs_of(store, made))
    if tokenizer.fingerprint() != made.fingerprint:
        raise ValueError(f"reference: {made.path} was made by another version of Headrace; run the reference again")
    if given is not None:
        asked = TrainTokenizer(given, tokenizer.inputs).identity()
        differing = sorted(name for name, value in tokenizer.identity().items() if asked.get(name) != value)
        if differing:
            raise ValueError(
                f"tokenizer.{differing[0]}: the reference's tokenizer is taken, and it was trained with "
                f"{tokenizer.identity()[differing[0]]!r}, not {asked.get(differing[0])!r}; leave the section out"
            )
    return Reference(store, ref, tokens, tokenizer)


def document_ref(store: Store, tokens: Committed) -> StageRef:
    """The documents that token shards were made from."""
    inputs = inputs_of(store, tokens)
    return inputs[document_input(inputs)]


def _newest(config: ReferenceConfig, records: Sequence[dict[str, Any]]) -> str:
    found = [record for record in records if record["recipe"]["name"] == config.recipe]
    if not found:
        names = sorted({record["recipe"]["name"] for record in records})
        raise ValueError(
            f"reference.recipe: {config.recipe!r} has never run here; runs are of: {', '.join(names) or 'none'}"
        )
    return str(found[-1]["stages"][Tokenize.name])
