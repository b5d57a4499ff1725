"""The time to live of threads: its options, and the thread that sweeps. Named as in LangGraph's own stores."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

from memos_core.errors import InvalidArgument, MemOSError

log = logging.getLogger("memos_core.langgraph")
_OPTIONS = ("default_ttl", "refresh_on_read", "sweep_interval_minutes")
_SWEEP_MINUTES = 5.0


class TTLSweeper:
    """When threads expire, and who removes them.

    Args:
        ttl: see `MemOSSaver`.

    Raises:
        InvalidArgument: an option that is not known, or a time that is no positive number.
    """

    def __init__(self, ttl: Mapping[str, Any] | None) -> None:
        self.ttl_config = None if ttl is None else _checked(ttl)
        config = self.ttl_config or {}
        minutes = config.get("default_ttl")
        self.ttl = None if minutes is None else timedelta(minutes=minutes)
        self.read_ttl = self.ttl if config.get("refresh_on_read", True) else None
        self._sweeping: tuple[threading.Thread, threading.Event] | None = None

    def sweep_ttl(self) -> int:
        """Remove what has expired; returns how much."""
        raise NotImplementedError

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Call `sweep_ttl` again and again, in a thread of its own, until `stop_ttl_sweeper`. Without `ttl` there is
        nothing to do.

        Args:
            sweep_interval_minutes: how often; None takes that of `ttl`, or 5.

        Returns:
            What is done when the thread has ended; to cancel it ends the thread.
        """
        done: Future[None] = Future()
        if self.ttl_config is None:
            done.set_result(None)
            return done
        minutes = sweep_interval_minutes or self.ttl_config.get("sweep_interval_minutes") or _SWEEP_MINUTES
        _positive(minutes, "sweep_interval_minutes")
        if self._sweeping is not None and self._sweeping[0].is_alive():
            stop = self._sweeping[1]
        else:
            stop = threading.Event()
            loop = threading.Thread(
                target=self._sweep, args=(stop, minutes * 60, done), name="memos-ttl-sweeper", daemon=True
            )
            self._sweeping = (loop, stop)
            loop.start()
        done.add_done_callback(lambda future: stop.set() if future.cancelled() else None)
        return done

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the thread that `start_ttl_sweeper` started.

        Args:
            timeout: how many seconds to wait for it; None: until it has ended.

        Returns:
            Whether it has ended, or was never there.
        """
        if self._sweeping is None:
            return True
        loop, stop = self._sweeping
        stop.set()
        loop.join(timeout)
        if loop.is_alive():
            return False
        self._sweeping = None
        return True

    def _sweep(self, stop: threading.Event, seconds: float, done: Future[None]) -> None:
        while not stop.wait(seconds):
            try:
                self.sweep_ttl()
            except MemOSError as err:  # it is tried again
                log.warning("the sweep of expired threads failed: %s", err)
        if not done.cancelled():
            done.set_result(None)


def _checked(ttl: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(ttl, Mapping):
        raise InvalidArgument(f"ttl must be a dict with {', '.join(_OPTIONS)}, got {ttl!r}")
    unknown = [name for name in ttl if name not in _OPTIONS]
    if unknown:
        raise InvalidArgument(f"ttl: {unknown[0]!r} is no option; there are {', '.join(_OPTIONS)}")
    for name in ("default_ttl", "sweep_interval_minutes"):
        if ttl.get(name) is not None:
            _positive(ttl[name], name)
    if not isinstance(ttl.get("refresh_on_read", True), bool):
        raise InvalidArgument(f"ttl: refresh_on_read must be True or False, got {ttl['refresh_on_read']!r}")
    return dict(ttl)


def _positive(minutes: Any, name: str) -> None:
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < 1e8:
        raise InvalidArgument(f"ttl: {name} must be a positive number of minutes, got {minutes!r}")
