"""Time-ordered ids (UUIDv7, RFC 9562): sorting by id is sorting by creation."""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Literal

_POOL = (
    4096  # bytes of randomness fetched at once: a system call for each id is a quarter of a batch of writes
)
_LENGTH = 36  # of a UUID
_MORE = 16  # digits behind an id, where there is no room for another UUID
_STEP = 1 << 40
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


def id_between(low: str | None, high: str, near: Literal["low", "high"] | None = None) -> str | None:
    """An id that sorts behind one and before another, as texts do. None where there is none to be had.

    Args:
        low, high: ids that `new_id` or this made. low None: before `high`, however far.
        near: which of them, where more ids will be wanted on the other side; None is in the middle.
    """
    if low is not None and low >= high:
        return None
    try:
        top = _number(high)
        if low is None:
            return _written(top - 1 - secrets.randbelow(_STEP)) if top > _STEP else None
        bottom = _number(low)
        if top - bottom > 4 * _STEP:
            return _written(bottom + _part(top - bottom, near, _STEP))
        # Behind the lower UUID, with digits: a fraction between those of the two.
        digits = max(len(low), len(high), _LENGTH + _MORE) - _LENGTH
        first = int(low[_LENGTH:].ljust(digits, "0"), 16)
        last = int(high[_LENGTH:].ljust(digits, "0"), 16) if top == bottom else 16**digits
    except ValueError:
        made = f"{low or ''}-{secrets.token_hex(8)}"  # they were made elsewhere
        return made if (low or "") < made < high else None
    while last - first < 4:
        digits, first, last = digits + _MORE, first * 16**_MORE, last * 16**_MORE
        if digits > 50 * _MORE:  # longer than an id may be
            return None
    return low[:_LENGTH] + f"{first + _part(last - first, near, 1 << 16):0{digits}x}"


def _part(room: int, near: str | None, step: int) -> int:
    """A number above 0 and below `room`, which is 4 or more."""
    if near is None:
        return room // 4 + 1 + secrets.randbelow(room // 2)
    step = 1 + secrets.randbelow(max(1, min(room // 4, step)))
    return step if near == "low" else room - step


def _number(id_: str) -> int:
    """A UUID as a number, of one with more digits behind it the UUID."""
    return int(id_[:_LENGTH].replace("-", ""), 16)


def _written(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _after_fork() -> None:
    """A child of this process draws its own randomness, and no thread of its parent holds its lock."""
    global _lock, _random
    _lock, _random = threading.Lock(), b""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
