"""A view: one scope of a vault, for one principal. What all groups of operations on it share."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from typing import Any, Self

from memos_core import arguments
from memos_core.core import Core
from memos_core.cube import MemCube, Principal, Scope, State
from memos_core.errors import AccessDenied, InvalidArgument, NotFound
from memos_core.governance import effective_scope
from memos_core.scheduler import Decision, MemScheduler
from memos_core.vault import Actor, CubeFilter, Right, Writer

UNNAMED = "default"  # the session of who names neither a user nor a session


class View:
    """The base of `Memory`, `Evolution` and `Governed`, which `MemOS` joins."""

    def __init__(self, core: Core, scope: Scope, principal: Principal, adapter: str) -> None:
        self._core = core
        self._scope = effective_scope(principal, scope)
        self._principal = principal
        self._actor = Actor(principal.label, adapter)
        self._sessionless = False  # see `CubeFilter`

    def __copy__(self) -> Self:
        """A view is a handle on the open vault: a copy of what holds it works on the same one."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """See `__copy__`."""
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse to be pickled.

        Raises:
            InvalidArgument: always.
        """
        raise InvalidArgument(
            "an open MemOS cannot be pickled or sent to another process; open its url there with MemOS.open"
        )

    def in_session(self) -> Self:
        """This view; where it names neither a user nor a session, that of the session "default". What is said without
        either would otherwise count for every session that nobody is known to speak in.
        """
        if self._scope.user is not None or self._scope.session is not None:
            return self
        scope = self._scope.narrow(session=UNNAMED)
        return type(self)(self._core, scope, self._principal, self._actor.adapter)

    @property
    def scope(self) -> Scope:
        """The scope of this view."""
        return self._scope

    @property
    def principal(self) -> Principal:
        """Who acts through this view."""
        return self._principal

    @property
    def scheduler(self) -> MemScheduler:
        """The scheduler that all views share. What it tells is about every user; `explain` is about this view's."""
        return self._core.scheduler

    def explain(self) -> list[Decision]:
        """What the scheduler did for the users and agents of this view, and why, oldest first."""
        mine = self._scope.model_copy(update={"session": None})
        return [d for d in self.scheduler.explain() if mine.contains(d.scope)]

    def _which(self, **parts: Any) -> CubeFilter:
        """A filter of what this view may see. Every read and every change begins with one.

        Raises:
            InvalidArgument: a part of it is of the wrong kind.
        """
        for part in ("types", "kinds", "keys", "ids"):
            if parts.get(part) is not None:
                parts[part] = arguments.names(parts[part], part)
        if "not_types" in parts:
            parts["not_types"] = arguments.names(parts["not_types"], "not_types")
        if parts.get("states") is not None:
            parts["states"] = _states(parts["states"])
        return CubeFilter(self._scope, self._principal.clearance, sessionless=self._sessionless, **parts)

    def _everything(self, granted: Right | None = None) -> CubeFilter:
        """All that this view may see, in whatever state."""
        return self._which(granted=granted, states=None, expired=True)

    def _locked(
        self, writer: Writer, ids: Sequence[str], granted: Right | None = None, *, expired: bool = False
    ) -> list[MemCube]:
        """These cubes, locked for a change.

        Raises:
            NotFound: one is not in this scope. AccessDenied: one can be read here, but the right is missing.
        """
        wanted = distinct_ids(ids)
        which = self._which(granted=granted, states=None, expired=expired)
        found = writer.get(wanted, which)
        for id_ in wanted:
            if id_ not in found:
                if writer.get([id_], self._which(granted="read", states=None)):
                    needed = f"the right to {granted} it" if granted else "its owner"
                    raise AccessDenied(f"cube {id_!r} may only be read by {self._who}: this needs {needed}")
                raise self._missing(id_)
        return [found[id_] for id_ in wanted]

    def _missing(self, cube_id: str) -> NotFound:
        return NotFound(f"cube {cube_id!r:.80} does not exist in {self._scope}")

    @property
    def _who(self) -> str:
        return self._scope.user or self._principal.label


def distinct_ids(ids: str | Sequence[str]) -> list[str]:
    """The ids a caller means: one, or several without repetitions.

    Raises:
        InvalidArgument: something else than strings.
    """
    if isinstance(ids, str):
        return [arguments.name(ids, "ids")]
    return list(dict.fromkeys(arguments.names(ids, "ids")))


def _states(states: object) -> tuple[State, ...]:
    if isinstance(states, Sequence | Set) and not isinstance(states, str | bytes):
        with suppress(ValueError):
            return tuple(State(state) for state in states)
    raise InvalidArgument(f"states must be a list of {', '.join(State)}, got {states!r:.80}")
