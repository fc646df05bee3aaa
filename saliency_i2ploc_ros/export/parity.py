"""Whether a graph answers as the model does that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from ..encoders.dual import Branch, Encoded
from ..errors import InputError

Floats = NDArray[np.float32]

# Cosine to the original below which a graph is refused.
LIMIT = {'float32': 0.9999, 'float16': 0.999, 'bfloat16': 0.999}
BATCHES = (1, 2, 5)
MANY = {'descriptor': 'descriptors', 'saliency': 'saliencies', 'details': 'details'}


class Outputs(NamedTuple):
    """
    What leaves a branch, float32, whatever computes it; of several inputs or of a batch.

    descriptor: (B, D), of unit length. saliency: (B, N). details: (B, N, c), what the verifier
    compares; None of a model without one.
    """

    descriptor: Floats
    saliency: Floats
    details: Floats | None = None


Run = Callable[..., Outputs]  # of inputs (B, ...)


def leaving(found: Encoded | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what leaves of a branch's answer, in the order of `Outputs`; a graph's is that."""
    if not isinstance(found, Encoded):
        return found
    kept = found.descriptor, found.saliency, found.details
    return tuple(value for value in kept if value is not None)


@dataclass(frozen=True)
class Reference:
    """Inputs, each (n, ...), and what the model makes of them."""

    inputs: tuple[Floats, ...]
    outputs: Outputs

    def __len__(self) -> int:
        return len(self.outputs.descriptor)

    def first(self, count: int) -> Reference:
        """Return the first `count` inputs, with the answers to them."""
        return Reference(tuple(value[:count] for value in self.inputs), self.answers(count))

    def answers(self, count: int) -> Outputs:
        """Return the answers to the first `count` inputs."""
        descriptor, saliency, details = self.outputs
        return Outputs(descriptor[:count], saliency[:count],
                       None if details is None else details[:count])


def answers_of(branch: Branch, inputs: tuple[Floats, ...]) -> Reference:
    """Return what a branch in eval mode makes of inputs, one at a time, in float32."""
    found = []
    with torch.inference_mode():
        for i in range(len(inputs[0])):
            found.append(leaving(branch(*(torch.from_numpy(value[i:i + 1]) for value in inputs))))
    return Reference(inputs, Outputs(*(torch.cat(part).numpy()
                                       for part in zip(*found, strict=True))))


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
    wanted = against.answers(len(against))
    # Saliency and details have no length of their own to be held to.
    measures = {'descriptor': unit_cosine, 'saliency': _cosine, 'details': _cosine}
    asked = [name for name in Outputs._fields if getattr(wanted, name) is not None]
    cosines: dict[str, dict[str, float]] = {name: {} for name in asked}
    difference = 0.0
    for size in sizes:
        found, wanted = run(*(value[:size] for value in against.inputs)), against.answers(size)
        for what in asked:
            a, b = getattr(found, what), getattr(wanted, what)
            if a is None or a.shape != b.shape or a.dtype != np.float32:
                raise InputError(f'{name} is refused: at a batch of {size} its {MANY[what]} are '
                                 + ('missing' if a is None else f'{a.shape} {a.dtype}')
                                 + f' instead of {b.shape} float32')
            figure = float(measures[what](a, b).min())
            cosines[what][str(size)] = figure
            if not figure >= limit:
                raise InputError(
                    f'{name} is refused: at a batch of {size} its {MANY[what]} agree with the '
                    f'model to a cosine of {figure:.6f} only, at least {limit} is asked: '
                    'export in float32, or with other versions of PyTorch and ONNX')
        difference = max(difference, float(np.abs(found.descriptor - wanted.descriptor).max()))
    all_pairs = against.outputs.descriptor @ against.outputs.descriptor.T
    return {'inputs': len(against), 'limit': limit,
            **{f'{what}_cosine': by_batch for what, by_batch in cosines.items()},
            'largest_difference': difference, 'apart': float(all_pairs.min())}


def unit_cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return 1 - |a - b|^2 / 2: the cosine of unit vectors, and less if a is none."""
    return np.asarray(1.0 - np.square(a.astype(np.float64) - b).sum(1) / 2.0)


def _cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    x, y = (value.reshape(len(value), -1).astype(np.float64) for value in (a, b))
    return np.asarray((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)))
