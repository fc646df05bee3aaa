"""One thread that works on the newest thing only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import threading
from typing import Any


class NewestWorker:
    """
    Calls `work(item)` in one thread, always the same, with the newest item offered.

    An item that is offered while another one waits takes its place; the older one counts as
    dropped. `work` must not raise.
    """

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='inference')
        self._lock = threading.Lock()
        self._waiting: Any = None
        self._busy = False
        self.received = 0
        self.dropped = 0

    def offer(self, item: Any) -> None:
        """Hand over an item (not None); returns at once."""
        with self._lock:
            self.received += 1
            self.dropped += self._waiting is not None
            self._waiting = item
            if not self._busy:
                self._busy = True
                self._thread.submit(self._run)

    def call(self, function: Callable[[], Any]) -> Any:
        """Return `function()`, called in the thread, after what it is at."""
        return self._thread.submit(function).result()

    def clear(self) -> None:
        """Forget the waiting item, and wait until the one at work is done."""
        with self._lock:
            self._waiting = None
        self.call(lambda: None)

    def close(self) -> None:
        """End the thread; nothing may be offered after that."""
        with self._lock:
            self._waiting = None
        self._thread.shutdown(wait=True)

    def _run(self) -> None:
        while True:
            with self._lock:
                item, self._waiting = self._waiting, None
                if item is None:
                    self._busy = False
                    return
            self._work(item)
