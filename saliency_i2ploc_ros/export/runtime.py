"""
The image branch, run by PyTorch, from its `.pt2`, or by onnxruntime: the same answers.

`open_runtime` finds a model's export in the folder `export` beside its weights, or takes the
folder of an export itself, which needs no weights. A verifier is run by PyTorch in float32,
whatever runs the branch.
"""

from __future__ import annotations

from dataclasses import dataclass
import gc
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
import torch
from torch import nn, Tensor

from ..encoders.config import ModelConfig
from ..encoders.dual import DualEncoder, verifier
from ..encoders.files import (
    CONFIG,
    encoder_hash,
    load_model,
    mismatch,
    preprocessing_hash,
    read_identity,
    read_weights,
    WEIGHTS,
)
from ..encoders.image_input import prepare_image
from ..encoders.verifier import Verifier
from ..errors import InputError
from ..geometry.cameras import Camera
from ..storage import read_json, sha256_file
from .acceleration import ACCELERATIONS, faster, PRECISIONS
from .device_input import DeviceInput
from .graphs import needs
from .parity import check_parity, Floats, Outputs, Reference, Run
from .runners import pt2_module, run_onnx, run_torch, run_verifier, torch_device, Verify

RUNTIMES = ('torch', 'pt2', 'onnx')
MANIFEST, SAMPLES, FORMAT = 'export.json', 'samples.safetensors', 1
VERIFIER = 'verifier.safetensors'
BESIDE = 'export'  # the folder of a model's own export, in the model's folder
_AGAIN = 'export the model again (i2ploc export)'


@dataclass
class ImageRuntime:
    """
    The image branch of a model, ready to run in one thread.

    runtime: one of `RUNTIMES`. encoder_hash: of the model, the same whatever runs it.
    run: images (B, 3, H, W) float32, arrays or tensors, to `Outputs`. verify: details of an image
    (N, c) and of places (k, N, c), of any floats, to logits (k,): how surely each place is where
    the image was taken; None of a model without a verifier.
    device, precision (fp32, fp16, bf16), acceleration (none, compile, graph): what it runs on and
    how. parity: smallest cosine of its descriptors to those in float32, where it is not that
    itself. notes: a sentence for each thing that was asked for and could not be had.
    on_device: prepares images there; None: on the processor.
    """

    config: ModelConfig
    encoder_hash: str
    runtime: str
    run: Run
    device: str = 'cpu'
    precision: str = 'fp32'
    acceleration: str = 'none'
    parity: float | None = None
    notes: tuple[str, ...] = ()
    on_device: DeviceInput | None = None
    verify: Verify | None = None

    def prepare(self, image: NDArray[np.uint8], camera: Camera | None) -> Floats | Tensor:
        """Return an RGB image (H, W, 3) as `run` takes it, (3, H', W'); see `prepare_image`."""
        if self.on_device is not None:
            return self.on_device(image, camera)
        return prepare_image(image, camera, self.config.image)

    def close(self) -> None:
        """Free the model, its graphs and buffers, on CUDA too; nothing can be run after that."""
        if self.on_device is not None:
            self.on_device.close()
        self.on_device, self.run = None, _closed
        self.verify = None if self.verify is None else _closed
        # Compiled and captured modules refer to themselves.
        gc.collect()
        if self.device.startswith('cuda'):
            torch.cuda.empty_cache()


def _closed(*_: Any) -> Any:
    raise RuntimeError('the model was closed')


def torch_runtime(model: DualEncoder) -> ImageRuntime:
    """Return a model as it is, put into eval mode, on the device where it lies."""
    device = str(next(model.parameters()).device)
    return ImageRuntime(model.config, encoder_hash(model), 'torch',
                        run_torch(model.eval().image, device), device,
                        on_device=device_input(model.config, device),
                        verify=run_verifier(model.verifier, device))


def open_runtime(
    directory: Path, runtime: str, device: str = 'cpu', precision: str = 'auto',
    acceleration: str = 'none',
) -> ImageRuntime:
    """
    Return the image branch of a model's folder, run by `runtime` on `device`.

    With 'pt2' and 'onnx' the folder is that of an export, or of a model with its export in it. An
    export that is not of this model, was altered, or answers its own samples otherwise than the
    model did is an InputError that says what to do; so is a device that is not there.
    precision, acceleration: of `PRECISIONS` and `ACCELERATIONS`; what cannot be had is left out,
    and `notes` say so. An export runs in the precision that it was made in.
    """
    directory = Path(directory)
    for what, value, known in (
            ('runtime', runtime, RUNTIMES), ('precision', precision, PRECISIONS),
            ('acceleration', acceleration, ACCELERATIONS)):
        if value not in known:
            raise InputError(f'there is no {what} {value!r}: take {", ".join(known)}')
    if runtime == 'torch':
        if (directory / MANIFEST).is_file() and not (directory / WEIGHTS).is_file():
            raise InputError(f'{directory} is an export without weights: set the runtime to pt2 '
                             "or onnx, or name the model's own folder")
        torch_device(device)
        model = load_model(directory).eval()
        return _made_faster(model.config, encoder_hash(model), runtime, model.image.to(device),
                            model.verifier, device, precision, acceleration)
    folder = export_folder(directory)
    config, identity, manifest = read_export(folder, directory)
    path = checked_file(folder, manifest, f'image.{runtime}')
    made_in = {'float32': 'fp32', 'float16': 'fp16'}[manifest['precision']]
    notes: tuple[str, ...] = () if precision in ('auto', made_in) else (
        f'the export was made in {made_in} and runs in that, not in {precision}: '
        f'{_AGAIN} for another',)
    module = pt2_module(path, device) if runtime == 'pt2' else None
    run = run_onnx(path, device) if module is None else run_torch(module, device)
    # Once, with one image: a broken build on this machine must not send fixes.
    sample = read_samples(folder, manifest, 'image').first(1)
    check_parity(run, sample, 'float16', f'{path} on {device}')
    compares = read_verifier(folder, manifest, config)
    if module is not None:
        return _made_faster(config, identity, runtime, module, compares, device, 'fp32',
                            acceleration, made_in, notes)
    if acceleration != 'none':
        notes += (f'onnxruntime has no acceleration {acceleration}: the model runs without it',)
    # onnxruntime may have a GPU that this PyTorch has not.
    there = device if torch.cuda.is_available() else 'cpu'
    return ImageRuntime(config, identity, runtime, run, device, made_in, notes=notes,
                        verify=run_verifier(compares, there))


def _made_faster(
    config: ModelConfig, identity: str, runtime: str, branch: nn.Module,
    compares: Verifier | None, device: str, precision: str, acceleration: str,
    made_in: str | None = None, notes: tuple[str, ...] = (),
) -> ImageRuntime:
    shape = 3, config.image.height, config.image.width
    found = faster(branch, shape, device, precision, acceleration)
    return ImageRuntime(
        config, identity, runtime, run_torch(found.module, device), device,
        made_in or found.precision, found.acceleration, found.parity, notes + found.notes,
        device_input(config, device), run_verifier(compares, device))


def device_input(config: ModelConfig, device: str) -> DeviceInput | None:
    """Return what prepares images on CUDA; None for the processor, where OpenCV is faster."""
    return DeviceInput(config.image, device) if device.startswith('cuda') else None


def export_folder(directory: Path) -> Path:
    """Return the folder of the export that a model's or an export's folder means."""
    for folder in (directory, directory / BESIDE):
        if (folder / MANIFEST).is_file():
            return folder
    if not directory.is_dir():
        raise InputError(f'there is no model folder {directory}: name a model or an export')
    raise InputError(f'{directory} has no export: make it with `i2ploc export {directory}`, or '
                     'set the runtime to torch')


def read_export(folder: Path, model: Path) -> tuple[ModelConfig, str, dict[str, Any]]:
    """
    Return configuration, encoder hash and export.json of an export's folder.

    model: the folder that was named for it. A config.json there or in the export that is not of
    the same model, or is understood otherwise by this version, is an InputError.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        raise InputError(f'{folder / MANIFEST} is not of format {FORMAT}: {_AGAIN}')
    config, identity = read_identity(folder)
    if identity != manifest.get('encoder_hash') \
            or preprocessing_hash(config) != manifest.get('preprocessing_hash'):
        raise InputError(f'{folder / CONFIG} is not what {MANIFEST} was written with, or was '
                         f'written by another version: {_AGAIN}')
    if model != folder and read_identity(model)[1] != identity:
        raise InputError(f'{folder} is of an earlier state of {model}: {_AGAIN}')
    return config, identity, manifest


def checked_file(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    """Return a file of an export; one that is missing or altered is an InputError."""
    listed = manifest['files'].get(name)
    if listed is None:
        raise InputError(f'{folder} holds no {name}: export the model again with '
                         f'--to {name.rpartition(".")[2]}, or choose another runtime')
    path = folder / name
    if not path.is_file() or sha256_file(path) != listed['sha256']:
        raise InputError(f'{path} is missing or not what {MANIFEST} says: copy the whole folder '
                         f'again, or {_AGAIN}')
    return path


def read_samples(folder: Path, manifest: dict[str, Any], branch: str) -> Reference:
    """Return an export's sample inputs of a branch ('image', 'cloud'), and the model's answers."""
    path = checked_file(folder, manifest, SAMPLES)
    try:
        found = load_file(path)
        inputs = tuple(found[f'{branch}.{name}'] for name in manifest['inputs'][branch])
        return Reference(inputs, Outputs(*(found[f'{branch}.{name}']
                                           for name in manifest['outputs'])))
    except (SafetensorError, KeyError) as error:
        raise InputError(f'{path} cannot be read ({error}): {_AGAIN}') from error


def read_verifier(
    folder: Path, manifest: dict[str, Any], config: ModelConfig,
) -> Verifier | None:
    """Return an export's verifier, if its model has one; an unusable one is an InputError."""
    found = verifier(config)
    if found is None:
        return None
    path = checked_file(folder, manifest, VERIFIER)
    state = read_weights(path)
    if problem := mismatch(state, found.state_dict()):
        raise InputError(f'{path} does not fit its {CONFIG}: {problem}: {_AGAIN}')
    found.load_state_dict(state)
    return found


def best_device(runtime: str) -> str:
    """Return 'cuda' where `runtime` can use one, else 'cpu'."""
    if runtime == 'onnx':
        needs('onnxruntime')
        import onnxruntime
        there = 'CUDAExecutionProvider' in onnxruntime.get_available_providers()
    else:
        there = torch.cuda.is_available()
    return 'cuda' if there else 'cpu'
