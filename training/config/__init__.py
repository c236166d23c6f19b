"""What one training run is: stdlib dataclasses, checked on construction, read from JSON by `from_dict`.

The recipe embeds these classes in its pydantic tree as they are (`__pydantic_config__`); a machine that has only torch,
NumPy and safetensors reads the same JSON through `from_dict`. Nothing here imports torch.
"""

from training.config.model import ModelConfig, RopeScaling
from training.config.optimization import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from training.config.presets import PRESETS, expand_preset
from training.config.reading import from_dict, to_dict
from training.config.run import GuardConfig, Shard, TrainingConfig, TrainingRun, load_run

__all__ = [
    "PRESETS",
    "GuardConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RopeScaling",
    "ScheduleConfig",
    "Shard",
    "TrainingConfig",
    "TrainingRun",
    "expand_preset",
    "from_dict",
    "load_run",
    "to_dict",
]
