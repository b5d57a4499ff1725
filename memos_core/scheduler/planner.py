"""Which memories stand resident in front of a user's prompts. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from memos_core.cube import MemCube
from memos_core.cube.decay import HALF_LIFE as HALF_LIFE
from memos_core.cube.decay import decay, decayed

_REFILL = 0.75  # how full the budget is after memories were chosen anew


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
    reads = decayed(cube.header.behaviour, at, half_life)
    return reads + decay(_written(cube), at, half_life) + cube.header.governance.priority


def plan_resident(
    candidates: Sequence[MemCube],
    current: Sequence[str],
    count_tokens: Callable[[str], int],
    budget: int,
    at: datetime,
    since: datetime | None = None,
) -> Residents:
    """Choose the memories that stand resident, and keep the prompt's beginning as it was.

    Memories that are resident already keep their order and stand first; new ones come behind them, so an added
    memory leaves the KV cache of all that is before it valid. When new ones no longer fit, the hottest of all
    are chosen anew, up to `_REFILL` of the budget: the whole prefix is computed again, but rarely, because the
    room that is left takes the additions of many turns.

    Args:
        candidates: the user's memories.
        current: ids that are resident now, in prompt order.
        count_tokens: length of a memory's line in tokens.
        budget: the most tokens the memories may take together.
        at: the moment of planning.
        since: when the current plan was made; what was left out then is not new now.
    """
    costs = {c.id: count_tokens(c.text) for c in candidates}
    alive = {c.id: c for c in candidates}
    kept = [id_ for id_ in current if id_ in alive]
    fresh = sorted(
        c.id for c in candidates if c.id not in set(kept) and (since is None or _written(c) > since)
    )
    ordered, left = [*kept, *fresh], ""
    if sum(costs[i] for i in ordered) > budget:
        ordered = _hottest(candidates, kept, costs, int(budget * _REFILL), at)
        left = f"chosen anew by use, because the budget is {budget:,} tokens"
    known = set(ordered)
    again, gone = len(known.intersection(kept)), len(set(current) - known)
    parts = [f"{again} kept", f"{len(ordered) - again} new"]
    parts += [f"{gone} gone"] if gone else []
    parts += [left] if left else []
    return Residents(tuple(alive[i] for i in ordered), sum(costs[i] for i in ordered), ", ".join(parts))


def _hottest(
    candidates: Sequence[MemCube], kept: Sequence[str], costs: dict[str, int], budget: int, at: datetime
) -> list[str]:
    """The hottest memories that fit, those that are resident first, in their order."""
    chosen, tokens = set(), 0
    for cube in sorted(candidates, key=lambda c: (-hotness(c, at), c.id)):
        if tokens + costs[cube.id] <= budget:
            chosen.add(cube.id)
            tokens += costs[cube.id]
    first = [id_ for id_ in kept if id_ in chosen]
    return [*first, *sorted(chosen.difference(first))]


def _written(cube: MemCube) -> datetime:
    return cube.header.descriptive.updated_at
