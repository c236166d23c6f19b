"""Architectures: one Transformer trunk, described by `training.config.ModelConfig`."""
