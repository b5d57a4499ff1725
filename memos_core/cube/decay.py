"""How use fades: the one formula behind `Behaviour.frequency`, for planning and for the life cycle."""

from __future__ import annotations

from datetime import datetime, timedelta

from memos_core.cube.cube import Behaviour

HALF_LIFE = timedelta(days=7)


def decay(since: datetime, at: datetime, half_life: timedelta = HALF_LIFE) -> float:
    """What is left at `at` of a weight of 1 at `since`: half of it after every half-life, never more than 1."""
    return float(0.5 ** (max(timedelta(0), at - since) / half_life))


def decayed(behaviour: Behaviour, at: datetime, half_life: timedelta = HALF_LIFE) -> float:
    """The frequency of reads as of `at`. The stored one is as of `last_read`; 0.0 for what was never read."""
    if behaviour.last_read is None:
        return 0.0
    return behaviour.frequency * decay(behaviour.last_read, at, half_life)
