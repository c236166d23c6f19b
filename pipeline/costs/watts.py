"""The power that GPUs are built for, by their names."""

from __future__ import annotations

BOARD_WATTS = {
    "h200 nvl": 600.0,
    "h200": 700.0,
    "h100 pcie": 350.0,
    "h100 nvl": 400.0,
    "h100": 700.0,
    "a100 80gb pcie": 300.0,
    "a100 pcie": 250.0,
    "a100": 400.0,
    "l40s": 350.0,
    "l4": 72.0,
    "a10": 150.0,
}
"""Maximum board power in watts, from NVIDIA's data sheets: the SXM module where the name names no other form."""


def board_watts(name: str) -> float | None:
    """The board power of a device of this name (`NVIDIA H100 80GB HBM3`, `h100-pcie`); None where it is not known."""
    words = name.lower().replace("nvidia", " ").replace("-", " ").split()
    found = [key for key in BOARD_WATTS if all(word in words for word in key.split())]
    return BOARD_WATTS[max(found, key=lambda key: len(key.split()))] if found else None
