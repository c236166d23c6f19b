"""Masks against a reference that goes token by token, published numbers, and counts over a million tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.config import MaskingConfig, SpecialTokens
from training.objectives.cross_entropy import IGNORED
from training.objectives.masking import Masked, _length_bounds, mask, slots, unit_firsts
from training.objectives.noise import uniform
from training.objectives.objective import Setting

VOCABULARY = 1000
SPECIAL = SpecialTokens(padding=0, mask=4, first=2, separator=3)
SETTING = Setting(VOCABULARY, end_of_text=1, special_tokens=SPECIAL, seed=7)
ORDINARY = range(5, VOCABULARY)
Rows = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_rows(rows: int, length: int, parts: int = 1, within_words: float = 0.3, seed: int = 0, visit: int = 0) -> Rows:
    """Rows of [first] text [separator] sequences of about the same length, and two tokens of padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(ORDINARY.start, VOCABULARY, (rows, length), generator=generator)
    special = torch.full((length,), -1)
    for part in range(parts):
        special[part * (length - 2) // parts] = SPECIAL.first
        special[(part + 1) * (length - 2) // parts - 1] = SPECIAL.separator
    special[length - 2 :] = SPECIAL.padding
    text = special < 0
    places = 10**6 * seed + torch.arange(rows * length).view(rows, length)
    return {
        "tokens": tokens.where(text, special),
        "places": places.where(text, -1),
        "words": (torch.rand((rows, length), generator=generator) >= within_words) | ~text,
        "visits": torch.full((rows,), visit),
    }


def chosen(masked: Masked) -> Tensor:
    """Which tokens (B, T) bool are to be predicted."""
    hits = torch.zeros_like(masked.inputs_BT)
    return hits.scatter_add(1, masked.positions_BP, (masked.targets_BP != IGNORED).long()) > 0


def sizes_of_units(rows: Rows, picked: Tensor, config: MaskingConfig) -> list[int]:
    """Tokens of each unit that was chosen."""
    firsts = unit_firsts(rows["places"], rows["words"], rows["visits"][:, None], config, SETTING.seed)
    numbers = torch.arange(len(firsts))[:, None] * firsts.shape[1] + firsts
    sizes: list[int] = torch.unique(numbers[picked], return_counts=True)[1].tolist()
    return sizes


def within(found: float, expected: float, count: float, sigmas: float = 3.0) -> bool:
    """Whether a share among `count` independent draws is as near to what is expected as it should be."""
    return abs(found - expected) < sigmas * math.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("unit", ["token", "word", "ngram", "span"])
def test_shares_over_a_million_tokens(unit: str) -> None:
    config = MaskingConfig(unit=unit)  # type: ignore[arg-type]
    text = predicted = masks = kept = replaced = squares = 0
    for part in range(8):
        rows = make_rows(256, 512, parts=4, seed=part)
        masked = mask(rows, config, SETTING)
        picked, is_text = chosen(masked), rows["places"] >= 0
        assert not (picked & ~is_text).any()
        assert torch.equal(masked.inputs_BT[~picked], rows["tokens"][~picked])
        now = masked.inputs_BT[picked]
        same = now == rows["tokens"][picked]
        text += int(is_text.sum())
        predicted += len(now)
        masks += int((now == SPECIAL.mask).sum())
        kept += int(same.sum())
        replaced += int(((now != SPECIAL.mask) & ~same).sum())
        squares += sum(size**2 for size in sizes_of_units(rows, picked, config)) if unit == "span" else len(now)
    assert text > 1_000_000
    assert within(predicted / text, 0.15, text)
    # A span shares its fate: its tokens are one draw. One random token in 995 is what stood there.
    draws = predicted**2 / squares
    restored = 0.1 / len(ORDINARY)
    assert within(masks / predicted, 0.8, draws)
    assert within(kept / predicted, 0.1 + restored, draws)
    assert within(replaced / predicted, 0.1 - restored, draws)


def test_a_row_of_tokens_has_as_many_as_its_length_says() -> None:
    """Off by less than one, so that the slots hold ceil(rate * length)."""
    config = MaskingConfig(rate=0.15)
    rows = make_rows(512, 130, parts=3)
    count = int((rows["places"][0] >= 0).sum())
    assert count == 122
    found = Counter(chosen(mask(rows, config, SETTING)).sum(1).tolist())
    assert set(found) == {18, 19}  # 18.3
    assert within(found[19] / 512, 0.3, 512)
    assert slots(config, 130) == 20


def test_tokens_are_chosen_independently_of_their_neighbours() -> None:
    rows = make_rows(2000, 102)
    picked = chosen(mask(rows, MaskingConfig(rate=0.3), SETTING))[:, 1:99].double()
    pairs = picked[:, 1:] * picked[:, :-1]
    count = picked.sum(1)
    assert within(float(pairs.mean()), float((count * (count - 1)).mean()) / (98 * 97), pairs.numel(), 4.0)


def test_each_unit_has_the_same_chance_whatever_its_length() -> None:
    """Even where a row has few units, of very different lengths."""
    config = MaskingConfig(rate=0.3, unit="word")
    visits = 40_000
    lengths = [1, 5, 1, 2, 9, 1, 1, 3]
    words = torch.tensor([True] + [number == 0 for length in lengths for number in range(length)] + [True])
    places = torch.tensor([-1, *range(500, 500 + sum(lengths)), -1])
    rows = {
        "tokens": torch.full((visits, len(words)), 9),
        "places": places.expand(visits, -1),
        "words": words.expand(visits, -1),
        "visits": torch.arange(visits),
    }
    picked = chosen(mask(rows, config, SETTING))
    for share in picked[:, 1:-1].double().mean(0).tolist():
        assert within(share, 0.3, visits, 4.0)


@pytest.mark.parametrize(("unit", "longest"), [("ngram", 3), ("ngram", 5), ("span", 10)])
def test_lengths_of_ngrams(unit: str, longest: int) -> None:
    """Those that are chosen, of words that are one token long, by the published laws."""
    weights = {n: 1 / n if unit == "ngram" else 0.8**n for n in range(1, longest + 1)}
    law = {n: weight / sum(weights.values()) for n, weight in weights.items()}
    if longest == 3:
        assert law == pytest.approx({1: 6 / 11, 2: 3 / 11, 3: 2 / 11})  # ALBERT, section 3.1
    if unit == "span":
        assert sum(n * share for n, share in law.items()) == pytest.approx(3.8, abs=0.01)  # SpanBERT, section 3.1
    length = 63
    config = MaskingConfig(unit=unit, longest=longest)  # type: ignore[arg-type]
    found: Counter[int] = Counter()
    for seed in range(4):
        rows = make_rows(1024, 2 * length + 6, parts=2, within_words=0.0, seed=seed)
        found.update(sizes_of_units(rows, chosen(mask(rows, config, SETTING)), config))
    expected = units_of_length(law, length)
    total = sum(expected.values())
    assert set(found) == set(expected)
    for size, count in expected.items():
        assert within(found[size] / found.total(), count / total, found.total(), 4.0), size


def units_of_length(law: dict[int, float], words: int) -> dict[int, float]:
    """Expected number of n-grams of each length in a part of the text, the last of which is cut off at its end."""
    begins = [1.0] + [0.0] * words
    counts = dict.fromkeys(law, 0.0)
    for place in range(words):
        for drawn, share in law.items():
            size = min(drawn, words - place)
            counts[size] += begins[place] * share
            begins[place + size] += begins[place] * share
    return counts


def test_a_span_is_replaced_as_a_whole() -> None:
    """SpanBERT, section 3.1; with other units each token by itself."""
    rows = make_rows(128, 512, parts=2)
    mixed = {}
    for unit in ("span", "ngram"):
        config = MaskingConfig(unit=unit, longest=10)  # type: ignore[arg-type]
        masked = mask(rows, config, SETTING)
        firsts = unit_firsts(rows["places"], rows["words"], rows["visits"][:, None], config, SETTING.seed)
        fates: dict[tuple[int, int], set[str]] = {}
        for row, place in chosen(masked).nonzero().tolist():
            now, was = int(masked.inputs_BT[row, place]), int(rows["tokens"][row, place])
            fate = "mask" if now == SPECIAL.mask else "kept" if now == was else "random"
            fates.setdefault((row, int(firsts[row, place])), set()).add(fate)
        mixed[unit] = sum(len(fate) > 1 for fate in fates.values()) / len(fates)
    assert mixed["span"] < 0.01  # but for random tokens that are what stood there
    assert mixed["ngram"] > 0.1


@pytest.mark.parametrize("mask_share", [0.0, 0.5])
def test_random_tokens_are_drawn_evenly_from_those_that_are_not_special(mask_share: float) -> None:
    """Whatever decided that a random token stands there."""
    setting = Setting(
        24, end_of_text=23, special_tokens=SpecialTokens(padding=0, mask=11, first=10, separator=5), seed=3
    )
    ordinary = sorted(set(range(24)) - {23, 0, 11, 10, 5})
    rows = make_rows(400, 256)
    config = MaskingConfig(rate=0.5, mask_share=mask_share, random_share=1.0 - mask_share)
    masked = mask(rows, config, setting)
    counts = Counter(masked.inputs_BT[chosen(masked)].tolist())
    if mask_share:
        counts.pop(11)
    assert sorted(counts) == ordinary
    expected = counts.total() / len(ordinary)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 48.0  # 18 degrees of freedom: exceeded once in 7000


def test_static_masks_come_again_and_dynamic_ones_do_not() -> None:
    static, dynamic = MaskingConfig(copies=3), MaskingConfig()
    of_visits = [make_rows(4, 128, visit=visit) for visit in range(7)]
    ours = [mask(rows, static, SETTING) for rows in of_visits]
    for earlier in range(7):
        for later in range(earlier + 1, 7):
            same = all(torch.equal(a, b) for a, b in zip(ours[earlier], ours[later], strict=True))
            assert same == ((later - earlier) % 3 == 0), (earlier, later)
    assert len({tuple(mask(rows, dynamic, SETTING).positions_BP[0].tolist()) for rows in of_visits}) == 7


def test_a_mask_depends_on_the_row_and_the_seed_alone() -> None:
    config = MaskingConfig(unit="ngram")
    rows = make_rows(6, 128, parts=2)
    together = mask(rows, config, SETTING)
    for row in range(6):
        alone = mask({name: tensor[row : row + 1] for name, tensor in rows.items()}, config, SETTING)
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(together, alone, strict=True))
    other = Setting(VOCABULARY, end_of_text=1, special_tokens=SPECIAL, seed=8)
    assert not torch.equal(mask(rows, config, other).inputs_BT, together.inputs_BT)


@pytest.mark.parametrize("unit", ["token", "word", "ngram", "span"])
def test_shapes_do_not_depend_on_what_the_rows_hold(unit: str) -> None:
    """On tensors without data anything that waits for the device fails."""
    rows = {name: tensor.to("meta") for name, tensor in make_rows(3, 64).items()}
    config = MaskingConfig(unit=unit)  # type: ignore[arg-type]
    masked = mask(rows, config, SETTING)
    assert [tuple(tensor.shape) for tensor in masked] == [(3, 64), (3, slots(config, 64)), (3, slots(config, 64))]


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        mask(make_rows(1, 16), MaskingConfig(), Setting(VOCABULARY, 1, SpecialTokens(0, None, 2, 3)))


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(["token", "word", "ngram", "span"]),
    rate=st.floats(0.01, 0.9),
    longest=st.integers(1, 10),
    length=st.integers(8, 150),
    parts=st.integers(1, 3),
    within_words=st.floats(0.0, 0.97),
    seed=st.integers(0, 10_000),
    visit=st.integers(0, 100),
)
def test_against_a_reference_that_goes_token_by_token(
    unit: str, rate: float, longest: int, length: int, parts: int, within_words: float, seed: int, visit: int
) -> None:
    config = MaskingConfig(rate=rate, unit=unit, longest=longest)  # type: ignore[arg-type]
    rows = make_rows(2, length, min(parts, length // 8), within_words, seed, visit)
    masked = mask(rows, config, SETTING)
    picked = chosen(masked)
    for row in range(2):
        one = {name: tensor[row] for name, tensor in rows.items()}
        units = reference_units(one, config)
        expected = reference_choice(units, one, config)
        assert picked[row].nonzero().flatten().tolist() == expected
        count = len(expected)
        longest_unit = max(map(len, units), default=1)
        assert abs(count - rate * sum(map(len, units))) < longest_unit + 1e-3
        assert masked.positions_BP[row, :count].tolist() == expected
        assert masked.targets_BP[row, :count].tolist() == [int(one["tokens"][place]) for place in expected]
        assert (masked.targets_BP[row, count:] == IGNORED).all()


def noise(rows: Rows, place: int, stream: int) -> float:
    return float(uniform(rows["places"][place], rows["visits"], SETTING.seed, stream))


def reference_units(rows: Rows, config: MaskingConfig) -> list[list[int]]:
    """Places in the row of the tokens of each unit."""
    places, words = rows["places"].tolist(), rows["words"].tolist()
    parts: list[list[list[int]]] = []
    for place in range(len(places)):
        if places[place] < 0:
            continue
        if place == 0 or places[place - 1] < 0:
            parts.append([])
        if words[place] or not parts[-1]:
            parts[-1].append([])
        parts[-1][-1].append(place)
    most = {"token": 1, "word": 16}.get(config.unit, 32)
    units: list[list[int]] = []
    for part in parts:
        lengths = [1] * len(part)
        if config.unit in ("ngram", "span"):
            bounds = _length_bounds(config)
            lengths = [1 + sum(noise(rows, word[0], 102) >= bound for bound in bounds) for word in part]
        begin = 0
        for length in lengths:
            gram = part[begin : begin + length]
            begin += length
            whole = [place for word in gram for place in word]
            for unit in [whole] if len(whole) <= most else gram:
                units += [unit[first : first + most] for first in range(0, len(unit), most)]
    return units


def reference_choice(units: list[list[int]], rows: Rows, config: MaskingConfig) -> list[int]:
    """The tokens of the units that begin within the arc."""
    total = sum(map(len, units))
    ordered = sorted(units, key=lambda unit: noise(rows, unit[0], 100))
    start = float(uniform(rows["places"].amax(), rows["visits"], SETTING.seed, 101)) * total
    begin, found = 0, []
    for unit in ordered:
        if (begin - start) % total < round(config.rate * 2**24) / 2**24 * total:
            found += unit
        begin += len(unit)
    return sorted(found)
