"""
A branch as a graph: captured by torch.export, written as `.pt2` and as ONNX.

Both files come from one capture, so that they are the same graph. It takes what `prepare_image` or
`cloud_input` make, stacked to a batch of any size, and returns `Outputs` in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import copy
import io
import json
import logging
from pathlib import Path
from typing import Any
import warnings
import zipfile

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
from torch.export import ExportedProgram

from ..encoders.transformer import Attention
from ..errors import InputError
from .parity import leaving, Outputs

# The opset that the exporter writes by itself; onnxruntime 1.15 and TensorRT 8.6 read it.
OPSET = 18
# Of a .pt2: its examples, which are pickled, and the beginnings of names that hold plain bytes.
_EXAMPLES = '/data/sample_inputs/'
_PLAIN = ('weight_', 'tensor_', 'model.json', 'archive_', 'byteorder', 'version',
          'serialization_id')


class _Graph(nn.Module):
    """What leaves a branch when it is exported."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in leaving(self.branch(*inputs)))


def capture(branch: nn.Module, inputs: tuple[NDArray[np.float32], ...]) -> ExportedProgram:
    """
    Return the graph of a branch in eval mode, for batches of any size.

    inputs: an example of each input, (B, ...) with B at least 2: the sizes 0 and 1 would be taken
    for constants. Without gradients, so that the attention is what inference runs.
    """
    if min(len(value) for value in inputs) < 2:
        raise ValueError('a graph is captured from a batch of 2 or more')
    batch = torch.export.Dim('batch', min=1)
    examples = tuple(torch.from_numpy(value) for value in inputs)
    with torch.no_grad(), _quiet():
        return torch.export.export(_Graph(branch).eval(), examples,
                                   dynamic_shapes=(tuple({0: batch} for _ in examples),))


def outputs_of(program: ExportedProgram) -> tuple[str, ...]:
    """Return the names of a captured graph's outputs, in order."""
    return Outputs._fields[:len(program.graph_signature.user_outputs)]


def write_pt2(program: ExportedProgram, path: Path) -> None:
    """Write a graph as `.pt2`, without its example inputs: nothing in the file is pickled."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as full, zipfile.ZipFile(path, 'w') as kept:
        for entry in full.infolist():
            example = _EXAMPLES in entry.filename
            kept.writestr(entry, b'' if example else full.read(entry))


def write_onnx(program: ExportedProgram, path: Path, names: tuple[str, ...]) -> None:
    """Write a graph as ONNX of opset `OPSET` in one file; names: of its inputs, in order."""
    needs('onnx', 'onnxscript')
    axes = (tuple({0: 'batch'} for _ in names),)
    with _quiet():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=list(names),
            output_names=list(outputs_of(program)), dynamic_shapes=axes, verbose=False)
        assert written is not None
        written.save(str(path), external_data=False)


def read_pt2(path: Path) -> ExportedProgram:
    """Read a graph of `write_pt2`; a file that is none, or would unpickle, is an InputError."""
    try:
        _check_unpickled(path)
        with _quiet():
            return torch.export.load(path)
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [''])[0]
        raise InputError(f'{path} cannot be read as a graph of PyTorch {torch.__version__} '
                         f'({first}): export the model again, with this PyTorch') from error


def _check_unpickled(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name, inside = entry.filename, entry.filename.rpartition('/')[2]
            if name.endswith('_config.json'):
                tensors: dict[str, Any] = json.loads(archive.read(name))['config']
                plain = not any(tensor.get('use_pickle') for tensor in tensors.values())
            elif _EXAMPLES in name:
                plain = entry.file_size == 0
            else:
                plain = inside.startswith(_PLAIN)
            if not plain:
                raise InputError(f'{path} holds {name}, which might be a program: '
                                 'take only what `i2ploc export` wrote')


def in_half_precision(
    branch: nn.Module, kind: torch.dtype = torch.float16, fused: bool = False,
) -> nn.Module:
    """
    Return a copy whose matrix products and convolutions are in `kind`, and nothing else.

    Norms, softmax, the residual stream, the aggregation's sums and the normalisation stay in
    float32, as explicit casts of the graph: so any runtime that obeys types keeps them.
    fused: with PyTorch's own attention kernel, whose softmax is in float32 inside, but says so in
    no graph.
    """
    half = copy.deepcopy(branch)
    _halve(half, kind, fused)
    return half


def _halve(module: nn.Module, kind: torch.dtype, fused: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, Attention):
            child.fused = fused
        if isinstance(child, (Attention, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            setattr(module, name, _InHalf(child, kind))
        else:
            _halve(child, kind, fused)


class _InHalf(nn.Module):
    """A layer in half precision between float32; only its first result is brought back to that."""

    def __init__(self, layer: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(kind)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x.to(self.kind))
        return (y[0].float(), *y[1:]) if isinstance(y, tuple) else y.float()


def needs(*modules: str) -> None:
    """Raise InputError unless these optional libraries are installed."""
    from importlib.util import find_spec
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f'{" and ".join(missing)} is not installed: '
                         "pip install 'saliency_i2ploc_ros[export]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about optional packages and their own deprecations away."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
