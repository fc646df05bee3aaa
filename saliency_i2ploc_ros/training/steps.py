"""
One step with more pairs contrasted than memory holds, on one process or several.

Two passes, as GradCache (Gao et al. 2021, arXiv 2101.06983): the first encodes chunk by chunk and
keeps only the descriptors; the contrastive losses of them all give a gradient at each descriptor;
the second encodes each chunk again, with a graph, and carries those gradients to the weights. The
sum is the gradient of the whole batch. A step that fits one chunk is encoded once.

With several processes each takes its share of the batch, all gather the descriptors of all, each
evaluates the whole loss, and the weights' gradients are added up.

A step of many chunks can last minutes: between chunks it tells its `state`, and another process
can go on from there.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint

from ..distributed import gather_rows, share, sum_over, World
from ..encoders.cloud import MiniPointNet
from ..encoders.dual import Encoded
from ..encoders.transformer import Block
from ..errors import InputError
from .batches import Batch
from .task import TrainingTask


class CachedStep:
    """
    The gradient of one batch, chunk by chunk.

    task: its parameters' gradients are made anew. batch: the whole batch, the same on all
    processes, on any device. step: its number, from 0.
    """

    def __init__(self, task: TrainingTask, batch: Batch, step: int, world: World) -> None:
        config = task.config
        self.task, self.batch, self.step, self.world = task, batch, step, world
        self.device = task.temperature.log.device
        self.total = len(batch)
        self.progress = step / config.steps
        mine = share(self.total, world)
        size = config.chunk or len(mine)
        self.chunks = [slice(first, min(first + size, mine.stop))
                       for first in range(mine.start, mine.stop, size)]
        self.encoded: list[Tensor] = []        # of each chunk (4, b, D): see `stacked`
        self.gradients: list[Tensor] = []      # of each chunk, the same shapes
        self.done = 0                          # chunks whose gradient has reached the weights
        self.losses: dict[str, float] = {}
        self.local_names: list[str] = []       # of those that each process has a part of
        self.kept: tuple[Encoded, Encoded] | None = None  # with its graph, if it is the only one

    def run(self, between: Callable[[CachedStep], None] = lambda step: None) -> dict[str, float]:
        """Leave the gradient at the parameters and return the losses; `between`: after a chunk."""
        self.task.train()
        if not self.encoded:
            self.task.zero_grad(set_to_none=True)
        for number in range(len(self.encoded), len(self.chunks)):
            self._encode(number)
            between(self)
        if not self.gradients:
            self._contrast()
        for number in range(self.done, len(self.chunks)):
            self._descend(number)
            between(self)
        self._add_up()
        return {'loss': sum(self.losses.values()), **self.losses}

    @property
    def part(self) -> int:
        """Return how many chunks of both passes are done."""
        return len(self.encoded) + self.done

    def state(self) -> dict[str, Tensor]:
        """Return all that another process needs to go on from here."""
        tensors = {f'encoded.{i:06d}': value for i, value in enumerate(self.encoded)}
        tensors |= {f'gradient.{i:06d}': value for i, value in enumerate(self.gradients)}
        tensors |= {f'loss.{name}': torch.tensor(value, dtype=torch.float64)
                    for name, value in self.losses.items()}
        tensors |= {f'weight.{name}': parameter.grad
                    for name, parameter in self.task.named_parameters()
                    if parameter.grad is not None}
        tensors['done'] = torch.tensor(self.done)
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a `state` of the same step on a process of the same size of world."""
        def named(kind: str) -> dict[str, Tensor]:
            return {name.removeprefix(kind + '.'): tensors[name] for name in sorted(tensors)
                    if name.startswith(kind + '.')}

        self.encoded = [value.to(self.device) for value in named('encoded').values()]
        self.gradients = [value.to(self.device) for value in named('gradient').values()]
        self.losses = {name: float(value) for name, value in named('loss').items()}
        self.done = int(tensors['done'])
        gradients = named('weight')
        for name, parameter in self.task.named_parameters():
            found = gradients.get(name)
            parameter.grad = None if found is None else found.to(self.device)

    def _encode(self, number: int) -> None:
        single = len(self.chunks) == 1
        with torch.set_grad_enabled(single):
            pair = self._forward(self._rows(number), number)
        self.kept = pair if single else None
        self.encoded.append(stacked(*pair).detach())

    def _forward(self, rows: Batch, number: int) -> tuple[Encoded, Encoded]:
        # Dropout must fall alike in both passes and after a resume, and apart on each process.
        first = self.chunks[number].start
        torch.manual_seed(int(np.random.SeedSequence(
            [self.task.config.seed, self.step, first]).generate_state(1)[0]))
        with autocast(self.task.config.precision, self.device):
            return self.task.encode(rows)

    def _contrast(self) -> None:
        own = torch.cat(self.encoded, 1).requires_grad_()
        images, clouds, image_features, cloud_features = (
            gather_rows(rows, self.total, self.world) for rows in own)
        places = replace(self.batch, images=self.batch.images[:0]).to(self.device)
        losses = self.task.contrast(
            images, clouds, image_features, cloud_features, places, self.progress)
        loss = total_of(losses)
        self._check(loss)
        if loss.requires_grad:
            loss.backward()
        # Every process has evaluated the whole loss: of the parameters in it (the temperature)
        # each has the whole gradient, and these will be added up.
        for parameter in self.task.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.world.size
        gradient = torch.zeros_like(own) if own.grad is None else own.grad
        self.gradients = list(gradient.split([chunk.shape[1] for chunk in self.encoded], 1))
        self.losses = {name: float(value.detach()) for name, value in losses.items()}

    def _descend(self, number: int) -> None:
        rows = self._rows(number)
        image, cloud = self.kept or self._forward(rows, number)
        self.kept = None
        with autocast(self.task.config.precision, self.device):
            local = self.task.local(image, cloud, rows, self.progress)
        self._check(total_of(local))
        part = len(rows) / self.total
        loss = part * total_of(local)
        for vectors, gradient in zip(stacked(image, cloud), self.gradients[number], strict=True):
            # Of what the contrast did not touch (a teacher) the optimiser must see no gradient,
            # not one of zero, by which it would go on moving.
            if gradient.any():
                loss = loss + (vectors * gradient).sum()
        if loss.requires_grad:
            loss.backward()
        for name, value in local.items():
            self.losses[name] = self.losses.get(name, 0.0) + part * float(value.detach())
        self.local_names = sorted(local)
        self.done += 1

    def _add_up(self) -> None:
        if self.world.size == 1:
            return
        parameters = [p for p in self.task.parameters() if p.requires_grad]
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        for parameter, anywhere in zip(
                parameters, sum_over(there, self.world).tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                sum_over(parameter.grad, self.world)
        if self.local_names:
            values = torch.tensor([self.losses[name] for name in self.local_names],
                                  device=self.device)
            summed = sum_over(values, self.world).tolist()
            self.losses.update(zip(self.local_names, summed, strict=True))

    def _rows(self, number: int) -> Batch:
        return self.batch.rows(self.chunks[number]).to(self.device)

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise InputError(f'the loss is {loss.item()} at step {self.step}: '
                             'lower the learning rates')


def stacked(image: Encoded, cloud: Encoded) -> Tensor:
    """Return descriptors of images and clouds, then features of both, (4, B, D) in fp32."""
    return torch.stack([part.float() for part in (
        image.descriptor, cloud.descriptor, image.features, cloud.features)])


def total_of(losses: dict[str, Tensor]) -> Tensor:
    """Return the sum of losses, zero of none."""
    return sum(losses.values(), torch.zeros(()))


def recompute_blocks(module: nn.Module) -> None:
    """
    Let transformer blocks and point networks keep no activations, but run again in the backward.

    Gradient checkpointing, in place: more time (about a third), less memory, the same gradients.
    """
    for part in module.modules():
        if isinstance(part, Block | MiniPointNet):
            part.forward = _recomputed(part.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)
    return run


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context for a precision; 'auto' is bf16 where the device is built for it."""
    bf16 = precision == 'bf16' or (precision == 'auto' and has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16; a processor that only emulates it is slower."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported()
    # Torch has no public names for these; where another version lacks them, the answer is no.
    return any(getattr(torch.cpu, name, bool)()
               for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'))
