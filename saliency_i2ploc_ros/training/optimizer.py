"""What is trained at which rate: frozen parts, rates by branch and by layer, the schedule."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from ..errors import InputError
from .config import TrainingConfig

BLOCK = re.compile(r'(?:^|\.)blocks\.(\d+)\.')


def layer_numbers(encoder: nn.Module) -> dict[str, int]:
    """
    Return the layer of each parameter of an encoder, 0 at its input.

    Of a transformer: what comes before its `blocks` is layer 0, block i is layer i + 1, what comes
    after is the last. Of any other network each child is a layer, in their order.
    """
    names = [name for name, _ in encoder.named_parameters()]
    blocks = {name: int(found[1]) + 1 for name in names if (found := BLOCK.search(name))}
    if not blocks:
        children = list(dict.fromkeys(name.split('.')[0] for name in names))
        return {name: children.index(name.split('.')[0]) for name in names}
    first, last = names.index(next(iter(blocks))), max(blocks.values()) + 1
    return {name: blocks.get(name, 0 if i < first else last) for i, name in enumerate(names)}


def freeze(encoder: nn.Module, trained_blocks: int | None, branch: str) -> None:
    """
    Let only the last blocks of an encoder be trained, and what comes after them.

    trained_blocks: how many; None: all of it; 0: none of it. branch: its name, for the InputError
    about more blocks than there are.
    """
    if trained_blocks is None:
        return
    numbers = layer_numbers(encoder)
    last = max(numbers.values())
    if trained_blocks >= last:
        raise InputError(f'trained_{branch}_blocks is {trained_blocks}, but the {branch} encoder '
                         f'has {last - 1} blocks: give fewer, or leave the setting out')
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(trained_blocks > 0 and numbers[name] >= last - trained_blocks)


def make_optimizer(task: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """
    Return AdamW with a learning rate for each part, and no decay where decay does harm.

    task: see `TrainingTask`; what of it needs no gradient is left out. With `layer_decay` the rate
    of an encoder's layer is multiplied by it once for each layer above (as in ELECTRA's and BEiT's
    tuning). One-dimensional parameters (norms, biases, the temperature), tokens and position
    tables are not decayed (Loshchilov and Hutter 2019; the usage of ViT training).
    """
    factors = {f'encoder.{branch}.encoder.{name}': config.layer_decay ** (
        max(numbers.values()) - number)
        for branch in ('image', 'cloud')
        for numbers in [layer_numbers(task.get_submodule(f'encoder.{branch}.encoder'))]
        for name, number in numbers.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim <= 1 or name.endswith(('pos_embed', 'cls_token', 'reg_token'))
        rate = _rate(name, config) * factors.get(name, 1.0)
        groups.setdefault((rate, 0.0 if plain else config.weight_decay), []).append(parameter)
    return torch.optim.AdamW([
        {'params': parameters, 'lr': rate, 'peak_lr': rate, 'weight_decay': decay}
        for (rate, decay), parameters in groups.items()], betas=(0.9, 0.98))


def _rate(name: str, config: TrainingConfig) -> float:
    """Return the peak rate of a parameter of the task; a branch's heads learn as it does."""
    if name.startswith('temperature.'):
        return config.lr_temperature
    if name.startswith(('encoder.image.encoder.', 'geometry.image')):
        return config.lr_image
    if name.startswith(('encoder.cloud.encoder.', 'geometry.cloud')):
        return config.lr_cloud
    return config.lr_aggregation


def schedule(step: int, config: TrainingConfig) -> float:
    """Return the factor on the learning rates: linear warm-up, then a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    through = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * through))
