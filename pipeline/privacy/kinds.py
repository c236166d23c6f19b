"""The kinds of personal data that are searched for. Where two matches are the same span, the earlier kind wins."""

from typing import Final, Literal, get_args

Kind = Literal["secret", "email", "ip_address", "iban", "national_id", "credit_card", "phone"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Names by kind code, in the order of priority."""

SECRET: Final = 0
EMAIL: Final = 1
IP_ADDRESS: Final = 2
IBAN: Final = 3
NATIONAL_ID: Final = 4
CREDIT_CARD: Final = 5
PHONE: Final = 6
