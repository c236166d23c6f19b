"""What one training run is: stdlib dataclasses, checked on construction, read from JSON by `from_dict`.

The recipe embeds these classes in its pydantic tree as they are (`__pydantic_config__`); a machine that has only torch,
NumPy and safetensors reads the same JSON through `from_dict`. Nothing here imports torch.
"""

from training.config.model import ModelConfig, RopeScaling
from training.config.objective import (
    ContrastiveConfig,
    MaskingConfig,
    ObjectiveConfig,
    PermutationConfig,
    ReplacedTokenConfig,
    SpanCorruptionConfig,
)
from training.config.optimization import OptimizerConfig, ScheduleConfig
from training.config.presets import OBJECTIVES, PRESETS, expand_objective, expand_preset
from training.config.reading import from_dict, to_dict
from training.config.run import GuardConfig, Shard, SpecialTokens, TrainingConfig, TrainingRun, check_fit, load_run

__all__ = [
    "OBJECTIVES",
    "PRESETS",
    "ContrastiveConfig",
    "GuardConfig",
    "MaskingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PermutationConfig",
    "ReplacedTokenConfig",
    "RopeScaling",
    "ScheduleConfig",
    "Shard",
    "SpanCorruptionConfig",
    "SpecialTokens",
    "TrainingConfig",
    "TrainingRun",
    "check_fit",
    "expand_objective",
    "expand_preset",
    "from_dict",
    "load_run",
    "to_dict",
]
