"""The section `costs` of a recipe: what an hour and a kilowatt-hour come to. Nothing of it reaches a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipeline.stage import StageConfig


class CostSettings(StageConfig):
    """Prices, carbon intensity and powers.

    All prices are in one currency and add up: give those that you are billed by. One of zero, or none, adds nothing.
    """

    currency: str = Field("", max_length=12, description="Name of the currency, for people.")
    price_per_device_hour: float | None = Field(
        None,
        ge=0.0,
        allow_inf_nan=False,
        description="Of a device that trains: a GPU, or where there is none the machine's CPU as a whole.",
    )
    price_per_core_hour: float | None = Field(
        None, ge=0.0, allow_inf_nan=False, description="Of an hour of processor time, of every stage."
    )
    price_per_kwh: float | None = Field(None, ge=0.0, allow_inf_nan=False, description="Of a kilowatt-hour.")
    carbon_grams_per_kwh: float = Field(
        481.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Grams of CO2 equivalents of a kilowatt-hour. Default: the mean of the world in 2023 (Ember 2024).",
    )
    pue: float = Field(
        1.0,
        ge=1.0,
        allow_inf_nan=False,
        description="Power usage effectiveness: energy of the building over that of its machines. Default: the machine "
        "alone. Data centres had 1.56 on average in 2024 (Uptime Institute).",
    )
    watts_per_core: float = Field(
        12.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Of a busy core, where nothing meters it. Default: Green Algorithms' for a processor that is not "
        "known (Lannelongue et al. 2021).",
    )
    watts_per_gigabyte: float = Field(
        0.3725,
        ge=0.0,
        allow_inf_nan=False,
        description="Of memory in use, where nothing meters it. Default: Green Algorithms' (Lannelongue et al. 2021).",
    )
    device_watts: float | None = Field(
        None,
        ge=0.0,
        allow_inf_nan=False,
        description="Of a GPU that trains, where nothing meters it. Default: the board power of its data sheet.",
    )

    @property
    def priced(self) -> bool:
        """Whether there is any price, so that an amount of money says something."""
        return any((self.price_per_device_hour, self.price_per_core_hour, self.price_per_kwh))


def settings_of(recipe: Mapping[str, Any]) -> CostSettings:
    """The settings of a recipe given as plain values, with the price of a device that its training was given.

    Raises pydantic's ValidationError, a ValueError, for values that are wrong.
    """
    settings = CostSettings.model_validate(recipe.get("costs") or {})
    training = (recipe.get("train") or {}).get("training") or {}
    price = training.get("price_per_device_hour")
    return settings if price is None else settings.model_copy(update={"price_per_device_hour": float(price)})
