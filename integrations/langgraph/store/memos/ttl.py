"""The TTL sweepers: what deletes expired items now and then, in a thread or in a task."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from langgraph.store.base import TTLConfig

from langgraph.store.memos.checks import is_positive
from memos_core.errors import InvalidArgument, MemOSError

log = logging.getLogger("langgraph.store.memos")
Sweep = Callable[[], int | None]  # deletes what has expired and says how much; None: the store is closed
_INTERVAL = 5.0  # minutes, as in the official stores
_NUMBERS = ("default_ttl", "sweep_interval_minutes")
_FLAGS = ("refresh_on_read", "omit_expired")


def check_config(ttl: TTLConfig | None) -> TTLConfig | None:
    """The TTL configuration of a store.

    Raises:
        InvalidArgument: it is no mapping, has an unknown key, or a value that cannot be used.
    """
    if ttl is None:
        return None
    if not isinstance(ttl, dict):
        raise InvalidArgument(f'ttl must be a TTLConfig like {{"default_ttl": 60}}, got {ttl!r:.80}')
    for name, value in ttl.items():
        if name in _NUMBERS:
            good = value is None or is_positive(value)
            wanted = "a number of minutes above 0, or None"
        elif name in _FLAGS:
            good, wanted = isinstance(value, bool), "True or False"
        else:
            raise InvalidArgument(f"ttl: {name!r} is unknown, use {', '.join((*_NUMBERS, *_FLAGS))}")
        if not good:
            raise InvalidArgument(f"ttl: {name} must be {wanted}, got {value!r:.80}")
    return ttl


def interval_of(ttl: TTLConfig, minutes: float | None) -> float:
    """Seconds between two sweeps.

    Raises:
        InvalidArgument: `minutes` is no number above 0.
    """
    if minutes is not None and not is_positive(minutes):
        raise InvalidArgument(f"sweep_interval_minutes must be a number above 0, got {minutes!r:.80}")
    return 60 * float(minutes or ttl.get("sweep_interval_minutes") or _INTERVAL)


class ThreadSweeper:
    """Sweeps in a daemon thread.

    Args:
        sweep: see `Sweep`.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._future: Future[None] = Future()

    def start(self, seconds: float) -> Future[None]:
        """Sweep every so many seconds from now on, if that is not being done already.

        Returns:
            What is done when the sweeper has stopped, and stops it when it is cancelled.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and not self._stop.is_set():
                return self._future
            stop, future = threading.Event(), Future[None]()
            future.add_done_callback(lambda _: stop.set())
            self._stop, self._future = stop, future
            self._thread = threading.Thread(
                target=self._run, args=(seconds, stop, future), name="memos-ttl-sweeper", daemon=True
            )
            self._thread.start()
            return future

    def stop(self, timeout: float | None) -> bool:
        """Stop sweeping and wait for the sweep that is going on, at most `timeout` seconds.

        Returns:
            Whether it has stopped.
        """
        with self._lock:
            thread = self._thread
            self._stop.set()
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self, seconds: float, stop: threading.Event, future: Future[None]) -> None:
        while not stop.wait(seconds):
            if not _swept(self._sweep):
                break
        if future.set_running_or_notify_cancel():
            future.set_result(None)


async def sweep_forever(sweep: Sweep, seconds: float, stop: asyncio.Event) -> None:
    """Sweep every so many seconds, until `stop` is set or the task is cancelled."""
    while True:
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            if await asyncio.to_thread(_swept, sweep):
                continue
        return


def _swept(sweep: Sweep) -> bool:
    """One sweep. False: there will be no other."""
    try:
        gone = sweep()
    except MemOSError as err:
        log.warning("the TTL sweep failed, the next one tries again: %s", err)
        return True
    if gone:
        log.info("the TTL sweep deleted %d items", gone)
    return gone is not None
