"""Checkpoints: all that a run needs to go on, as safetensors and JSON, written atomically."""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

from safetensors.torch import load_file, save_file
import torch
from torch import nn, Tensor

from ..errors import InputError
from ..storage import atomic_directory, read_json, write_json


def save_checkpoint(
    run: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> Path:
    """
    Write `run`/checkpoints/<step> and drop the ones before it; return its folder.

    module: holds all that is trained. facts: JSON-like, for example the recipe's hash.
    """
    folder = run / 'checkpoints' / f'{step:08d}'
    with atomic_directory(folder, overwrite=True) as temporary:
        save_file({k: v.contiguous() for k, v in module.state_dict().items()},
                  temporary / 'module.safetensors')
        save_file(_optimizer_tensors(optimizer), temporary / 'optimizer.safetensors')
        write_json(temporary / 'state.json', {'step': step, **facts})
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint's folder in a run, or None."""
    folders = sorted(run.glob('checkpoints/[0-9]*/state.json'))
    return folders[-1].parent if folders else None


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any],
) -> int:
    """
    Restore module and optimizer in place and return the step to go on from.

    An InputError says if the checkpoint is of another recipe (its facts differ) or is damaged.
    """
    state = read_json(folder / 'state.json')
    for name, value in facts.items():
        if state.get(name) != value:
            raise InputError(f'{folder} was made with another {name}: resume without '
                             '--set, or train into a new folder')
    try:
        module.load_state_dict(load_file(folder / 'module.safetensors'))
        tensors = load_file(folder / 'optimizer.safetensors')
    except Exception as error:
        raise InputError(f'{folder} is damaged ({error}): remove it and resume again') from error
    optimizer.load_state_dict({
        'state': _optimizer_state(tensors),
        'param_groups': optimizer.state_dict()['param_groups'],
    })
    return int(state['step'])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {f'{index}.{name}': value.contiguous()
            for index, entry in optimizer.state_dict()['state'].items()
            for name, value in entry.items()}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split('.', 1)
        state.setdefault(int(index), {})[name] = value
    return state
