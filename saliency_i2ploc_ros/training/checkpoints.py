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
    facts: dict[str, Any], within: dict[str, Tensor] | None = None, part: int = 0,
) -> Path:
    """
    Write a folder below `run`/checkpoints and drop the ones before it; return it.

    step: how many are done. module: holds all that is trained. facts: JSON-like, for example the
    recipe's hash. within: what is done of the next step, and `part`, how far that is. The folder
    is always a new one, even of the same step and part, so that no moment is without a whole one.
    """
    stem = f'{step:08d}-{part:06d}'
    taken = [int(path.name.rsplit('-', 1)[1]) for path in run.glob(f'checkpoints/{stem}-*')]
    folder = run / 'checkpoints' / f'{stem}-{max(taken, default=-1) + 1:04d}'
    with atomic_directory(folder) as temporary:
        save_file(_tensors(module.state_dict()), temporary / 'module.safetensors')
        save_file(_optimizer_tensors(optimizer), temporary / 'optimizer.safetensors')
        if within:
            save_file(_tensors(within), temporary / 'within.safetensors')
        write_json(temporary / 'state.json', {'step': step, **facts})
    for other in folder.parent.iterdir():
        if other != folder:  # the ones before, and what a killed process left half written
            shutil.rmtree(other, ignore_errors=True)
    return folder


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint's folder in a run, or None."""
    folders = sorted(run.glob('checkpoints/[0-9]*/state.json'))
    return folders[-1].parent if folders else None


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any],
) -> dict[str, Tensor]:
    """
    Restore module and optimizer in place; return what is done of the next step (empty: nothing).

    An InputError says if the checkpoint is of another recipe (its facts differ) or is damaged.
    """
    state = read_json(folder / 'state.json')
    for name, value in facts.items():
        if state.get(name) != value:
            raise InputError(f'{folder} was made with another {name}: resume without --set, by '
                             'the version of this package that began it, or train into a new '
                             'folder')
    within = folder / 'within.safetensors'
    try:
        module.load_state_dict(load_file(folder / 'module.safetensors'))
        tensors = load_file(folder / 'optimizer.safetensors')
        done = load_file(within) if within.is_file() else {}
    except Exception as error:
        raise InputError(f'{folder} is damaged ({error}): remove it and resume again') from error
    optimizer.load_state_dict({
        'state': _optimizer_state(tensors),
        'param_groups': optimizer.state_dict()['param_groups'],
    })
    return dict(done)


def _tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _tensors({f'{index}.{name}': value
                     for index, entry in optimizer.state_dict()['state'].items()
                     for name, value in entry.items()})


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split('.', 1)
        state.setdefault(int(index), {})[name] = value
    return state
