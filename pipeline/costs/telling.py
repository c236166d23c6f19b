"""Costs as people read them."""

from __future__ import annotations

from pipeline.costs.account import Cost
from pipeline.costs.settings import CostSettings


def energy(kilowatt_hours: float) -> str:
    """An energy: 0.52 Wh, 1.3 kWh, 2.1 MWh."""
    for limit, unit in ((1e3, "MWh"), (1.0, "kWh")):
        if kilowatt_hours >= limit * 0.9995:
            return f"{_three_digits(kilowatt_hours / limit)} {unit}"
    return f"{_three_digits(kilowatt_hours * 1e3)} Wh"


def mass(grams: float) -> str:
    """A mass: 0.25 g, 1.2 kg, 3.4 t."""
    for limit, unit in ((1e6, "t"), (1e3, "kg")):
        if grams >= limit * 0.9995:
            return f"{_three_digits(grams / limit)} {unit}"
    return f"{_three_digits(grams)} g"


def amount(money: float, settings: CostSettings) -> str:
    """An amount of money, with its currency where it has a name: 12.30 EUR, 0.0012."""
    digits = 2 if money >= 1 or not money else 4
    return f"{money:,.{digits}f} {settings.currency}".rstrip()


def prices(settings: CostSettings) -> str:
    """The prices in a line: 2.5 EUR a device hour, 0.3 EUR a kilowatt-hour."""
    given = {
        "device hour": settings.price_per_device_hour,
        "core hour": settings.price_per_core_hour,
        "kilowatt-hour": settings.price_per_kwh,
    }
    unit = f" {settings.currency}" if settings.currency else ""
    return ", ".join(f"{price:g}{unit} a {name}" for name, price in given.items() if price)


def hours(number: float) -> str:
    """Hours of devices or cores: 0.042 h, 12.3 h."""
    return f"{number:,.0f} h" if number >= 999.5 else f"{number:.3g} h"


def sentence(cost: Cost, settings: CostSettings) -> str:
    """Energy, carbon and, where there is a price, money in a line."""
    parts = [energy(cost.kilowatt_hours), f"{mass(cost.carbon_grams)} CO2e"]
    if settings.priced:
        parts.append(amount(cost.money, settings))
    return ", ".join(parts)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.3g}"
