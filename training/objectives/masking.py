"""Which tokens of a row are to be predicted from the others, and what stands in their place.

The text is cut into units: tokens, words, n-grams or spans of words. In each row the units are put into a random order,
in which they lie one behind another on a circle of n points, the number of tokens of the text; those that begin within
an arc of rate * n points from a random place are chosen (randomised systematic sampling, Madow 1949). As the place is
uniform, each unit, and so each token, is chosen with a probability of exactly `rate`, whatever the sizes of the units;
and a row has rate * n chosen tokens, off by less than one unit, so that a fixed number of slots holds them.

All is done in integers or exact float32: the same on every device. Shape suffixes: B rows, T tokens, P slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import MaskingConfig
from training.objectives.cross_entropy import IGNORED
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Setting

_BITS = 24
"""Of the noise, and of the rate as it is compared with it."""
_MOST_TOKENS = {"token": 1, "word": 16, "ngram": 32, "span": 32}
"""Longest unit. A longer n-gram or span falls into its words, a longer word into pieces."""
_SPAN_END = 0.2  # p of the geometric distribution, SpanBERT, section 3.1
_ORDER, _ROTATION, _LENGTH, _FATE, _REPLACEMENT = range(100, 105)  # streams of noise


class Masked(NamedTuple):
    """Rows of which some tokens are to be predicted."""

    inputs_BT: Tensor
    """int64: what the model reads."""
    positions_BP: Tensor
    """int64: places in the row of the chosen tokens, in their order; 0 in slots behind the last one."""
    targets_BP: Tensor
    """int64: the tokens that stood there; IGNORED in slots behind the last one."""


def slots(config: MaskingConfig, length: int) -> int:
    """P: as many tokens as are ever chosen in a row of `length`; with unit token ceil(rate * length).

    The arc holds at most ceil(rate * n) beginnings of one-token units; the last unit may reach beyond it.
    """
    return min(length, -(-_rate(config) * length >> _BITS) + _MOST_TOKENS[config.unit] - 1)


def mask(rows: Batch, config: MaskingConfig, setting: Setting) -> Masked:
    """Choose tokens of packed rows (`training.rows.Packed`) and put something in their place.

    Reads `tokens`, `places` and `words` (B, T) and `visits` (B,). Tokens without a place in the corpus (special ones
    and padding) are never chosen and belong to no unit. Of the chosen ones `mask_share` become the mask token,
    `random_share` a token drawn evenly from those of the tokenizer that are not special, and the rest stay (BERT,
    section 3.1): each token by itself, but with unit `span` the whole span alike (SpanBERT, section 3.1).

    Raises ValueError where the tokenizer has no mask token.
    """
    tokens_BT, places_BT = rows["tokens"], rows["places"]
    visits_B1 = rows["visits"].unsqueeze(1)
    if config.copies is not None:
        visits_B1 = visits_B1 % config.copies
    firsts_BT = unit_firsts(places_BT, rows["words"], visits_B1, config, setting.seed)
    chosen_BT = _chosen(firsts_BT, places_BT, visits_B1, config, setting.seed)
    positions_BP, used_BP = _positions(chosen_BT, slots(config, tokens_BT.shape[1]))
    targets_BP = tokens_BT.gather(1, positions_BP)
    # Whatever is drawn for a slot that is not used is written behind the row, and cut off.
    replaced_BP = _replaced(targets_BP, places_BT, positions_BP, firsts_BT, visits_B1, config, setting)
    length = tokens_BT.shape[1]
    inputs_BT = F.pad(tokens_BT, (0, 1)).scatter_(1, positions_BP.where(used_BP, length), replaced_BP)[:, :length]
    return Masked(inputs_BT.contiguous(), positions_BP, targets_BP.where(used_BP, IGNORED))


def unit_firsts(places_BT: Tensor, words_BT: Tensor, visits_B1: Tensor, config: MaskingConfig, seed: int) -> Tensor:
    """The place in the row (B, T) int64 of the first token of the unit that each token of the text belongs to.

    A unit never reaches beyond a special token. Elsewhere the value means nothing.
    """
    numbers_T = torch.arange(places_BT.shape[1], device=places_BT.device)
    if config.unit == "token":
        return numbers_T.expand_as(places_BT)
    text_BT = places_BT >= 0
    parts_BT = text_BT & ~F.pad(text_BT, (1, 0))[:, :-1]
    words_BT = text_BT & (words_BT | parts_BT)
    starts_BT, most = words_BT, _MOST_TOKENS[config.unit]
    if config.unit != "word":
        starts_BT = _gram_starts(words_BT, parts_BT, places_BT, visits_B1, config, seed)
        firsts_BT = _latest(starts_BT, numbers_T)
        starts_BT = starts_BT | (words_BT & (_sizes(firsts_BT, text_BT).gather(1, firsts_BT) > most))
    firsts_BT = _latest(starts_BT, numbers_T)
    return numbers_T - (numbers_T - firsts_BT) % most


def _gram_starts(
    words_BT: Tensor, parts_BT: Tensor, places_BT: Tensor, visits_B1: Tensor, config: MaskingConfig, seed: int
) -> Tensor:
    """Where n-grams of words begin (B, T) bool: each part of the text is cut into them from its first word on.

    `words_BT` and `parts_BT` say where words and parts begin. The k-th n-gram of a part has the length drawn for its
    k-th word; the last one ends with the part.
    """
    tokens = words_BT.shape[1]
    noise_BT = uniform(places_BT, visits_B1, seed, _LENGTH)
    lengths_BT = torch.ones_like(places_BT)
    for bound in _length_bounds(config):
        lengths_BT += noise_BT >= bound
    lengths_BT *= words_BT
    # Numbers of the words, and of the words at which n-grams would begin if the row were one part: the second runs
    # ahead of the first, the more the further on, so that the largest lead so far is that of the part's beginning.
    numbers_BT = words_BT.cumsum(1) - 1
    begins_BT = lengths_BT.cumsum(1) - lengths_BT
    leads_BT = (begins_BT - numbers_BT) * parts_BT
    begins_BT = (begins_BT - leads_BT.cummax(1).values).clamp(max=tokens)
    # A beginning counts if the word with its number belongs to the same part.
    part_BT = parts_BT.cumsum(1)
    slots_BT = numbers_BT.where(words_BT, tokens)
    part_of_word = torch.zeros_like(F.pad(part_BT, (0, 1))).scatter_(1, slots_BT, part_BT)
    counts_BT = words_BT & (part_of_word.gather(1, begins_BT) == part_BT)
    found = torch.zeros_like(part_of_word).scatter_(1, begins_BT.where(counts_BT, tokens), 1)
    return words_BT & (found.gather(1, slots_BT) > 0)


def _length_bounds(config: MaskingConfig) -> list[float]:
    """Cumulative probabilities of the lengths 1 .. longest - 1 of an n-gram or span."""
    lengths = range(1, config.longest + 1)
    if config.unit == "ngram":
        weights = [1 / length for length in lengths]
    else:
        weights = [_SPAN_END * (1 - _SPAN_END) ** (length - 1) for length in lengths]
    return [sum(weights[:length]) / sum(weights) for length in lengths[:-1]]


def _chosen(firsts_BT: Tensor, places_BT: Tensor, visits_B1: Tensor, config: MaskingConfig, seed: int) -> Tensor:
    """Which tokens (B, T) bool are chosen, whole units of them."""
    text_BT = places_BT >= 0
    sizes_BT = _sizes(firsts_BT, text_BT)
    order_BT = (
        uniform(places_BT, visits_B1, seed, _ORDER).masked_fill(sizes_BT == 0, 1.0).sort(dim=1, stable=True).indices
    )
    ordered_BT = sizes_BT.gather(1, order_BT)
    # Points of the circle in 2^-24ths of a token: there, both the rotation and the arc are whole numbers.
    begins_BT = (ordered_BT.cumsum(1) - ordered_BT) << _BITS
    count_B1 = text_BT.sum(1, keepdim=True)
    turn_B1 = (uniform(places_BT.amax(1, keepdim=True), visits_B1, seed, _ROTATION) * 2**_BITS).long() * count_B1
    behind_BT = begins_BT - turn_B1
    behind_BT += (behind_BT < 0) * (count_B1 << _BITS)
    within_BT = behind_BT < count_B1 * _rate(config)
    return torch.zeros_like(text_BT).scatter_(1, order_BT, within_BT).gather(1, firsts_BT) & text_BT


def _sizes(firsts_BT: Tensor, text_BT: Tensor) -> Tensor:
    """Tokens of each unit (B, T) int64, at its first token; 0 elsewhere."""
    return torch.zeros_like(firsts_BT).scatter_add_(1, firsts_BT, text_BT.long())


def _latest(starts_BT: Tensor, numbers_T: Tensor) -> Tensor:
    """The last place up to each token where something begins; 0 before the first one."""
    return (starts_BT * numbers_T).cummax(1).values


def _positions(chosen_BT: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Places of the chosen tokens (B, size) int64, 0 behind the last one; and whether a slot is used."""
    count_B1 = chosen_BT.sum(1, keepdim=True)
    slot_BT = (chosen_BT.cumsum(1) - 1).where(chosen_BT, size)
    numbers_T = torch.arange(chosen_BT.shape[1], device=chosen_BT.device)
    positions = torch.zeros(len(chosen_BT), size + 1, dtype=torch.int64, device=chosen_BT.device)
    positions_BP = positions.scatter_(1, slot_BT, numbers_T.expand_as(slot_BT))[:, :size].contiguous()
    return positions_BP, torch.arange(size, device=chosen_BT.device) < count_B1


def _replaced(
    targets_BP: Tensor,
    places_BT: Tensor,
    positions_BP: Tensor,
    firsts_BT: Tensor,
    visits_B1: Tensor,
    config: MaskingConfig,
    setting: Setting,
) -> Tensor:
    """What stands in the place of the chosen tokens (B, P)."""
    places_BP = places_BT.gather(1, positions_BP)
    deciding_BP = places_BP
    if config.unit == "span":
        deciding_BP = places_BT.gather(1, firsts_BT.gather(1, positions_BP))
    fate_BP = uniform(deciding_BP, visits_B1, setting.seed, _FATE)
    random_BP = ordinary_token(uniform(places_BP, visits_B1, setting.seed, _REPLACEMENT), setting)
    replaced_BP = random_BP.where(fate_BP < config.mask_share + config.random_share, targets_BP)
    return replaced_BP.masked_fill(fate_BP < config.mask_share, setting.special("mask"))


def ordinary_token(noise: Tensor, setting: Setting) -> Tensor:
    """Turn numbers in [0, 1) into ids, int64, drawn evenly from those of the tokenizer that are not special."""
    tokens = setting.special_tokens
    known = (setting.end_of_text, tokens.padding, tokens.mask, tokens.first, tokens.separator)
    special = sorted({token for token in known if token is not None and token < setting.vocabulary_size})
    ids = (noise.double() * (setting.vocabulary_size - len(special))).long()
    for token in special:
        ids += ids >= token
    return ids


def _rate(config: MaskingConfig) -> int:
    return round(config.rate * 2**_BITS)
