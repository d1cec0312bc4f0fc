"""Rotary position tables of published models whose context was extended."""

import math

import torch
from torch import Tensor

from minislm.config import ModelConfig
from minislm.model import Transformer, rotary_tables
from minislm.runtime.errors import UserError


def scaled_rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, D] with the `rope_scaling` of a config, for longer contexts:
    "linear" divides all frequencies by `factor` (Chen et al. 2023), "llama3" only the low ones."""
    scaling = config.rope_scaling
    if scaling is None:
        return rotary_tables(config)
    D, factor = config.head_width, scaling["factor"]
    frequency_D = config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    if scaling["rope_type"] == "linear":
        frequency_D = frequency_D / factor
    else:
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns_D = scaling["original_max_position_embeddings"] * frequency_D / (2 * math.pi)
        keep_D = ((turns_D - low) / (high - low)).clamp(0, 1)  # 1: a high frequency, unchanged
        frequency_D = frequency_D * (keep_D + (1 - keep_D) / factor)
    angle_TD = torch.outer(torch.arange(config.context).float(), frequency_D).repeat(1, 2)
    return angle_TD.cos(), angle_TD.sin()


def check_rotary_tables(model: Transformer) -> None:
    """Raise UserError if the model ignores the `rope_scaling` of its config, as `load` does not."""
    if model.config.position in ("rotary", "run") and model.config.rope_scaling is not None:
        expected, _ = scaled_rotary_tables(model.config)
        if not torch.allclose(model.cos.float().cpu(), expected, atol=0.01):  # may be in bfloat16
            raise UserError("the model ignores the rope_scaling of its config; open it with load()")
