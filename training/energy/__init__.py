"""What the machine's own meters say of the energy that a process uses; needs no torch."""

from training.energy.meter import Meter, metered

__all__ = ["Meter", "metered"]
