"""Time-ordered ids (UUIDv7, RFC 9562): sorting by id is sorting by creation."""

from __future__ import annotations

import os
import secrets
import threading
import time

_POOL = (
    4096  # bytes of randomness fetched at once: a system call for each id is a quarter of a batch of writes
)
_BEFORE = 88  # bits: some hundred milliseconds
_lock = threading.Lock()
_last = 0
_random = b""


def new_id() -> str:
    """A new UUIDv7 as a string; strictly increasing within a process (RFC 9562, section 6.2, method 3)."""
    global _last, _random
    with _lock:
        # 48 bits of milliseconds and 12 bits of fraction: one counter that never goes back.
        tick = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        _last = tick
        if not _random:
            _random = os.urandom(_POOL)
        noise, _random = _random[:8], _random[8:]
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64
    value |= 0b10 << 62 | int.from_bytes(noise, "big") >> 2
    return _written(value)


def id_between(low: str | None, high: str) -> str | None:
    """An id that sorts behind one and before another, random among those; None where there is none to be had.

    Args:
        low, high: ids that `new_id` or this made. low None: before `high`, however far.
    """
    try:
        top = int(high.replace("-", ""), 16)
        bottom = int(low.replace("-", ""), 16) if low is not None else max(0, top - (1 << _BEFORE))
    except ValueError:
        return None
    if top - bottom < 2:
        return None
    return _written(bottom + 1 + secrets.randbelow(top - bottom - 1))


def _written(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _after_fork() -> None:
    """A child of this process draws its own randomness, and no thread of its parent holds its lock."""
    global _lock, _random
    _lock, _random = threading.Lock(), b""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
