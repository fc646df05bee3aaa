"""A branch as a function of arrays: by PyTorch, from a `.pt2`, by onnxruntime. The verifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from ..encoders.verifier import Verifier
from ..errors import InputError
from .acceleration import Module
from .graphs import needs, read_pt2
from .parity import Floats, leaving, Outputs, Run

# Details of an image (N, c) and of places (k, N, c) to logits (k,).
Verify = Callable[[NDArray[Any], NDArray[Any]], Floats]


def run_verifier(compares: Verifier | None, device: str = 'cpu') -> Verify | None:
    """Return a verifier, moved to a device of PyTorch, as a function of arrays."""
    if compares is None:
        return None
    network = compares.eval().to(device)

    def verify(image: NDArray[Any], places: NDArray[Any]) -> Floats:
        with torch.inference_mode():
            one, several = (torch.from_numpy(np.array(value, np.float32)).to(device)
                            for value in (image, places))
            return np.asarray(network(one[None], several[None])[0].cpu().numpy())
    return verify


def run_torch(branch: Module, device: torch.device | str = 'cpu') -> Run:
    """Return a branch, or a graph's module, as a function of arrays or tensors."""
    def run(*inputs: Floats | Tensor) -> Outputs:
        with torch.inference_mode():
            found = leaving(branch(*(torch.as_tensor(v).to(device) for v in inputs)))
            return Outputs(*(value.float().cpu().numpy() for value in found))
    return run


def pt2_module(path: Path, device: str = 'cpu') -> nn.Module:
    """Return a `.pt2` as a module of PyTorch on a device."""
    torch_device(device)
    program = read_pt2(path)
    if device != 'cpu':
        from torch.export.passes import move_to_device_pass
        program = move_to_device_pass(program, device)
    return program.module()


def run_pt2(path: Path, device: str = 'cpu') -> Run:
    """Return a `.pt2` as a function of arrays, by PyTorch on a device, with PyTorch's threads."""
    return run_torch(pt2_module(path, device), device)


def run_onnx(path: Path, device: str = 'cpu') -> Run:
    """
    Return an ONNX file as a function of arrays, by onnxruntime.

    It takes as many threads as PyTorch is set to, so that one setting serves both.
    """
    needs('onnxruntime')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    provider, number = _provider(device)
    settings: list[dict[str, Any]] = [{'device_id': number} if number is not None else {}]
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[provider], provider_options=settings)
    except Exception as error:  # onnxruntime's own errors have no common class
        raise InputError(f'onnxruntime {onnxruntime.__version__} cannot run {path} '
                         f'({str(error).splitlines()[0]}): export the model again '
                         '(i2ploc export)') from error
    if provider not in session.get_providers():
        raise InputError(f'onnxruntime could not start {provider}: see what it printed, or use '
                         'the device cpu')
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: NDArray[Any]) -> Outputs:
        found = session.run(None, dict(zip(names, inputs, strict=True)))
        return Outputs(*(np.asarray(value) for value in found))
    return run


def torch_device(device: str) -> str:
    """Return a device ('cpu', 'cuda', 'cuda:1') that PyTorch can use; another: InputError."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise InputError(f'the device {device!r} cannot be used on this machine: use cpu, or '
                         'install a PyTorch built for it') from error
    return device


def _provider(device: str) -> tuple[str, int | None]:
    """Return onnxruntime's name of a device, and the device's number if it has one."""
    import onnxruntime

    kind, _, number = device.partition(':')
    if kind == 'cpu' and not number:
        return 'CPUExecutionProvider', None
    if kind == 'cuda' and (not number or number.isdigit()) \
            and 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        return 'CUDAExecutionProvider', int(number or 0)
    raise InputError(f'the device {device!r} cannot be used by this onnxruntime: use cpu, or '
                     'install onnxruntime-gpu in its place')
