"""Plain Python statements of checksums, and makers of valid numbers, for the tests of the detectors."""

from __future__ import annotations

import re
from datetime import date

import pyarrow as pa

from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.kinds import KINDS
from pipeline.privacy.masking import find

EVERYTHING = PrivacyConfig()


def found(text: str, config: PrivacyConfig = EVERYTHING) -> list[tuple[str, str]]:
    """The matches in a text as (kind, matched text)."""
    findings = find(pa.array([text], pa.large_string()), config)
    data = text.encode()
    return [
        (KINDS[kind], data[start:end].decode())
        for kind, start, end in zip(findings.kinds, findings.starts, findings.ends, strict=True)
    ]


def luhn_digit(body: str) -> str:
    """The check digit that ISO/IEC 7812-1 puts behind a body of digits."""
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body))]
    return str(-sum(value // 10 + value % 10 for value in doubled) % 10)


def iban(country: str, body: str) -> str:
    """The IBAN of a basic account number: ISO 7064 MOD 97-10 over the rearranged number."""
    number = int("".join(str(int(character, 36)) for character in body + country + "00"))
    return f"{country}{98 - number % 97:02d}{body}"


def chinese(region: str, birth: date, order: int) -> str:
    """The 18 characters of GB 11643-1999, by its published weights and check characters."""
    body = f"{region}{birth:%Y%m%d}{order:03d}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
    return body + "10X98765432"[total % 11]


def cpf(body: str) -> str:
    """A CPF with its punctuation: modulo 11, 10 and 11 count as 0."""
    digits = [int(digit) for digit in body]
    for size in (9, 10):
        rest = sum(digit * (size + 1 - place) for place, digit in enumerate(digits[:size])) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    text = "".join(map(str, digits))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def dni(number: int) -> str:
    """A Spanish number with its letter."""
    return f"{number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def nir(body: str) -> str:
    """A French number with its key."""
    return f"{body}{97 - int(body) % 97:02d}"


def pesel(birth: date, order: int) -> str:
    """A Polish number: 20 is added to the month from 2000 on."""
    month = birth.month + (20 if birth.year >= 2000 else 0)
    body = f"{birth.year % 100:02d}{month:02d}{birth.day:02d}{order:04d}"
    total = sum(int(digit) * weight for digit, weight in zip(body, [1, 3, 7, 9, 1, 3, 7, 9, 1, 3], strict=True))
    return f"{body}{-total % 10}"


def bsn(body: str) -> str | None:
    """A Dutch number of 8 digits and its check digit; None where the check would be 10."""
    check = sum(int(digit) * (9 - place) for place, digit in enumerate(body)) % 11
    return None if check == 10 else f"{body}{check}"


def korean(birth: date, order: int) -> str:
    """A Korean number of a man born before or after 2000."""
    body = f"{birth:%y%m%d}{1 if birth.year < 2000 else 3}{order:05d}"
    weights = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]
    check = (11 - sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11) % 10
    return f"{body[:6]}-{body[6:]}{check}"


_D = [[(i + j) % 5 + 5 * (j // 5) if i < 5 else (i - j) % 5 + 5 * (1 - j // 5) for j in range(10)] for i in range(10)]
_P = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def verhoeff(body: str) -> str:
    """A number with the check digit of Verhoeff (1969)."""
    check = 0
    for turn, character in enumerate(reversed(body), 1):
        digit = int(character)
        for _ in range(turn % 8):
            digit = _P[digit]
        check = _D[check][digit]
    return body + str(next(digit for digit in range(10) if _D[check][digit] == 0))


def codice_fiscale(body: str) -> str:
    """An Italian code of 15 characters with its check letter."""
    odd = dict(zip("0123456789", [1, 0, 5, 7, 9, 13, 15, 17, 19, 21], strict=True))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    values = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
    odd |= dict(zip(letters, values, strict=True))
    even = {character: int(character) if character.isdigit() else letters.index(character) for character in odd}
    total = sum((even if place % 2 else odd)[character] for place, character in enumerate(body))
    return body + letters[total % 26]


_PART = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]\d|\d)"
IPV4 = re.compile(rf"(?<![A-Za-z0-9_.-])(?:{_PART}\.){{3}}{_PART}(?![A-Za-z0-9_]|[.+~-][A-Za-z0-9])", re.ASCII)
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+'-])[A-Za-z0-9_][A-Za-z0-9_%+'-]*(?:\.[A-Za-z0-9_%+'-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9.-])",
    re.ASCII,
)
IPV4_ALONE = re.compile(rf"{_PART}(?:\.{_PART}){{3}}", re.ASCII)
