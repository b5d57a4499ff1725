"""Scope: whose memory it is. Principal: who is asking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator

from memos_core.errors import InvalidArgument

DEFAULT_TENANT = "default"
ANY_USER = "*"
_PARTS = ("tenant", "user", "agent", "session")


class Scope(BaseModel):
    """Where a memory belongs: tenant, user, agent, session (MemOS paper, section 5.1: user, domain, agent).

    For a write, the scope is the cube's home. For a read it is a filter: tenant and user match exactly, so
    that no call sees two users' memories by leaving something out; an agent or session that is None matches
    any.

    Args:
        tenant: the isolation boundary; nothing ever crosses it.
        user: the person the memory is about; None for memory that belongs to no user; "*" (`ANY_USER`) to
            read every user's, which only the operator may.
        agent: the agent that keeps it, or None.
        session: the conversation (LangGraph: thread; mem0: run), or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = DEFAULT_TENANT
    user: str | None = None
    agent: str | None = None
    session: str | None = None

    @field_validator("tenant", "user", "agent", "session")
    @classmethod
    def _no_empty_parts(cls, value: str | None) -> str | None:
        return _part(value)

    def narrow(
        self, *, user: str | None = None, agent: str | None = None, session: str | None = None
    ) -> Self:
        """This scope with more parts fixed. Parts already set cannot be changed.

        Raises:
            InvalidArgument: a part is already set to another value (a scope can be narrowed, never moved).
        """
        update = {}
        for name, value in (("user", user), ("agent", agent), ("session", session)):
            if value is None:
                continue
            current = getattr(self, name)
            if current not in (None, value) and not (name == "user" and current == ANY_USER):
                raise InvalidArgument(
                    f"{name}={value!r} is outside the scope, which is fixed to {name}={current!r}"
                )
            update[name] = value
        return type(self).model_validate({**self.model_dump(), **update})

    @property
    def home(self) -> Self:
        """Where what is remembered in this scope counts: in every session of its user. A session of no user is by
        itself, because nobody knows who speaks in the others."""
        return self if self.user is None else self.model_copy(update={"session": None})

    def contains(self, other: Scope) -> bool:
        """Whether a memory of scope `other` may be written by whoever holds this one."""
        return (self.user == ANY_USER or self.user in (None, other.user)) and all(
            getattr(self, p) in (None, getattr(other, p)) for p in ("tenant", "agent", "session")
        )

    def __str__(self) -> str:
        return "/".join(f"{p}={getattr(self, p)}" for p in _PARTS if getattr(self, p) is not None)


class Principal(BaseModel):
    """Who acts. A principal with a user may act only in that user's scope; without one it is the operator
    (the application itself, which has authenticated its users) within its tenant.

    Args:
        tenant: the tenant it belongs to.
        user: the user it is, or None for the operator.
        name: what the audit log calls it; defaults to the user or "operator".
        clearance: the sensitivity labels it may read; a cube with another label does not exist for it. None: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = DEFAULT_TENANT
    user: str | None = None
    name: str = ""
    clearance: frozenset[str] | None = None

    @field_validator("tenant", "user")
    @classmethod
    def _one_identity(cls, value: str | None) -> str | None:
        if value == ANY_USER:
            raise ValueError("'*' names nobody; leave user out for the operator")
        return _part(value)

    def cleared_for(self, labels: Iterable[str]) -> Self:
        """This principal with no more clearance than these labels."""
        allowed = frozenset(labels)
        if self.clearance is not None:
            allowed &= self.clearance
        return self.model_copy(update={"clearance": allowed})

    @property
    def label(self) -> str:
        """The name the audit log uses."""
        return self.name or self.user or "operator"


def _part(value: str | None) -> str | None:
    if value is not None and (not value.strip() or any(ord(character) < 32 for character in value)):
        raise ValueError("must be a non-empty string without control characters, or left out")
    return value
