"""Progress of long work: a rich bar on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
import sys
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar('Item')

console = Console(stderr=True)


def bar(*columns: TextColumn) -> Progress:
    """Return a progress bar on stderr, with further text columns; silent off a terminal."""
    return Progress(
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), *columns,
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
        disable=not sys.stderr.isatty(),
    )


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing how far through them the loop is."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar() as progress:
        yield from progress.track(items, total=total, description=what)
