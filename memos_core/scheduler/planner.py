"""Which memories stand resident in front of a user's prompts. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from memos_core.cube import MemCube

HALF_LIFE = timedelta(days=7)


@dataclass(frozen=True)
class Residents:
    """A choice of memories, in prompt order, and why."""

    cubes: tuple[MemCube, ...]
    tokens: int
    reason: str


def hotness(cube: MemCube, at: datetime, half_life: timedelta = HALF_LIFE) -> float:
    """How much a memory is used: its reads and its writing, each losing half its weight every half-life, plus
    its priority.

    Args:
        cube: with its behaviour, as the vault returns it.
        at: the moment to judge it at.
    """
    used, written = cube.header.behaviour, cube.header.descriptive.updated_at
    reads = used.frequency * _decay(at, used.last_read, half_life) if used.last_read else 0.0
    return reads + _decay(at, written, half_life) + cube.header.governance.priority


def plan_resident(
    candidates: Sequence[MemCube],
    current: Sequence[str],
    count_tokens: Callable[[str], int],
    budget: int,
    at: datetime,
) -> Residents:
    """Choose the hottest memories that fit, and keep the prompt's beginning as it was.

    Memories that are resident already keep their order and stand first; new ones come behind them. So an
    added memory leaves the KV cache of all that is before it valid.

    Args:
        candidates: the user's memories.
        current: ids that are resident now, in prompt order.
        count_tokens: length of a memory's line in tokens.
        budget: the most tokens the memories may take together.
        at: the moment of planning.
    """
    chosen: dict[str, MemCube] = {}
    tokens = 0
    for cube in sorted(candidates, key=lambda c: (-hotness(c, at), c.id)):
        cost = count_tokens(cube.text)
        if tokens + cost <= budget:
            chosen[cube.id] = cube
            tokens += cost
    kept = [id_ for id_ in current if id_ in chosen]
    known = set(kept)
    ordered = [chosen[id_] for id_ in [*kept, *sorted(i for i in chosen if i not in known)]]
    added, left, gone = len(chosen) - len(kept), len(candidates) - len(chosen), len(set(current) - known)
    parts = [f"{len(kept)} kept", f"{added} new"]
    if gone:
        parts.append(f"{gone} gone or colder than others")
    if left:
        parts.append(f"{left} left out: colder, and the budget is {budget} tokens")
    return Residents(tuple(ordered), tokens, ", ".join(parts))


def _decay(at: datetime, since: datetime, half_life: timedelta) -> float:
    return float(0.5 ** (max(timedelta(0), at - since) / half_life))
