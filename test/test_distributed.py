"""Two processes over gloo: shares, turns, and a gradient equal to that of one process."""

import os
from pathlib import Path
import socket
import subprocess
import sys

from helpers_training import noise_batch, noise_config
import pytest
from safetensors.torch import load_file
import torch

from saliency_i2ploc_ros.distributed import share, World, world
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.training.steps import CachedStep
from saliency_i2ploc_ros.training.task import TrainingTask

STEP = {'batch': 5, 'chunk': 2, 'objective': 'infonce', 'geometry_weight': 0.7,
        'relation_distance': 3.0, 'relation_angle': 2.0, 'relation_geodesic': 5.0}
CODE = """
import sys
from pathlib import Path
import numpy as np
from safetensors.torch import save_file
import torch
from helpers_training import noise_batch, noise_config
from saliency_i2ploc_ros.distributed import (
    gather_rows, gather_to_first, in_turn, share, start, stop, world)
from saliency_i2ploc_ros.training.steps import CachedStep
from saliency_i2ploc_ros.training.task import TrainingTask

folder, here = Path(sys.argv[1]), world()
torch.set_num_threads(1)
start(here)
start(here)
with in_turn(here):
    with (folder / 'turns').open('a') as file:
        print('begins', here.rank, file=file, flush=True)
        print('ends', here.rank, file=file, flush=True)
rows = torch.arange(10.0).reshape(5, 2)[list(share(5, here))].requires_grad_()
whole = gather_rows(rows, 5, here)
assert torch.equal(whole, torch.arange(10.0).reshape(5, 2)), whole
whole.square().sum().backward()
assert torch.equal(rows.grad, 2 * rows)
for at_once in (1, 2, 3, 9):  # of shares of two and three
    first = gather_to_first(rows.detach().numpy(), 5, torch.device('cpu'), here, at_once)
    assert (first is None) == (here.rank > 0)
    assert first is None or (first == whole.detach().numpy()).all(), first
details = np.arange(6, dtype=np.float16).reshape(1, 2, 3)  # of one row, which is the second's
first = gather_to_first(details[:here.rank], 1, torch.device('cpu'), here)
assert first is None or (first.dtype == np.float16 and (first == details).all()), first

config = noise_config(**eval(sys.argv[2]))
torch.manual_seed(1)
task = TrainingTask(config)
losses = CachedStep(task, noise_batch(config), 0, here).run()
tensors = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
tensors |= {f'loss.{name}': torch.tensor(value) for name, value in losses.items()}
save_file(tensors, folder / f'{here.rank}.safetensors')
stop(here)
"""


def test_shares_are_all_and_even():
    for count in (0, 1, 5, 8, 13):
        for size in (1, 2, 3, 8):
            parts = [share(count, World(rank, size)) for rank in range(size)]
            assert [i for part in parts for i in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_world_is_what_torchrun_says(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert world() == World(0, 1) and world().writes
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '4')
    assert world() == World(1, 4) and not world().writes
    for rank in ('4', '-1', 'one'):
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(InputError, match='torchrun'):
            world()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, '-c', CODE, str(tmp_path), repr(STEP)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1',
             'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1',
             'PYTHONPATH': str(Path(__file__).parent)}) for rank in range(2)]
    try:
        errors = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert (tmp_path / 'turns').read_text().split() == 'begins 0 ends 0 begins 1 ends 1'.split()

    config = noise_config(**STEP)
    torch.manual_seed(1)
    task = TrainingTask(config)
    losses = CachedStep(task, noise_batch(config), 0, World()).run()
    expected = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in expected.values())
    of_both = [load_file(tmp_path / f'{rank}.safetensors') for rank in range(2)]
    for name, gradient in expected.items():
        assert torch.allclose(of_both[0][name], gradient, rtol=1e-3, atol=1e-5 * largest), name
    assert expected.keys() <= of_both[0].keys()
    for name, loss in losses.items():
        assert float(of_both[0][f'loss.{name}']) == pytest.approx(loss, rel=1e-3)
    # To the bit the same on both, so that their weights never part.
    for name, value in of_both[0].items():
        assert torch.equal(value, of_both[1][name]), name
