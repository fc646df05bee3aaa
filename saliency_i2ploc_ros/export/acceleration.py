"""
A branch made faster: in half precision, compiled, or as a captured CUDA graph.

What was asked for and cannot be had is not an error: the branch runs as it can, and a sentence
says so. What a faster branch answers is compared with float32 before it is used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from .graphs import in_half_precision
from .parity import Floats, leaving, LIMIT, unit_cosine

PRECISIONS = ('auto', 'fp32', 'fp16', 'bf16')
ACCELERATIONS = ('none', 'compile', 'graph')
TYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
GRAPHS = 4  # captured at once, one for each size of batch
PROBES = 4  # images by which a faster branch is compared

# A branch or a graph of one: see `leaving`.
Module = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Faster:
    """
    A branch as it will run.

    module: of tensors on the device, in inference mode. precision: one of
    `PRECISIONS` but 'auto'; acceleration: one of `ACCELERATIONS`. parity: smallest cosine of its
    descriptors and details to those in float32, None where it is the branch itself. notes: a
    sentence for each thing that was asked for and is not so.
    """

    module: Module
    precision: str
    acceleration: str
    parity: float | None
    notes: tuple[str, ...]


def faster(
    branch: nn.Module, shape: tuple[int, int, int], device: torch.device | str, precision: str,
    acceleration: str,
) -> Faster:
    """
    Return a branch in eval mode, on `device`, as fast as was asked for and can be had.

    shape: (3, H, W) of its images. It compiles and captures here and now, for one image at a time,
    in the thread that calls: the same one must run it, since rclpy's executors and torch.compile
    do not go together (rclpy#1288). Other sizes of a batch cost that again when they first come.
    """
    device = torch.device(device)
    probes = probe_images(shape).to(device)
    chosen, notes = chosen_precision(precision, device)
    wanted = vectors_of(branch, probes)
    module: Module = branch
    parity = None
    if chosen != 'fp32':
        half = in_half_precision(branch, TYPES[chosen], fused=True)
        parity = least_agreement(vectors_of(half, probes), wanted)
        if parity >= LIMIT[str(TYPES[chosen]).removeprefix('torch.')]:
            module = half
        else:
            notes += (f'{chosen} agrees with fp32 to a cosine of {parity:.4f} only: the model '
                      'runs in fp32',)
            chosen, parity = 'fp32', None
    if acceleration == 'graph' and device.type != 'cuda':
        notes += (f'CUDA graphs need CUDA and the model runs on {device}: it runs without one',)
        acceleration = 'none'
    if acceleration == 'none':
        return Faster(module, chosen, 'none', parity, notes)
    plain = module
    expected = vectors_of(plain, probes)
    try:
        module = compiled(plain) if acceleration == 'compile' else Graphed(plain)
        same = least_agreement(vectors_of(module, probes), expected)
        if same < LIMIT['float16']:
            raise RuntimeError(f'its answers agree to a cosine of {same:.4f} only')
    except Exception as error:  # Compilers fail in many ways, and none is a reason to stand still.
        first = (str(error).splitlines() or [''])[0]
        notes += (f'acceleration {acceleration} failed ({type(error).__name__}: {first}): the '
                  'model runs without it',)
        return Faster(plain, chosen, 'none', parity, notes)
    parity = least_agreement(vectors_of(module, probes), wanted)
    return Faster(module, chosen, acceleration, parity, notes)


def chosen_precision(asked: str, device: torch.device) -> tuple[str, tuple[str, ...]]:
    """
    Return the precision that a device is to run in, and why where it is not the one asked for.

    auto: float16 on CUDA devices with tensor cores for it (compute capability 7 and above), which
    is nearer to float32 than bfloat16; float32 elsewhere.
    """
    if device.type == 'cuda':
        if asked == 'auto':
            return ('fp16' if torch.cuda.get_device_capability(device)[0] >= 7 else 'fp32'), ()
        if asked == 'bf16' and not torch.cuda.is_bf16_supported():
            return 'fp16', ('this CUDA device has no bf16: the model runs in fp16',)
        return asked, ()
    if asked == 'fp16':
        return 'fp32', (f'fp16 is slow on {device.type}: the model runs in fp32 (bf16 is there '
                        'too, for processors that have it)',)
    return ('fp32' if asked == 'auto' else asked), ()


def compiled(module: Module) -> Module:
    """Return a module compiled by torch.compile; it is compiled when it is first called."""
    # The compiler's worker processes would outlive their work, in a node that is to end clean.
    return torch.compile(module, options={'compile_threads': 1})


class Graphed:
    """
    A module as CUDA graphs, one for each size of batch, captured when it first comes.

    A graph reads and writes fixed buffers: inputs are copied in, and what is returned is valid
    until the next call.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._graphs: OrderedDict[tuple[int, ...], tuple[Tensor, tuple[Tensor, ...], Any]] = \
            OrderedDict()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what leaves the module for images (B, 3, H, W)."""
        key = tuple(images.shape)
        if key not in self._graphs:
            if len(self._graphs) == GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self.captured(images)
        self._graphs.move_to_end(key)
        held, results, replay = self._graphs[key]
        held.copy_(images, non_blocking=True)
        replay()
        return results

    def captured(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Callable[[], Any]]:
        """Return input and results of a new graph, and what replays it from one to the other."""
        held = images.clone()
        # PyTorch's manual ("CUDA graphs"): run on a side stream first, so that what libraries set
        # up lazily is not captured. Only this thread's calls are held to the rules of capturing.
        with torch.cuda.device(images.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._module(held)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):
                results = leaving(self._module(held))
        return held, results, graph.replay


def probe_images(shape: tuple[int, int, int]) -> Tensor:
    """Return images (PROBES, 3, H, W) as prepared, coarse as pictures are, not mere noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((PROBES, 3, 6, 12), generator=generator) * 4.0 - 2.0
    return nn.functional.interpolate(coarse, size=shape[1:], mode='bilinear')


@torch.inference_mode()
def vectors_of(module: Module, images: Tensor) -> tuple[Floats, ...]:
    """
    Return what retrieval goes by, of images (n, 3, H, W), one at a time.

    Descriptors (n, D) and, of a model with a verifier, all details as one vector (n, N c), made of
    unit length too.
    """
    rows = []
    for i in range(len(images)):
        descriptor, _, *details = leaving(module(images[i:i + 1]))
        rows.append([descriptor.float()] + [nn.functional.normalize(value.float().flatten(1))
                                            for value in details])
    return tuple(torch.cat(part).cpu().numpy() for part in zip(*rows, strict=True))


def least_agreement(a: tuple[Floats, ...], b: tuple[Floats, ...]) -> float:
    """Return the smallest `agreement` of vectors of each kind."""
    return min(agreement(one, other) for one, other in zip(a, b, strict=True))


def agreement(a: Floats, b: Floats) -> float:
    """Return the smallest cosine between descriptors (n, D) and those that they should be."""
    cosines = unit_cosine(a, b)
    return float(cosines.min()) if np.isfinite(cosines).all() else -1.0
