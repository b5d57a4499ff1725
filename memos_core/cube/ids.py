"""Time-ordered ids (UUIDv7, RFC 9562): sorting by id is sorting by creation."""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new UUIDv7 as a string; strictly increasing within a process (RFC 9562, section 6.2, method 3)."""
    global _last
    with _lock:
        # 48 bits of milliseconds and 12 bits of fraction: one counter that never goes back.
        tick = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        _last = tick
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64
    value |= 0b10 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
