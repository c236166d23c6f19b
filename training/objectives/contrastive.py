"""Embeddings of sentences: each is to be nearer to its own other view than to all others (SimCSE, Gao et al. 2021).

Shape suffixes: B rows, T tokens, E sentences (or examples) of a row, K sentences of an example (1: itself), D width of
a vector, N sentences that are compared, M further negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ObjectiveConfig
from training.objectives.cross_entropy import IGNORED
from training.objectives.examples import HELD_OUT, Examples, read_examples
from training.objectives.masked import gathered
from training.objectives.objective import Batch, Measures, Objective, Setting, share
from training.objectives.queue import MomentumQueue
from training.rows import Form, Packed

_INPUTS = ("inputs", "documents", "firsts")
_PASS_TOKENS = 8192
"""Tokens in one pass of the momentum encoder."""


class Compared(NamedTuple):
    """Sentences and what they are compared with; the first dimensions may be any."""

    anchors_ND: Tensor
    positives_ND: Tensor
    valid_N: Tensor
    """bool: whether there is a sentence here."""
    negatives_MD: Tensor
    """Of no anchor the positive."""
    valid_M: Tensor


class ContrastiveObjective(Objective):
    """Cross-entropy of each sentence's own other view among those of all, by cosine over `temperature` (equation 1).

    Unsupervised (section 3), the two views of a sentence differ by dropout alone; both go through the encoder in one
    pass. Supervised (section 4, equation 5), the views are an anchor and its positive, and the negatives of all anchors
    are among the others. As in the published code the loss goes one way, from the first view to the second, and the
    others are all sentences of the micro-batch in all processes: gradient accumulation adds none. With a queue there
    are those of earlier batches, too, as in ESimCSE (Wu et al. 2022, section 3.2).
    """

    def __init__(self, config: ObjectiveConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        for name in ("first", "separator", "padding"):
            setting.special(name)
        size = config.contrastive.queue
        self._queue = MomentumQueue(size, config.contrastive.momentum) if size else None
        self._prepared: Batch | None = None

    def form(self, length: int) -> Form:
        """Sentences of the corpus, or examples of a file, which is read here.

        Raises ValueError for a broken file, and where a row has no room for two examples.
        """
        config, setting = self.config.contrastive, self.setting
        first, separator, padding = (setting.special(name) for name in ("first", "separator", "padding"))
        if config.examples is not None:
            if setting.tokenizer_path is None:
                raise ValueError("contrastive.examples is text, which takes the run's tokenizer_path to read")
            table = read_examples(config.examples, setting.tokenizer_path, config.sentence_length, first, separator)
            return Examples(length, table, padding, setting.seed)
        return Packed(
            length,
            "sentences",
            first=first,
            separator=separator,
            padding=padding,
            end_of_text=setting.end_of_text,
            seed=setting.seed,
            longest=config.sentence_length,
        )

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """`inputs` and `documents` (B, T), `firsts` (B, E, K) int64, `present` (B, E, K) bool, `share` (B,) float32.

        `present`: whether there is a sentence in a place. `share`: the anchors of the whole batch by row.
        """
        prefix = HELD_OUT if self._supervised and not training else ""
        documents_BT, firsts_BEK = rows[f"{prefix}documents"], rows[f"{prefix}firsts"]
        if not self._supervised:
            firsts_BEK = firsts_BEK.unsqueeze(2)
        numbers_S = torch.arange(1, firsts_BEK[0].numel() + 1, device=firsts_BEK.device)
        present_BEK = (documents_BT.gather(1, firsts_BEK.flatten(1)) == numbers_S).view_as(firsts_BEK)
        batch = {
            "inputs": rows[f"{prefix}tokens"],
            "documents": documents_BT,
            "firsts": firsts_BEK,
            "present": present_BEK,
            "share": share(present_BEK[:, :, 0], of_all=False),
        }
        if training and self._queue is not None:
            self._prepared = batch
        return batch

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The mean over the anchors of all processes; its gradient is that of the mean over processes."""
        first, second = self._views(model, batch)
        found = compared(self._pooled(model, first), self._pooled(model, second), batch["present"])
        found = Compared(*(tensor.flatten(0, 1) for tensor in found))
        with torch.autocast(batch["inputs"].device.type, enabled=False):
            everywhere, total, size = from_all(found, batch["share"].sum())
            if self._queue is not None:
                vectors_QD, filled_Q = self._queue.negatives(model)
                negatives_MD = torch.cat((everywhere.negatives_MD, vectors_QD))
                everywhere = everywhere._replace(
                    negatives_MD=negatives_MD, valid_M=torch.cat((everywhere.valid_M, filled_Q))
                )
            losses_N, _ = contrast(everywhere, self.config.contrastive.temperature)
            loss = losses_N.sum() / total.clamp(min=torch.finfo(total.dtype).tiny)
        # The trainer takes the mean of the gradients, but each process has only its vectors' part of the sum.
        return loss * size - (loss * (size - 1)).detach() if size > 1 else loss

    @torch.no_grad()
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """`loss` and `contrastive_accuracy` in each row; `alignment`, `uniformity` (Wang & Isola 2020).

        The others are those of the same row, so that nothing depends on how validation is split. The two views of an
        unsupervised sentence are made by dropout here too, from the same random numbers each time; without it they
        would be equal. `alignment` is the mean squared distance of the unit vectors of both views, and `uniformity` the
        log of the mean of exp(-2 squared distance) over the pairs of a row's anchors, without dropout, a mean over
        rows. Both are of the vectors that are used after training, without the pooler.
        """
        with _dropping(model, self.setting.seed, on=not self._supervised):
            first, second = self._views(model, batch)
        plain = first if self._supervised else self._encode(model, batch)
        pooled = compared(self._pooled(model, first), self._pooled(model, second), batch["present"])
        used = compared(first, second, batch["present"])
        with torch.autocast(batch["inputs"].device.type, enabled=False):
            losses_BE, hits_BE = contrast(pooled, self.config.contrastive.temperature)
            distances_BE = (used.anchors_ND - used.positives_ND).square().sum(2) * used.valid_N
            uniformity = _uniformity(compared(plain, plain, batch["present"]))
        count_B = used.valid_N.sum(1)
        return {
            "loss": (losses_BE.sum(1, dtype=torch.float64), count_B),
            "contrastive_accuracy": (hits_BE.sum(1, dtype=torch.float64), count_B),
            "alignment": (distances_BE.sum(1, dtype=torch.float64), count_B),
            "uniformity": uniformity,
        }

    def flops_per_token(self, model: Any, length: int) -> int:
        """Two passes over each token for two views by dropout; no vocabulary head. The queue's are not counted."""
        flops: int = model.flops_per_token(length, predicted=0.0)
        return flops if self._supervised else 2 * flops

    def state_tensors(self) -> dict[str, Tensor]:
        """The queue and the average of the encoder."""
        return {} if self._queue is None else self._queue.state_tensors()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned."""
        if self._queue is None:
            super().load_state_tensors(tensors)
        else:
            self._queue.load_state_tensors(tensors)

    def after_step(self, model: Any) -> None:
        """Let the average of the encoder follow, and queue its vectors of the batch's sentences (anchors)."""
        if self._queue is not None and self._prepared is not None:
            batch, self._prepared = self._prepared, None
            self._queue.advance(model, lambda: self._keys(model, batch))

    @property
    def _supervised(self) -> bool:
        return self.config.contrastive.examples is not None

    def _views(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The vectors (B, E, K, D) of both views, before the pooler: of a sentence itself, twice in one pass."""
        if self._supervised:
            vectors_BEKD = self._encode(model, batch)
            return vectors_BEKD, vectors_BEKD
        first_BEKD, second_BEKD = self._encode(model, {name: torch.cat([batch[name]] * 2) for name in _INPUTS}).chunk(2)
        return first_BEKD, second_BEKD

    def _encode(self, model: Any, batch: Batch) -> Tensor:
        hidden_BTD = model.hidden(batch["inputs"], batch["documents"], causal=False)
        firsts_BS = batch["firsts"].flatten(1)
        if self.config.contrastive.pooling == "first":
            vectors_BSD = gathered(hidden_BTD, firsts_BS)
        else:
            vectors_BSD = document_means(hidden_BTD, batch["documents"], firsts_BS.shape[1])
        return vectors_BSD.unflatten(1, batch["firsts"].shape[1:])

    def _pooled(self, model: Any, vectors_BEKD: Tensor) -> Tensor:
        if model.pooler is None or self.config.contrastive.pooling != "first":
            return vectors_BEKD
        pooled_BEKD: Tensor = model.pooled(vectors_BEKD)
        return pooled_BEKD

    def _keys(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors of the anchors of the batch, of all processes, and which there are."""
        rows = max(1, _PASS_TOKENS // batch["inputs"].shape[1])
        parts = zip(*(batch[name].split(rows) for name in _INPUTS), strict=True)
        vectors = [self._encode(model, dict(zip(_INPUTS, part, strict=True))) for part in parts]
        pooled_BEKD = self._pooled(model, torch.cat(vectors))
        found = compared(pooled_BEKD, pooled_BEKD, batch["present"])
        everywhere, *_ = from_all(Compared(*(tensor.flatten(0, 1) for tensor in found)), batch["share"].sum())
        return everywhere.anchors_ND, everywhere.valid_N


def compared(first_BEKD: Tensor, second_BEKD: Tensor, present_BEK: Tensor) -> Compared:
    """What is compared in each row, as unit vectors (float32 at least) of the two views of its sentences.

    An anchor's positive is the second sentence of its example, or where there is but one the other view of itself.
    """
    first, second = (
        F.normalize(view.to(torch.promote_types(view.dtype, torch.float32)), dim=-1)
        for view in (first_BEKD, second_BEKD)
    )
    kinds = present_BEK.shape[2]
    return Compared(
        first[:, :, 0],
        second[:, :, min(1, kinds - 1)],
        present_BEK[:, :, 0],
        second[:, :, 2:].flatten(1, 2),
        present_BEK[:, :, 2:].flatten(1, 2),
    )


def contrast(found: Compared, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy (..., N) of each anchor's positive among all positives and negatives, 0 where there is no anchor.

    The scores are the products of the unit vectors over the temperature. Also whether the own positive is the nearest.
    """
    others = torch.cat((found.positives_ND, found.negatives_MD), -2)
    valid = torch.cat((found.valid_N, found.valid_M), -1)
    scores = found.anchors_ND @ others.mT / temperature
    # A finite number, so that rows without any sentence make no NaN.
    scores = scores.masked_fill(~valid.unsqueeze(-2), torch.finfo(scores.dtype).min)
    count = found.valid_N.shape[-1]
    own_N = torch.arange(count, device=scores.device).expand_as(found.valid_N)
    targets_N = own_N.where(found.valid_N, IGNORED)
    losses_N = F.cross_entropy(scores.flatten(0, -2), targets_N.flatten(), ignore_index=IGNORED, reduction="none")
    return losses_N.view_as(own_N), scores.argmax(-1) == targets_N


def document_means(hidden_BTD: Tensor, documents_BT: Tensor, count: int) -> Tensor:
    """Mean hidden state (B, S, D) of the documents 1 to `count` of each row; 0 where there is none."""
    numbers_S1 = torch.arange(1, count + 1, device=documents_BT.device).unsqueeze(1)
    inside_BST = (documents_BT.unsqueeze(1) == numbers_S1).to(hidden_BTD.dtype)
    return inside_BST @ hidden_BTD / inside_BST.sum(2, keepdim=True).clamp(min=1)


@torch.compiler.disable
def from_all(found: Compared, count: Tensor) -> tuple[Compared, Tensor, int]:
    """What is compared in all processes, in the order of their ranks; the sum of `count`; and the number of processes.

    Takes vectors (N, D) and (M, D), as many in each process. Gradients flow into those of this process only.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return found, count, 1
    total = count.clone()
    dist.all_reduce(total)
    pairs = _in_order_of_rank(torch.cat((found.anchors_ND, found.positives_ND, _column(found.valid_N)), 1))
    further = _in_order_of_rank(torch.cat((found.negatives_MD, _column(found.valid_M)), 1))
    width = found.anchors_ND.shape[1]
    everywhere = Compared(pairs[:, :width], pairs[:, width:-1], pairs[:, -1] > 0, further[:, :-1], further[:, -1] > 0)
    return everywhere, total, dist.get_world_size()


def _in_order_of_rank(own: Tensor) -> Tensor:
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[dist.get_rank()] = own
    return torch.cat(parts)


def _column(valid_N: Tensor) -> Tensor:
    return valid_N.float().unsqueeze(1)


def _uniformity(found: Compared) -> tuple[Tensor, Tensor]:
    """By row: the log (B,) of the mean of exp(-2 squared distance) over the pairs of its anchors; 1 where there is one.

    Wang & Isola 2020, section 4.1.2.
    """
    distances_BEE = 2 - 2 * found.anchors_ND @ found.anchors_ND.mT
    pairs_BEE = (found.valid_N.unsqueeze(2) & found.valid_N.unsqueeze(1)).tril(-1)
    kernel_BEE = torch.exp(-2 * distances_BEE.clamp(min=0)) * pairs_BEE
    count_B = pairs_BEE.sum((1, 2))
    mean_B = kernel_BEE.sum((1, 2), dtype=torch.float64) / count_B
    return torch.where(count_B > 0, mean_B, 1.0).log(), (count_B > 0).long()


@contextmanager
def _dropping(model: nn.Module, seed: int, on: bool) -> Iterator[None]:
    """Have dropout in a model that is in evaluation mode, from random numbers of its own, if `on`."""
    if not on:
        yield
        return
    device, training = next(model.parameters()).device, model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        try:
            yield
        finally:
            model.train(training)
