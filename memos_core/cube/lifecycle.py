"""MemLifecycle: the states of a cube and the legal steps between them (MemOS paper, section 5.4)."""

from __future__ import annotations

from enum import StrEnum

from memos_core.errors import InvalidArgument


class State(StrEnum):
    """Where a cube is in its life. `frozen` is a flag beside the state, not a state."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"


# What was merged never comes back by itself: its content lives on in the cube that it was merged into. An archived cube
# is merged by way of being activated, so that nothing disappears from the archive unseen.
LEGAL: dict[State, frozenset[State]] = {
    State.GENERATED: frozenset({State.ACTIVATED, State.MERGED, State.ARCHIVED, State.EXPIRED}),
    State.ACTIVATED: frozenset({State.MERGED, State.ARCHIVED, State.EXPIRED}),
    State.MERGED: frozenset({State.ARCHIVED, State.EXPIRED}),
    State.ARCHIVED: frozenset({State.ACTIVATED, State.EXPIRED}),
    State.EXPIRED: frozenset(),
}

# What is written is found: the steps that only a new version takes. An archived memory comes back to life with its new
# content, and at the address of one that was merged away or has expired a new life begins.
BY_WRITING = {
    State.MERGED: State.GENERATED,
    State.ARCHIVED: State.ACTIVATED,
    State.EXPIRED: State.GENERATED,
}

# What a search sees unless asked otherwise.
LIVE = (State.GENERATED, State.ACTIVATED)


def check(old: State, new: State, *, frozen: bool = False) -> None:
    """Raise unless a cube may go from `old` to `new`.

    Args:
        frozen: whether the cube is frozen: then it goes nowhere.

    Raises:
        InvalidArgument: it is frozen, or the step is not in the table; the message lists the legal ones.
    """
    if frozen:
        raise InvalidArgument(f"state: a frozen cube stays {old} and cannot become {new}; unfreeze it first")
    if new not in LEGAL[old]:
        legal = ", ".join(sorted(LEGAL[old])) or "nothing (it is final)"
        raise InvalidArgument(f"state: a cube that is {old} cannot become {new}; legal next states: {legal}")
