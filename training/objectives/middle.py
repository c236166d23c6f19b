"""Fill-in-the-middle: the middle of a document moved to its end (Bavarian et al. 2022, section 3).

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.models.positions import document_starts
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Setting
from training.rows import PADDING

SENTINELS = 3
"""Ids behind the tokenizer's: prefix, middle, suffix."""
_CHOSEN, _MODE, _CUT, _OTHER_CUT = 401, 402, 403, 404


def fill_in_the_middle(rows: Batch, rate: float, setting: Setting) -> Tensor:
    """The tokens (B, T) of windows, with a share `rate` of their documents rearranged.

    At the level of the context, as in section 3.2 there: of a document that the window cuts, the part inside is one.
    Two cuts drawn uniformly part it, between tokens and not characters, into prefix, middle and suffix. One half
    becomes [prefix id] prefix [suffix id] suffix [middle id] middle (PSM), the other [prefix id] [suffix id] suffix
    [middle id] prefix middle (SPM, the paper's variant 2, which is the one to train jointly with PSM). The ids are the
    tokenizer's vocabulary size + 0 (prefix), + 1 (middle) and + 2 (suffix). They take the places of the document's last
    three tokens, which are left out, so that every end-of-text id stays where it is; documents of fewer than four
    tokens stay as they are.
    """
    tokens_BT = rows["tokens"]
    ends_BT = (tokens_BT == setting.end_of_text) | (tokens_BT == PADDING)
    first_BT, length_BT = _spans(ends_BT)
    text_BT = length_BT - SENTINELS
    places_BT, visits_B1 = rows["places"][:, None] + first_BT, rows["visits"][:, None]

    def drawn(stream: int) -> Tensor:
        return uniform(places_BT, visits_B1, setting.seed, stream)

    cuts = [(drawn(stream) * (text_BT + 1)).long() for stream in (_CUT, _OTHER_CUT)]
    begin_BT, end_BT = torch.minimum(*cuts), torch.maximum(*cuts)
    place_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) - first_BT
    moved_BT = torch.where(
        drawn(_MODE) < 0.5,
        _prefix_suffix_middle(place_BT, begin_BT, end_BT, text_BT),
        _suffix_prefix_middle(place_BT, begin_BT, end_BT, text_BT),
    )
    chosen_BT = (drawn(_CHOSEN) < rate) & ~ends_BT & (text_BT > 0)
    target_BT = torch.where(chosen_BT, first_BT + moved_BT, first_BT + place_BT)
    # The last three places of a document hold the ids before they are moved: prefix, suffix, middle.
    over_BT = place_BT - text_BT
    ids_BT = setting.vocabulary_size + torch.where(over_BT == 1, 2, torch.where(over_BT == 2, 1, 0))
    marked_BT = torch.where(chosen_BT & (over_BT >= 0), ids_BT, tokens_BT)
    return torch.empty_like(tokens_BT).scatter_(1, target_BT, marked_BT)


def _spans(ends_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Where the document of each token begins in the row, and its length; an end is a document by itself."""
    tokens = ends_BT.shape[1]
    place_T = torch.arange(tokens, device=ends_BT.device)
    numbers_BT = 2 * ends_BT.cumsum(1) - ends_BT.long()
    starts_BT = document_starts(numbers_BT)
    first_BT = torch.where(starts_BT, place_T, 0).cummax(dim=1).values
    last_BT = torch.ones_like(starts_BT)
    last_BT[:, :-1] = starts_BT[:, 1:]
    behind_BT = torch.where(last_BT, place_T + 1, tokens).flip(1).cummin(dim=1).values.flip(1)
    return first_BT, behind_BT - first_BT


def _prefix_suffix_middle(place: Tensor, begin: Tensor, end: Tensor, text: Tensor) -> Tensor:
    """Where each token of a document goes; the three places from `text` on are those of the prefix, suffix, middle ids.

    `begin` and `end` are those of the middle.
    """
    prefix = 1 + place
    suffix = 2 + place - (end - begin)
    middle = 3 + place + text - end
    ids = torch.where(place == text, 0, torch.where(place == text + 1, 1 + begin, 2 + text - (end - begin)))
    return _by_part(place, begin, end, text, (prefix, middle, suffix, ids))


def _suffix_prefix_middle(place: Tensor, begin: Tensor, end: Tensor, text: Tensor) -> Tensor:
    """The same for the other order, in which prefix and middle are one."""
    together = 3 + place + text - end
    suffix = 2 + place - end
    ids = torch.where(place == text, 0, torch.where(place == text + 1, 1, 2 + text - end))
    return _by_part(place, begin, end, text, (together, together, suffix, ids))


def _by_part(
    place: Tensor, begin: Tensor, end: Tensor, text: Tensor, targets: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    prefix, middle, suffix, ids = targets
    return torch.where(place < begin, prefix, torch.where(place < end, middle, torch.where(place < text, suffix, ids)))
