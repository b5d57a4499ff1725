"""Whose turn it is to run the model: one forward pass at a time, requests before background work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET = 0.1  # seconds without a request's pass after which the model counts as free: longer than between two tokens
PATIENCE = 10.0  # seconds after which background work gets one pass, however busy the model is
_LOOK = 0.05  # seconds between two looks, while background work waits
_ASK = 1.0  # seconds between two questions whether it should still wait


class Turns:
    """A lock with two queues. It is held for one forward pass, never while a caller has control, so an
    abandoned or slow reader of a stream blocks nobody."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy = False
        self._asked = float("-inf")  # when a request last had the model
        self.waiting = 0
        """Requests that wait for the model now."""

    @contextmanager
    def take(self, *, background: bool, give_up: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the model for a `with` block.

        Args:
            background: wait until no request waits or has just had the model, so that a reply is not held up between
                its tokens; after `PATIENCE` seconds only until the model is free.
            give_up: called every second while background work waits; may raise.
        """
        if background:
            self._wait_in_background(give_up)
        else:
            self._wait()
        try:
            yield
        finally:
            with self._free:
                self._busy = False
                if not background:
                    self._asked = time.monotonic()
                self._free.notify_all()

    def _wait(self) -> None:
        with self._free:
            self.waiting += 1
            try:
                self._free.wait_for(lambda: not self._busy)
                self._busy = True
            finally:
                self.waiting -= 1

    def _wait_in_background(self, give_up: Callable[[], None] | None) -> None:
        impatient = time.monotonic() + PATIENCE

        def may() -> bool:
            moment = time.monotonic()
            quiet = not self.waiting and moment - self._asked >= QUIET
            return not self._busy and (quiet or moment >= impatient)

        asked = time.monotonic()
        while True:
            with self._free:
                if self._free.wait_for(may, _LOOK):
                    self._busy = True
                    return
            if give_up is not None and time.monotonic() - asked >= _ASK:
                asked = time.monotonic()
                give_up()
