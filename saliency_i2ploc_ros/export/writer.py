"""
A model as an export: a folder with its graphs, each accepted only after a check of parity.

`export.json` says what is in it: the model's hashes, and of each file its SHA-256, size and
parity. `config.json` is the model's own, from which images are prepared: preprocessing stays
outside the graphs. `samples.safetensors` holds the inputs of the check with the model's answers,
so that it can be made again where the graphs are run. `verifier.safetensors`, of a model with one,
is the verifier, which is no graph: PyTorch runs it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import platform
import shutil
from typing import Any

import numpy as np
from safetensors.numpy import save
from safetensors.torch import save as save_tensors

from .. import __version__
from ..encoders.files import CONFIG, encoder_hash, load_model, preprocessing_hash, WEIGHTS
from ..errors import InputError
from ..progress import track
from ..storage import atomic_directory, sha256_file, write_json
from .graphs import capture, in_half_precision, needs, OPSET, outputs_of, write_onnx, write_pt2
from .parity import answers_of, check_parity, Reference
from .runners import run_onnx, run_pt2
from .runtime import FORMAT, MANIFEST, SAMPLES, VERIFIER
from .samples import Inputs

FORMATS = ('pt2', 'onnx')
NAMES = {'points': ('groups', 'centres'), 'range': ('ranges',)}  # of a cloud branch's inputs
KEPT = 4  # samples that go along


def export_model(
    directory: Path, out: Path, formats: tuple[str, ...], half: bool,
    images: Inputs, clouds: Inputs, source: str, overwrite: bool = False,
) -> dict[str, Any]:
    """
    Export both branches of a model's folder to the folder `out`; return its export.json.

    formats: of `FORMATS`. half: matrix products in float16. images, clouds: real inputs of the
    two branches, two or more of each, by which parity is checked; source: what they are, in words.
    A graph without parity, an `out` that is there (without `overwrite`, or that is no export) and
    a missing library are InputErrors; then nothing is written.
    """
    directory, out = Path(directory), Path(out)
    if out.exists() and not (overwrite and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise InputError(f'{out} exists already: name another folder' + (
            ', it is no export' if overwrite else ' or pass --overwrite'))
    if 'onnx' in formats:
        needs('onnx', 'onnxscript', 'onnxruntime')
    model = load_model(directory)
    precision = 'float16' if half else 'float32'
    kinds = NAMES.get(model.config.cloud.kind, ())
    names = {'image': ('images',),
             'cloud': kinds or tuple(f'input_{i}' for i in range(len(clouds)))}
    files: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    with atomic_directory(out, overwrite=overwrite) as folder:
        for branch, inputs in (('image', images), ('cloud', clouds)):
            module = getattr(model, branch)
            against = answers_of(module, inputs)
            graph = capture(in_half_precision(module) if half else module,
                            tuple(value[:2] for value in inputs))
            for suffix in track(formats, f'{branch} branch'):
                path = folder / f'{branch}.{suffix}'
                if suffix == 'pt2':
                    write_pt2(graph, path)
                else:
                    write_onnx(graph, path, names[branch])
                run = run_pt2(path) if suffix == 'pt2' else run_onnx(path)
                parity = check_parity(run, against, precision, path.name)
                files[path.name] = {**_stamp(path), 'parity': parity}
            samples.update(_samples(branch, names[branch], against))
        if model.verifier is not None:
            (folder / VERIFIER).write_bytes(save_tensors(model.verifier.state_dict()))
            files[VERIFIER] = _stamp(folder / VERIFIER)
        (folder / SAMPLES).write_bytes(save(samples))
        files[SAMPLES] = _stamp(folder / SAMPLES)
        shutil.copyfile(directory / CONFIG, folder / CONFIG)
        manifest = {
            'format': FORMAT, 'model': model.config.name, 'encoder_hash': encoder_hash(model),
            'preprocessing_hash': preprocessing_hash(model.config), 'precision': precision,
            'parity_inputs': source, 'opset': OPSET if 'onnx' in formats else None,
            'inputs': {branch: list(value) for branch, value in names.items()},
            'outputs': list(outputs_of(graph)), 'files': files, 'versions': _versions(),
            'weights_bytes': (directory / WEIGHTS).stat().st_size,
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _stamp(path: Path) -> dict[str, Any]:
    return {'sha256': sha256_file(path), 'bytes': path.stat().st_size}


def _samples(branch: str, names: tuple[str, ...], against: Reference) -> dict[str, Any]:
    named = dict(zip(names, against.inputs, strict=True))
    found = {**named, **against.outputs._asdict()}
    return {f'{branch}.{name}': np.ascontiguousarray(value[:KEPT])
            for name, value in found.items() if value is not None}


def _versions() -> dict[str, str]:
    found = {'saliency_i2ploc_ros': __version__, 'python': platform.python_version()}
    for name in ('torch', 'onnx', 'onnxscript', 'onnxruntime'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
