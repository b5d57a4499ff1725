"""Whose turn it is to run the model: one forward pass at a time, requests before background work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two queues. It is held for one forward pass, never while a caller has control, so an
    abandoned or slow reader of a stream blocks nobody."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy = False
        self.waiting = 0
        """Requests that wait for the model now."""

    @contextmanager
    def take(self, *, background: bool) -> Iterator[None]:
        """Hold the model for a `with` block.

        Args:
            background: wait until no request waits.
        """
        with self._free:
            self.waiting += not background
            try:
                self._free.wait_for(lambda: not self._busy and not (background and self.waiting))
                self._busy = True
            finally:
                self.waiting -= not background
        try:
            yield
        finally:
            with self._free:
                self._busy = False
                self._free.notify_all()
