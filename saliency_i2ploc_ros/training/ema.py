"""The moving average of the weights, which often places better than the weights themselves."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """
    Move `average` towards `model`, in place, after the step of this number (from 0).

    average = d average + (1 - d) model with d = min(decay, (1 + step) / (10 + step)), so that the
    first steps, when the weights change most, do not linger (as in TensorFlow's moving average).
    Buffers are copied. Both modules are built alike.
    """
    d = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), 1.0 - d)
    for kept, now in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(now)
