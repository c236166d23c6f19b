"""What is done with each kind of personal data."""

from typing import Final, Literal, get_args

from pydantic import Field, model_validator

from pipeline.privacy.kinds import KINDS, Kind
from pipeline.stage import StageConfig

Policy = Literal["mask", "drop", "keep"]

TAGS: Final[dict[Kind, str]] = {kind: f"<{kind.upper()}>" for kind in KINDS}
EXAMPLES: Final[dict[Kind, str]] = {
    "secret": "REDACTED",
    "email": "email@example.com",
    "ip_address": "192.0.2.1",
    "iban": "XX00 0000 0000 0000 0000",
    "national_id": "000-00-0000",
    "credit_card": "0000 0000 0000 0000",
    "phone": "212-555-0100",
}
"""Names, addresses and numbers that are reserved for examples (RFC 2606, RFC 5737, NANP 555-0100) or valid nowhere."""


def _policy(what: str) -> Policy:
    return Field(
        default="mask",
        description=f"{what}: `mask` replaces each, `drop` drops a document that has one, `keep` leaves them alone",
    )


class PrivacyConfig(StageConfig):
    """Which kinds of personal data are masked, and with what, and which cost a document its place."""

    secret: Policy = _policy("API keys, tokens, private keys and passwords")
    email: Policy = _policy("E-mail addresses (FineWeb masks them: Penedo et al. 2024, section 3.6)")
    ip_address: Policy = _policy("IPv4 and IPv6 addresses (FineWeb masks public IPv4 addresses)")
    iban: Policy = _policy("Bank account numbers with a valid checksum")
    national_id: Policy = _policy("National identity numbers (China, US, Spain, Brazil, Poland, Italy, ...)")
    credit_card: Policy = _policy("Payment card numbers with an issuer's prefix and a valid checksum")
    phone: Policy = _policy("Telephone numbers")
    replacement: Literal["tag", "example"] = Field(
        default="tag",
        description="What masks: `tag`, such as <EMAIL>; or `example`, a reserved value of the same form, such as "
        "email@example.com (what FineWeb's data card names) and 192.0.2.1 (RFC 5737; FineWeb uses six addresses, "
        "22.214.171.124 among them, that did not answer when it was made)",
    )
    masks: dict[Kind, str] = Field(default={}, description="Masks that replace those of `replacement`, by kind")
    maximum_per_document: int | None = Field(
        default=None,
        ge=0,
        description="A document with more findings of all kinds but those kept is dropped: a list of contacts or a "
        "leak; null: no limit",
    )
    languages: dict[Kind, list[str]] = Field(
        default={},
        description="Languages of the documents in which a kind counts, by their code; a kind that is not named counts "
        "in all of them",
    )
    public_addresses_only: bool = Field(
        default=True,
        description="Whether IP addresses of private, loopback, documentation and other special-purpose blocks "
        "(RFC 6890) are left alone, as datatrove's PIIFormatter does by default",
    )

    @model_validator(mode="after")
    def _check(self) -> "PrivacyConfig":
        for kind in (*self.masks, *self.languages):
            if self.policy(kind) == "keep":
                raise ValueError(f"privacy: {kind} is kept, so that its mask or languages say nothing; remove them")
        for kind in self.masks:
            if self.policy(kind) == "drop":
                raise ValueError(
                    f"privacy: documents with {kind} are dropped, so that its mask is never used; remove it"
                )
        return self

    def policy(self, kind: Kind) -> Policy:
        """What is done with a kind."""
        policy = getattr(self, kind)
        assert policy in get_args(Policy)
        return policy

    def mask_of(self, kind: Kind) -> str:
        """What replaces a match of a kind."""
        return self.masks.get(kind, (TAGS if self.replacement == "tag" else EXAMPLES)[kind])

    def kinds(self, policy: Policy) -> list[Kind]:
        """The kinds of a policy, in the order of KINDS."""
        return [kind for kind in KINDS if self.policy(kind) == policy]
