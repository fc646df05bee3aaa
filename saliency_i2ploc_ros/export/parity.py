"""Whether a graph answers as the model does that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from ..encoders.dual import Branch
from ..errors import InputError

Floats = NDArray[np.float32]
# Inputs (B, ...) to descriptors (B, D) and saliency (B, N), whatever computes them.
Run = Callable[..., tuple[Floats, Floats]]

# Cosine to the original below which a graph is refused.
LIMIT = {'float32': 0.9999, 'float16': 0.999, 'bfloat16': 0.999}
BATCHES = (1, 2, 5)


@dataclass(frozen=True)
class Reference:
    """Inputs, each (n, ...), and what the model makes of them: (n, D) and (n, N)."""

    inputs: tuple[Floats, ...]
    descriptors: Floats
    saliency: Floats

    def __len__(self) -> int:
        return len(self.descriptors)

    def first(self, count: int) -> Reference:
        """Return the first `count` inputs, with the answers to them."""
        return Reference(tuple(value[:count] for value in self.inputs),
                         self.descriptors[:count], self.saliency[:count])


def answers_of(branch: Branch, inputs: tuple[Floats, ...]) -> Reference:
    """Return what a branch in eval mode makes of inputs, one at a time, in float32."""
    found = []
    with torch.inference_mode():
        for i in range(len(inputs[0])):
            encoded = branch(*(torch.from_numpy(value[i:i + 1]) for value in inputs))
            found.append((encoded.descriptor.numpy(), encoded.saliency.numpy()))
    descriptors, saliency = (np.concatenate(part) for part in zip(*found, strict=True))
    return Reference(inputs, descriptors, saliency)


def check_parity(
    run: Run, against: Reference, precision: str, name: str,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:
    """
    Return the figures of a graph that agrees with the model; one that does not is an InputError.

    The first B inputs are run as one batch for each B of `batches`, and all of them as one. The
    original saw them one at a time: a graph that looks across samples, or for which a batch's size
    has become a constant, does not pass. `apart` is the smallest cosine between two of the inputs
    themselves, without which an agreement means little.
    """
    limit = LIMIT[precision]
    sizes = [*(size for size in batches if size < len(against)), len(against)]
    descriptor, saliency, difference = {}, {}, 0.0
    for size in sizes:
        found = run(*(value[:size] for value in against.inputs))
        wanted = against.descriptors[:size], against.saliency[:size]
        for what, a, b in zip(('descriptors', 'saliency'), found, wanted, strict=True):
            if a.shape != b.shape or a.dtype != np.float32:
                raise InputError(f'{name} is refused: at a batch of {size} its {what} are '
                                 f'{a.shape} {a.dtype} instead of {b.shape} float32')
        descriptor[str(size)] = float(unit_cosine(found[0], wanted[0]).min())
        saliency[str(size)] = float(_cosine(found[1], wanted[1]).min())
        difference = max(difference, float(np.abs(found[0] - wanted[0]).max()))
        for what, figure in (('descriptors', descriptor), ('saliency', saliency)):
            if not figure[str(size)] >= limit:
                raise InputError(
                    f'{name} is refused: at a batch of {size} its {what} agree with the model '
                    f'to a cosine of {figure[str(size)]:.6f} only, at least {limit} is asked: '
                    'export in float32, or with other versions of PyTorch and ONNX')
    all_pairs = against.descriptors @ against.descriptors.T
    return {'inputs': len(against), 'limit': limit, 'descriptor_cosine': descriptor,
            'saliency_cosine': saliency, 'largest_difference': difference,
            'apart': float(all_pairs.min())}


def unit_cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return 1 - |a - b|^2 / 2: the cosine of unit vectors, and less if a is none."""
    return np.asarray(1.0 - np.square(a.astype(np.float64) - b).sum(1) / 2.0)


def _cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)))
