"""XLNet against transformers' XLNetLMHeadModel in float32 on random weights: logits, loss, all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import XLNetConfig, XLNetLMHeadModel

from tests.training.huggingface.parity import GRADIENT, LOGITS, LOSS, VOCABULARY, exported, imported, random_checkpoint
from training.checkpoints import load_model
from training.config import PRESETS, ModelConfig
from training.models.huggingface.settings import Settings
from training.models.huggingface.xlnet import XLNet
from training.models.two_stream import TwoStream

WIDTH, TOKENS, BATCH = 32, 11, 4
TARGETS = torch.tensor([[1, 4, 10], [0, 2, 3], [5, 8, 9], [2, 6, 7]])
LABELS = torch.randint(VOCABULARY, (2, BATCH, 3), generator=torch.Generator().manual_seed(1))
IDS = torch.randint(VOCABULARY, (2, BATCH, TOKENS), generator=torch.Generator().manual_seed(2))
TYPES = (torch.arange(TOKENS) > torch.tensor([3, 0, 7, 5])[:, None]).long()
PADDING = torch.arange(TOKENS) < torch.tensor([0, 2, 3, 1])[:, None]


def random_xlnet(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_layer=3, n_head=4, d_inner=64, dropout=0.0, mem_len=TOKENS, **settings
    )
    model = XLNetLMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if name.endswith("layer_norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                small = parameter.shape[0] == VOCABULARY or parameter.ndim < 3
                parameter.copy_(noise * (0.3 if small else 1.5 * WIDTH**-0.5))
    return model.eval()


def factorisation(step: int, ties: bool) -> Tensor:
    """Numbers (B, T) of the order; the targets come last, the others in any order or all at once."""
    generator = torch.Generator().manual_seed(10 + step)
    order = torch.full((BATCH, TOKENS), -1.0) if ties else -torch.rand(BATCH, TOKENS, generator=generator)
    return order.scatter(1, TARGETS, torch.rand(BATCH, TARGETS.shape[1], generator=generator))


def gradients_agree(ours: TwoStream, theirs: Any) -> None:
    found, mine = dict(theirs.named_parameters()), dict(ours.named_parameters())
    for entry in XLNet().counterparts(ours.config, Settings(theirs.config.to_dict()), VOCABULARY):
        parts = [found.pop(name).grad for name in entry.theirs]
        gradient = mine.pop(entry.ours).grad
        if any(part is None for part in parts):  # what plays no part has none there; here it may be zero
            assert gradient is None or not gradient.any(), entry.ours
            continue
        expected = entry.join(parts)
        assert expected.any(), entry.ours
        assert (gradient - expected).abs().max() / expected.abs().max() < GRADIENT, entry.ours
    assert not found
    assert not mine


@pytest.mark.parametrize(
    ("types", "padding", "memory", "backward", "ties"),
    [
        (False, False, False, False, False),
        (True, False, False, False, True),
        (False, True, False, False, True),
        (True, True, True, False, False),
        (True, True, True, True, True),
    ],
    ids=["plain", "types", "padding", "memory", "all"],
)
def test_parity_xlnet_permutation(
    types: bool, padding: bool, memory: bool, backward: bool, ties: bool, tmp_path: Path
) -> None:
    theirs = random_xlnet(tie_word_embeddings=not ties)
    ours = imported(theirs, tmp_path)
    # Set behind the import: transformers gives the second half of the batch distances of the opposite sign.
    theirs.transformer.bi_data = backward
    mems = kept = None
    total, expected = [], []
    for step in range(2 if memory else 1):
        order = factorisation(step, ties)
        is_target = torch.zeros(BATCH, TOKENS, dtype=torch.bool).scatter(1, TARGETS, True)
        itself = torch.eye(TOKENS, dtype=torch.bool) & is_target[:, :, None]
        output = theirs(
            IDS[step],
            perm_mask=((order[:, None, :] > order[:, :, None]) | itself).float(),
            target_mapping=F.one_hot(TARGETS, TOKENS).float(),
            token_type_ids=TYPES if types else None,
            attention_mask=(~PADDING).float() if padding else None,
            mems=mems,
            use_mems=True,
            labels=LABELS[step],
        )
        mems = output.mems
        hidden, kept = ours.eval().streams(
            IDS[step],
            order,
            TARGETS,
            segments_BT=TYPES if types else None,
            padding_BT=PADDING if padding else None,
            backward_B=torch.arange(BATCH) >= BATCH // 2 if backward else None,
            memory=kept,
        )
        # Every token of the memory is seen there, padding too.
        kept = kept._replace(visible_BM=torch.ones(BATCH, TOKENS, dtype=torch.bool))
        logits = ours.head(hidden)
        torch.testing.assert_close(logits, output.logits, **LOGITS)
        for state, mem in zip(kept.states, output.mems, strict=True):
            torch.testing.assert_close(state, mem.transpose(0, 1), **LOGITS)
            assert not state.requires_grad
        total.append(F.cross_entropy(logits.flatten(0, 1), LABELS[step].flatten()))
        expected.append(output.loss)
        torch.testing.assert_close(total[-1], output.loss, **LOSS)
    torch.stack(total).sum().backward()
    torch.stack(expected).sum().backward()
    gradients_agree(ours, theirs)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_parity_xlnet_content_stream(activation: str, tmp_path: Path) -> None:
    theirs = random_xlnet(ff_activation=activation)
    ours = imported(theirs, tmp_path).eval()
    first = ours.streams(IDS[1], torch.zeros(BATCH, TOKENS), TARGETS)[1]
    mems = theirs(IDS[1], use_mems=True).mems
    # Padding of ragged lengths is a document of its own; what its rows hold is nobody's concern.
    documents = (~PADDING).long()
    labels = IDS[1].masked_fill(PADDING, -100)
    output = theirs(
        IDS[0], attention_mask=documents.float(), token_type_ids=TYPES, mems=mems, use_mems=True, labels=labels
    )
    logits = ours(IDS[0], documents, segments_BT=TYPES, memory=first)
    torch.testing.assert_close(logits[~PADDING], output.logits[~PADDING], **LOGITS)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, output.loss, **LOSS)
    loss.backward()
    output.loss.backward()
    gradients_agree(ours, theirs)


def test_packed_documents_are_as_if_alone(tmp_path: Path) -> None:
    theirs = random_xlnet()
    ours = imported(theirs, tmp_path).eval()
    documents = torch.tensor([[1] * 4 + [2] * 7])
    logits = ours(IDS[0][:1], documents)
    for part in (slice(0, 4), slice(4, 11)):
        alone = theirs(IDS[0][:1, part]).logits
        torch.testing.assert_close(logits[:, part], alone, **LOGITS)


@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False, "head_bias": False, "bias": "none"}])
def test_export_xlnet(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**PRESETS["xlnet-tiny"], "width": WIDTH, "context_length": 40, **changes}
    checkpoint = random_checkpoint(tmp_path / "run", **config)
    theirs = exported(checkpoint, tmp_path / "hub")
    assert isinstance(theirs, XLNetLMHeadModel)
    ours, _ = load_model(checkpoint)
    torch.testing.assert_close(
        ours.eval()(IDS[0], segments_BT=TYPES), theirs(IDS[0], token_type_ids=TYPES).logits, **LOGITS
    )
    again = imported(theirs, tmp_path / "again")
    assert again.config.context_length == 40
    torch.testing.assert_close(again.eval()(IDS[0]), ours(IDS[0]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"attn_type": "uni"}, "attn_type"), ({"clamp_len": 8}, "clamp_len"), ({"untie_r": False}, "untie_r")],
)
def test_other_variants_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        imported(random_xlnet(), tmp_path, **settings)


def test_the_presets_are_as_large_as_the_published_models() -> None:
    for name, settings in (
        ("xlnet-base", {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}),
        ("xlnet-large", {}),
    ):
        with torch.device("meta"):
            theirs = XLNetLMHeadModel(XLNetConfig(**settings))
            theirs.tie_weights()
            ours = TwoStream(ModelConfig(**PRESETS[name]), 32_000)
        assert ours.parameters_count() == sum(parameter.numel() for parameter in theirs.parameters())
