"""Every checksum against a plain statement of it: valid numbers are found, with one digit changed they are not."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.privacy.iban import LENGTHS
from tests.pipeline.privacy import reference
from tests.pipeline.privacy.reference import found

DIGITS = "0123456789"
births = st.dates(datetime.date(1920, 1, 1), datetime.date(2019, 12, 31))


def digits(size: int) -> st.SearchStrategy[str]:
    return st.text(DIGITS, min_size=size, max_size=size)


def check(kind: str, number: str, before: str, place: int, by: int) -> None:
    """The number is found whole; with the digit at `place` (of its digits) changed by 1 to 9 it is not of the kind."""
    assert (kind, number) in found(f"{before}{number}, and")
    at = [index for index, character in enumerate(number) if character in DIGITS][place]
    other = number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :]
    assert kind not in [kind for kind, _ in found(f"{before}{other}, and")]


change = st.integers(1, 9)


@given(st.sampled_from(["4", "51", "55", "2221", "2720", "6011", "3528", "62"]), digits(15), st.integers(0, 15), change)
def test_cards(prefix: str, rest: str, place: int, by: int):
    body = (prefix + rest)[:15]
    number = body + reference.luhn_digit(body)
    check("credit_card", number, "", place, by)
    grouped = " ".join(number[at : at + 4] for at in range(0, 16, 4))
    check("credit_card", grouped, "card ", place, by)


@given(st.sampled_from(LENGTHS.split()), st.data(), change)
def test_ibans(entry: str, data: st.DataObject, by: int):
    size = int(entry[2:]) - 4
    body = data.draw(st.text("0123456789ABCXYZ", min_size=size, max_size=size))
    number = reference.iban(entry[:2], body)
    place = data.draw(st.integers(0, sum(character in DIGITS for character in number) - 1))
    check("iban", number, "", place, by)
    grouped = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    assert ("iban", grouped) in found(f"({grouped})")


@given(
    st.sampled_from(["110105", "440308", "310115", "650102"]), births, st.integers(0, 999), st.integers(0, 16), change
)
def test_chinese_identities(region: str, birth: datetime.date, order: int, place: int, by: int):
    check("national_id", reference.chinese(region, birth, order), "身份证", place, by)


@given(digits(9), st.integers(0, 10), change)
def test_cpf(body: str, place: int, by: int):
    assume(len(set(body)) > 1)
    number = reference.cpf(body)
    assert ("national_id", number) in found(number)
    at = [index for index, character in enumerate(number) if character in DIGITS][place]
    other = number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :]
    plain = other.replace(".", "").replace("-", "")
    if reference.cpf(plain[:9]) != other:
        assert "national_id" not in [kind for kind, _ in found(other)]


@given(st.integers(0, 99_999_999), st.integers(0, 7), change)
def test_spanish(number: int, place: int, by: int):
    check("national_id", reference.dni(number), "DNI ", place, by)
    foreign = (
        "XYZ"[number // 10_000_000 % 3] + reference.dni(number // 10_000_000 % 3 * 10_000_000 + number % 10_000_000)[1:]
    )
    check("national_id", foreign, "NIE ", min(place, 6), by)


@given(st.sampled_from("12"), digits(2), st.integers(1, 12), digits(8), st.integers(0, 14), change)
def test_french(sex: str, year: str, month: int, rest: str, place: int, by: int):
    number = reference.nir(f"{sex}{year}{month:02d}{rest}")
    check("national_id", number, "nº ", place, by)


@given(births, st.integers(0, 9999), st.integers(0, 10), change)
def test_polish(birth: datetime.date, order: int, place: int, by: int):
    check("national_id", reference.pesel(birth, order), "PESEL: ", place, by)


@given(births, st.integers(0, 99_999), st.integers(0, 12), change)
def test_korean(birth: datetime.date, order: int, place: int, by: int):
    number = reference.korean(birth, order)
    assert ("national_id", number) in found(number)
    # Weights 2 to 9 over eleven: 10 and 0 share a digit, so that a changed digit may pass; and foreigners (5 to 8 for
    # the century) have a check digit that is larger by 2. The plain statement decides.
    at = [index for index, character in enumerate(number) if character in DIGITS][place]
    other = number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :]
    weights = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]
    plain = other.replace("-", "")
    total = sum(int(digit) * weight for digit, weight in zip(plain, weights, strict=False))
    if (11 - total % 11 + (2 if plain[6] in "5678" else 0)) % 10 != int(plain[12]):
        assert "national_id" not in [kind for kind, _ in found(other)]


@given(digits(8), st.integers(0, 8), change)
def test_dutch(body: str, place: int, by: int):
    number = reference.bsn(body)
    assume(number is not None and int(body) > 0)
    assert ("national_id", number) in found(f"BSN {number}")
    assert "national_id" not in [kind for kind, _ in found(number)]


@given(st.sampled_from("23456789"), digits(10), st.integers(0, 11), change)
def test_aadhaar(first: str, rest: str, place: int, by: int):
    number = reference.verhoeff(first + rest)
    assume(place > 0 or (int(number[0]) + by) % 10 > 1)
    check("national_id", number, "Aadhaar ", place, by)


@given(st.text("BCDFGLMNPRST", min_size=6, max_size=6), digits(2), st.sampled_from("ABCDEHLMPRST"), digits(3))
def test_italian(name: str, year: str, month: str, place: str):
    code = reference.codice_fiscale(f"{name}{year}{month}15A{place}")
    assert found(f"CF {code}.") == [("national_id", code)]
    wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
    assert found(wrong) == []


@pytest.mark.parametrize("day", ["19000229", "20230229", "20231301", "20230431", "20230100"])
def test_days_that_never_were(day: str):
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    body = f"110105{day}002"
    total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
    assert found(body + "10X98765432"[total % 11]) == []
