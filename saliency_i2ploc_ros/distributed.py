"""
One job on several processes, as `torchrun` starts them; without it, the only process is rank 0.

Nothing here wraps a model: who trains or encodes takes its share, and the few values that the
ranks must agree on are gathered or summed by name.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
from datetime import timedelta
import os
from typing import Any, TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    import torch
    from torch import Tensor

# A rank may wait while another prepares hours of drives; torch's own limits are 10 to 30 minutes.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class World:
    """Which process this is (`rank`, from 0) and how many do the job together (`size`)."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Return whether this process is the one that writes files and speaks."""
        return self.rank == 0


def world() -> World:
    """Return this process's place, from RANK and WORLD_SIZE; what they cannot mean: InputError."""
    try:
        found = World(int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1')))
    except ValueError as error:
        raise InputError(f'RANK and WORLD_SIZE must be numbers ({error}): '
                         'start with torchrun, or unset them') from error
    if not 0 <= found.rank < found.size:
        raise InputError(f'RANK {found.rank} of WORLD_SIZE {found.size} is no process: '
                         'start with torchrun, or unset them')
    return found


def start(world: World) -> None:
    """Join the other processes (nccl where there is CUDA, else gloo); again: nothing happens."""
    if world.size == 1:
        return
    import torch
    import torch.distributed as dist
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device_of())
    dist.init_process_group('nccl' if torch.cuda.is_available() else 'gloo', rank=world.rank,
                            world_size=world.size, timeout=PATIENCE)


def stop(world: World) -> None:
    """Leave the other processes; without having joined them nothing happens."""
    if world.size > 1:
        import torch.distributed as dist
        if dist.is_initialized():
            dist.destroy_process_group()


def device_of() -> torch.device:
    """Return the device of this process: its own GPU (LOCAL_RANK), or the CPU."""
    import torch
    if not torch.cuda.is_available():
        return torch.device('cpu')
    return torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))


def share(count: int, world: World) -> range:
    """Return which of `count` items are this process's: neighbours, as even as can be."""
    return range(count * world.rank // world.size, count * (world.rank + 1) // world.size)


def barrier(world: World) -> None:
    """Wait until every process has come here."""
    if world.size > 1:
        import torch.distributed as dist
        dist.barrier()


@contextlib.contextmanager
def in_turn(world: World) -> Iterator[None]:
    """Run the block on one process after another, so that the later find what the first cached."""
    for _ in range(world.rank):
        barrier(world)
    try:
        yield
    finally:
        for _ in range(world.rank, world.size):
            barrier(world)


def gather_rows(tensor: Tensor, total: int, world: World) -> Tensor:
    """
    Return the rows of all processes, (total, ...), in order of rank; `tensor`: this one's share.

    No gradient passes to the other processes' rows, and none is needed where each process
    evaluates the whole loss: the gradient of its own rows is then complete.
    """
    if world.size == 1:
        return tensor
    import torch
    import torch.distributed as dist
    padded = _padded(tensor, -(-total // world.size))
    parts = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    rows = [part[:len(share(total, World(rank, world.size)))] for rank, part in enumerate(parts)]
    rows[world.rank] = tensor
    return torch.cat(rows)


def gather_to_first(
    rows: NDArray[Any], total: int, device: torch.device, world: World, at_once: int = 256,
) -> NDArray[Any] | None:
    """
    Return the rows of all processes as `gather_rows` does, but on the first one alone, else None.

    `at_once` rows of each process at a time, since of a large map they are more than the other
    processes, or a GPU, should hold.
    """
    if world.size == 1:
        return rows
    import numpy as np
    import torch
    import torch.distributed as dist
    found = np.empty((total, *rows.shape[1:]), rows.dtype) if world.writes else None
    longest = -(-total // world.size)
    for start in range(0, longest, at_once):
        count = min(at_once, longest - start)
        padded = _padded(torch.from_numpy(rows[start:start + count]).to(device), count)
        if found is None:
            dist.gather(padded, dst=0)
            continue
        parts = [torch.empty_like(padded) for _ in range(world.size)]
        dist.gather(padded, parts, dst=0)
        for rank, part in enumerate(parts):
            theirs = share(total, World(rank, world.size))[start:start + count]
            found[theirs.start:theirs.stop] = part[:len(theirs)].cpu().numpy()
    return found


def _padded(rows: Tensor, count: int) -> Tensor:
    """Return rows with zeros behind them: shares differ by a row, and are gathered as equals."""
    padded = rows.new_zeros((count, *rows.shape[1:]))
    padded[:len(rows)] = rows.detach()
    return padded


def sum_over(tensor: Tensor, world: World) -> Tensor:
    """Add up a tensor over all processes, in place, and return it."""
    if world.size > 1:
        import torch.distributed as dist
        dist.all_reduce(tensor)
    return tensor
