"""Which statement ends which (bi-temporal facts): pure, on the slots that a reader gave them."""

from __future__ import annotations

from memos_core.cube.payload import Slot


def contradicts(newer: Slot, older: Slot) -> bool:
    """Whether the older statement holds no more once the newer one does.

    "I live in Oslo" ends "I live in Rome", and "I no longer live in Oslo". "I no longer live in Oslo" ends
    "I live in Oslo", but not "I live in Rome". What only says that something is over never ends another such.

    Args:
        newer, older: slots of two statements, by the time from which they hold.
    """
    if newer.key != older.key or (newer.ends and older.ends):
        return False
    return (newer.value == older.value) == (newer.ends or older.ends)
