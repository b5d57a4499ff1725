"""When a cube moves on by itself: the policy that a user can replace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from memos_core.cube import LIVE, MemCube, State
from memos_core.cube.decay import HALF_LIFE, decayed
from memos_core.errors import InvalidArgument

_NONE = timedelta(0)


@dataclass(frozen=True)
class Step:
    """Where a cube goes, and why: the cause stands in the audit log."""

    state: State
    cause: str


class LifecyclePolicy(Protocol):
    """Decides between turns which cubes move on. What it answers is checked against the table of legal steps."""

    def next_state(self, cube: MemCube, at: datetime) -> Step | None:
        """The step that is due for a cube at a moment; None if it stays where it is.

        Args:
            cube: with its behaviour, as the vault returns it. at: the moment, aware.
        """
        ...


@dataclass(frozen=True)
class DecayPolicy:
    """What is read often is activated, what nobody reads is archived, what outlives its ttl expires.

    A frozen cube never moves, and its ttl does not pass. A cube with a priority above 0, or of a type in
    `keep_types`, is never archived or expired for lack of use; its ttl passes as for any other. A merged cube is
    not archived, because from the archive it would come back beside the cube that holds its content.

    Args:
        activate_frequency: reads, decayed to the moment, from which a generated cube is activated.
        archive_after: a cube neither read nor written for so long is archived; None: never.
        archive_frequency: only if its frequency has decayed to this or less.
        expire_after: an archived or merged cube that stays unused for so long beyond `archive_after` expires;
            None: never.
        keep_expired: how long an expired cube can still be looked at before it is deleted for good.
        keep_types: semantic types that are not archived or expired for lack of use.
        half_life: in which the frequency halves.

    Raises:
        InvalidArgument: a duration that is negative, or zero where that would empty the vault; frequencies that
            are negative, or between which a cube would be activated and archived at once.
    """

    activate_frequency: float = 2.0
    archive_after: timedelta | None = timedelta(days=180)
    archive_frequency: float = 0.05
    expire_after: timedelta | None = None
    keep_expired: timedelta = _NONE
    keep_types: frozenset[str] = frozenset({"message", "item", "document", "kv"})
    half_life: timedelta = HALF_LIFE

    def __post_init__(self) -> None:
        for name in ("archive_after", "expire_after", "half_life"):
            value = getattr(self, name)
            if name != "half_life" and value is None:
                continue
            if not isinstance(value, timedelta) or value <= _NONE:
                raise InvalidArgument(f"{name} must be a positive timedelta, got {value!r}")
        if not isinstance(self.keep_expired, timedelta) or self.keep_expired < _NONE:
            raise InvalidArgument(
                f"keep_expired must be a timedelta of zero or more, got {self.keep_expired!r}"
            )
        for name in ("activate_frequency", "archive_frequency"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidArgument(f"{name} must be a number of zero or more, got {value!r}")
        if self.activate_frequency <= self.archive_frequency:
            raise InvalidArgument(
                f"activate_frequency must be above archive_frequency ({self.archive_frequency}), "
                f"got {self.activate_frequency}"
            )
        if isinstance(self.keep_types, str):
            raise InvalidArgument(f"keep_types must be a set of strings, got {self.keep_types!r}")
        object.__setattr__(self, "keep_types", frozenset(self.keep_types))

    def next_state(self, cube: MemCube, at: datetime) -> Step | None:
        """See `LifecyclePolicy.next_state`."""
        if cube.frozen or cube.state is State.EXPIRED:
            return None
        expires_at = cube.header.governance.expires_at
        if expires_at is not None and expires_at <= at:
            return Step(State.EXPIRED, f"its ttl passed at {expires_at.isoformat(timespec='seconds')}")
        frequency = decayed(cube.header.behaviour, at, self.half_life)
        if cube.state is State.GENERATED and frequency >= self.activate_frequency:
            return Step(State.ACTIVATED, f"read often: frequency {frequency:.2f}")
        if cube.header.governance.priority > 0 or cube.semantic_type in self.keep_types:
            return None
        if frequency > self.archive_frequency:
            return None
        return self._unused(cube, at - last_used(cube))

    def _unused(self, cube: MemCube, idle: timedelta) -> Step | None:
        """The step due for a cube that was not used for so long."""
        if cube.state in LIVE:
            if self.archive_after is not None and idle >= self.archive_after:
                return Step(State.ARCHIVED, f"unused for {idle.days} days")
        elif self.expire_after is not None and idle >= self.expire_after + (self.archive_after or _NONE):
            return Step(State.EXPIRED, f"{cube.state} and unused for {idle.days} days")
        return None


def last_used(cube: MemCube) -> datetime:
    """When a cube was last read or written, whichever is later."""
    written, read = cube.header.descriptive.updated_at, cube.header.behaviour.last_read
    return written if read is None else max(written, read)
