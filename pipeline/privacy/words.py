"""Words before a number that say what it is, and names that are nobody's: tables as bytes, searched in a window."""

from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import LETTER, lower

PHONE_WORD: Final = 1
CARD_WORD: Final = 2
IDENTITY_WORD: Final = 4
VERSION_WORD: Final = 8
ADDRESS_WORD: Final = 16
OTHER_NUMBER_WORD: Final = 32

WINDOW: Final = 40  # bytes before a number in which its word must stand

WORDS: Final[dict[int, str]] = {  # an underscore stands for a space
    PHONE_WORD: "phone phones telephone telephones tel tels mobile cell cellphone fax call calling dial ring sms "
    "whatsapp hotline voicemail answering ph mob teléfono telefono móvil movil celular téléphone tél telefon handy "
    "rufnummer telefone telemóvel telefoon gsm тел Тел телефон Телефон 电话 電話 手机 手機 座机 传真 傳真 热线 熱線 "
    "联系方式 联系人 携帯 전화 휴대폰 연락처 โทร",
    CARD_WORD: "card cards cc visa mastercard maestro amex credit debit tarjeta carte karte cartão carta карта карты "
    "银行卡 信用卡 卡号 カード 카드",
    IDENTITY_WORD: "ssn ssns itin social_security bsn burgerservicenummer sofinummer dni nif nie pesel aadhaar aadhar "
    "uidai cpf identity 身份证 身份證 证件号",
    VERSION_WORD: "version versions ver release releases firmware build rev revision v section sections chapter driver "
    "версия версии 版本",
    ADDRESS_WORD: "ip ips ipv4 address addresses addr host hosts server servers dns ping gateway 地址 服务器",
    OTHER_NUMBER_WORD: "qq id ids isbn issn ean sku order invoice account ref zip postcode icp 群 订单 编号 邮编 账号 "
    "帐号",
}


class WordTable(NamedTuple):
    """Words sorted by their first byte."""

    text: NDArray[np.uint8]  # the bytes of all words, ASCII in lower case
    offsets: NDArray[np.int64]  # (words + 1,)
    first: NDArray[np.int64]  # (257,): the words that begin with byte b are first[b] to first[b + 1]
    meaning: NDArray[np.uint8]  # (words,)


def word_table() -> WordTable:
    """The table of WORDS."""
    words = sorted(
        (word.replace("_", " ").encode(), meaning) for meaning, text in WORDS.items() for word in text.split()
    )
    leads = np.array([word[0] for word, _ in words])
    return WordTable(
        np.frombuffer(b"".join(word for word, _ in words), np.uint8),
        np.cumsum([0, *(len(word) for word, _ in words)]),
        np.searchsorted(leads, np.arange(257)).astype(np.int64),
        np.array([meaning for _, meaning in words], np.uint8),
    )


@numba.njit(nogil=True, cache=True)
def _boundary(
    flags: NDArray[np.uint8], data: NDArray[np.uint8], start: np.int64, at: np.int64, end: np.int64
) -> bool | np.bool_:
    # Between two letters of spaced scripts a word does not end. Those beyond ASCII are taken to be the characters of
    # two bytes from U+00C0 on: Latin, Greek, Cyrillic, Arabic, Hebrew.
    if at <= start or at >= end:
        return True
    before, after = np.int64(data[at - 1]), np.int64(data[at])
    if before >= 0x80:
        if at - 2 < start or not 0xC3 <= data[at - 2] < 0xE0:
            return True
    elif flags[before] & LETTER == 0:
        return True
    return flags[after] & LETTER == 0 if after < 0x80 else not 0xC3 <= after < 0xE0


@numba.njit(nogil=True, cache=True)
def words_before(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    window: np.int64,
    words: WordTable,
    flags: NDArray[np.uint8],
) -> np.int64:
    """The meanings of all words that stand in the `window` bytes before data[at], as bits."""
    found = np.int64(0)
    for place in range(max(start, at - window), at):
        position = np.int64(place)
        lead = lower(np.int64(data[position]))
        if words.first[lead] == words.first[lead + 1]:
            continue
        unspaced = lead >= 0xE0
        if not unspaced and not _boundary(flags, data, start, position, at):
            continue
        for word in range(words.first[lead], words.first[lead + 1]):
            size = words.offsets[word + 1] - words.offsets[word]
            if position + size > at or found & words.meaning[word]:
                continue
            same = True
            for offset in range(1, size):
                if lower(np.int64(data[position + offset])) != words.text[words.offsets[word] + offset]:
                    same = False
                    break
            if same and (unspaced or _boundary(flags, data, start, position + size, at)):
                found |= words.meaning[word]
    return found
