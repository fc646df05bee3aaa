"""A model as a directory: model.safetensors, and config.json with its configuration and origin."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
import torch
from torch import Tensor

from ..errors import InputError
from ..storage import atomic_file, content_hash, read_json, write_json
from .cloud_input import cloud_preparation
from .config import ModelConfig, parse_config
from .dual import DualEncoder

WEIGHTS, CONFIG, FORMAT = 'model.safetensors', 'config.json', 1


def save_model(model: DualEncoder, directory: Path, extra: dict[str, Any]) -> None:
    """
    Write a model; other files in the directory stay, each of the two is whole or as it was.

    extra: JSON-like, where the model comes from (commit, step, recipe, figures).
    """
    directory = Path(directory)
    state = _state(model)
    with atomic_file(directory / WEIGHTS) as temporary:
        temporary.write_bytes(save(state))
    write_json(directory / CONFIG, {
        'format': FORMAT, 'weights_hash': weights_hash(state),
        'model': model.config.model_dump(mode='json'), 'provenance': extra,
    })


def load_model(directory: Path) -> DualEncoder:
    """Return the model of a directory, in eval mode on the CPU; an unusable one: InputError."""
    directory = Path(directory)
    written, config = _read_config(directory)
    model = DualEncoder(config)
    state = read_weights(directory / WEIGHTS)
    problem = mismatch(state, model.state_dict())
    if problem:
        raise InputError(f'{directory / WEIGHTS} does not fit its {CONFIG}: {problem}; '
                         'take both from one model')
    if weights_hash(state) != written.get('weights_hash'):
        raise InputError(f'{directory / WEIGHTS} is not what {CONFIG} was written with: '
                         'copy or train the model again')
    model.load_state_dict(state)
    return model.eval()


def read_provenance(directory: Path) -> dict[str, Any]:
    """Return what `save_model` was given as `extra`."""
    written, _ = _read_config(Path(directory))
    provenance: dict[str, Any] = written.get('provenance') or {}
    return provenance


def encoder_hash(model: DualEncoder | Path) -> str:
    """
    Return 16 hex digits that identify what a model (or its directory) computes.

    From its weights' bytes and the parts of its configuration that shape a descriptor; not from
    its name, nor from the file's layout.
    """
    if not isinstance(model, DualEncoder):
        model = load_model(Path(model))
    return _identity(model.config, weights_hash(_state(model)))


def read_identity(directory: Path) -> tuple[ModelConfig, str]:
    """Return the configuration and the encoder hash that a folder's config.json states."""
    written, config = _read_config(Path(directory))
    return config, _identity(config, str(written.get('weights_hash')))


def _identity(config: ModelConfig, weights: str) -> str:
    shaping = config.model_dump(mode='json', exclude={'name', 'submap', 'views', 'smooth_m'})
    # A model without a verifier is what it was before there were any.
    if shaping['verifier'] is None:
        del shaping['verifier']
    return content_hash({'config': shaping, 'weights': weights})


def preprocessing_hash(config: ModelConfig) -> str:
    """Return 16 hex digits that identify how images, submaps and tokens are prepared."""
    image = {'height', 'width', 'camera', 'mean', 'std'}
    return content_hash({
        'image': config.image.model_dump(mode='json', include=image),
        'cloud': cloud_preparation(config),
        'submap': config.submap.model_dump(mode='json'),
    })


def weights_hash(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: their names, kinds, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, all finite; anything else is an InputError."""
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        why = 'it does not exist' if not Path(path).is_file() else ' '.join(str(error).split())
        raise InputError(f'cannot read the weights {path}: {why}; '
                         'copy or download them again') from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f'{path}: {name} is not finite: use an earlier or another model')
    return state


def mismatch(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """Return in few words how two sets of tensors differ in names or shapes; None: not."""
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    shapes = [f'{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}'
              for name, tensor in expected.items()
              if name in state and state[name].shape != tensor.shape]
    parts = [f'it {what} {", ".join(names[:3])}' + (f' and {len(names) - 3} more'
             if len(names) > 3 else '')
             for what, names in (('lacks', missing), ('has unknown', unknown)) if names]
    parts += shapes[:3] + ([f'and {len(shapes) - 3} more'] if len(shapes) > 3 else [])
    return '; '.join(parts) or None


def _state(model: DualEncoder) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def _read_config(directory: Path) -> tuple[dict[str, Any], ModelConfig]:
    if not directory.is_dir():
        raise InputError(f'there is no model folder {directory}: name one that holds '
                         f'{CONFIG} and {WEIGHTS}')
    written = read_json(directory / CONFIG)
    if not isinstance(written, dict) or written.get('format') != FORMAT:
        raise InputError(f'{directory / CONFIG} is not the configuration of a model of '
                         f'format {FORMAT}: take the version of this package that wrote it')
    return written, parse_config(written.get('model'), f'{directory / CONFIG}: model')
