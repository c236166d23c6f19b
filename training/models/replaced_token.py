"""ELECTRA's two models: a generator that fills in masked tokens, a discriminator that finds them (Clark et al. 2020).

Shape suffixes: B sequences, T tokens.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from training.config import ModelConfig
from training.models.recompute import Recompute
from training.models.transformer import Transformer

_SHARED = ("embedding", "position_embedding", "type_embedding", "embedding_norm")


class ReplacedTokenModel(nn.Module):
    """A `discriminator`, which is what is used after training, and a narrower `generator` over the same embeddings.

    Shared are the token, position and token type embeddings (Clark et al. 2020, section 3.2) and their norm, as in the
    published code, whose scope `electra/embeddings` both models read; each has a projection of its own to its width.
    The generator's vocabulary head is tied to the shared token embedding. `config` is the discriminator's; weights are
    float32 and drawn from torch's global CPU generator.

    Raises ValueError where `generator_share` makes no valid model, and for a hashed bigram embedding.
    """

    bigrams = None

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        if config.bigram_buckets:
            raise ValueError("bigram_buckets does not go with architecture: replaced_token; set it to 0")
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.discriminator = Transformer(config, vocabulary_size)
        self.generator = Transformer(generator_config(config), vocabulary_size)
        # The generator's: it is drawn as what its head is tied to.
        for name in _SHARED:
            setattr(self.discriminator, name, getattr(self.generator, name))

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, **given: Any) -> Tensor:
        """The discriminator's logit (B, T) of each token being a replaced one; arguments as of `Transformer.hidden`."""
        return self.discriminator.replaced_logits(self.discriminator.hidden(ids_BT, documents_BT, **given))

    @property
    def blocks(self) -> list[nn.Module]:
        """The generator's, then the discriminator's."""
        return [*self.generator.blocks, *self.discriminator.blocks]

    def set_recompute(self, policy: Recompute, every: int = 1) -> None:
        """Choose which activations of every n-th layer are computed again in the backward pass (`recompute.py`)."""
        self.generator.set_recompute(policy, every)
        self.discriminator.set_recompute(policy, every)

    def reset_buffers(self) -> None:
        """Compute the position tables, on the device of the embedding; after `to_empty` they are undefined."""
        self.generator.reset_buffers()
        self.discriminator.reset_buffers()

    def reset_parameters(self) -> None:
        """Draw all weights anew, in the order of construction: what is shared is the generator's."""
        self.discriminator.reset_parameters()
        self.generator.reset_parameters()

    def parameters_count(self) -> int:
        """Trained parameters; what is tied or shared is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int, predicted: float = 1.0) -> int:
        """FLOPs of forward and backward of both for one token, as `Transformer` counts them.

        `predicted`: the share of the tokens whose logits the generator computes.
        """
        return self.generator.flops_per_token(sequence_length, predicted) + self.discriminator.flops_per_token(
            sequence_length
        )


def generator_config(config: ModelConfig) -> ModelConfig:
    """The shape of the generator beside a discriminator of this config, as the published code derives it.

    As many layers; the width times `generator_share`, rounded, the feed-forward layer in proportion; as many heads of
    the discriminator's width as fit, and at least one (Clark et al. 2020, table 6). Raises ValueError where these do
    not make a model.
    """
    share = config.generator_share
    width = round(config.width * share)
    heads = max(1, width // config.width_of_head)
    narrow = config.width_of_embedding
    try:
        return dataclasses.replace(
            config,
            architecture="transformer",
            width=width,
            heads=heads,
            kv_heads=None if config.kv_heads is None else math.gcd(heads, config.kv_heads),
            head_width=None,
            mlp_width=round(config.hidden_width * width / config.width),
            embedding_width=None if narrow == width else narrow,
            head="transform",
            head_bias=True,
            tied_embeddings=True,
            pooler=False,
            sentence_classes=0,
        )
    except ValueError as error:
        raise ValueError(
            f"generator_share {share:g} of width {config.width} makes no generator: {error}; choose a share of which "
            f"the width is a multiple of {config.width_of_head}"
        ) from None
