"""What a run will take, before it starts: memory, time, cost, and the micro-batch that fits."""

from training.planning.devices import DEVICES, DeviceSpec, find_device
from training.planning.estimate import Plan, plan
from training.planning.memory import Memory, estimate_memory
from training.planning.microbatch import find_device_batch_size

__all__ = [
    "DEVICES",
    "DeviceSpec",
    "Memory",
    "Plan",
    "estimate_memory",
    "find_device",
    "find_device_batch_size",
    "plan",
]
