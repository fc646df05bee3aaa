"""Trouble in the log: at once, and then seldom."""

from __future__ import annotations

import time
from typing import Any

QUIET_S = 5.0  # between two messages of the same kind


class Complaints:
    """
    Logs trouble by its kind: each is heard at once, however often another one has just been.

    ROS's own throttle goes by the line of code, behind which different kinds would hide.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._said: dict[str, float] = {}

    def warn(self, kind: str, text: str) -> None:
        """Log a warning, unless its kind was heard less than `QUIET_S` ago."""
        if self._is_due(kind):
            self._logger.warning(text)

    def error(self, kind: str, text: str) -> None:
        """Log an error, unless its kind was heard less than `QUIET_S` ago."""
        if self._is_due(kind):
            self._logger.error(text)

    def once(self, kind: str, text: str) -> None:
        """Log a warning the first time that it is called for this kind."""
        if kind not in self._said:
            self._said[kind] = time.monotonic()
            self._logger.warning(text)

    def _is_due(self, kind: str) -> bool:
        now = time.monotonic()
        if now - self._said.get(kind, -QUIET_S) < QUIET_S:
            return False
        self._said[kind] = now
        return True
