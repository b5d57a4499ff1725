"""The filter that every query of cubes goes through: the one place where access becomes SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Exists, Select, and_, bindparam, literal, or_, select, union_all

from memos_core.cube import ANY_USER, LIVE, MemCube, Namespace, Plaintext, Scope, State, now
from memos_core.vault import tables as t
from memos_core.vault.among import Among
from memos_core.vault.rows import micros, pack_namespace

Right = Literal["read", "write", "share"]


@dataclass(frozen=True)
class CubeFilter:
    """Which cubes a call is about, and may be about: the one place where access becomes SQL. A part that is
    None matches all.

    Args:
        scope: see `Scope` for what its parts match.
        clearance: the sensitivity labels the principal may read; None: all.
        granted: also cubes of others that the scope's user was granted this right to, whatever their agent and
            session.
        namespace: cubes at or below this prefix; `exact_namespace` leaves out those below.
        types: semantic types; `not_types` leaves some out.
        kinds: payload kinds. states: life-cycle states (default: the live ones).
        ids, keys: exactly these. expired: also what has outlived its ttl.
        valid_at: what held at this moment; None: whenever.
        sessionless: also cubes of no session; where the scope names no session, these alone.
    """

    scope: Scope
    clearance: frozenset[str] | None = None
    granted: Right | None = None
    namespace: Namespace = ()
    exact_namespace: bool = False
    types: Sequence[str] | None = None
    not_types: Sequence[str] = ()
    kinds: Sequence[str] | None = None
    states: Sequence[State] | None = LIVE
    ids: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    expired: bool = False
    valid_at: datetime | None = None
    sessionless: bool = False

    def where(self) -> ColumnElement[bool]:
        """The filter as one SQL condition on `cubes`; every value is a bound parameter. See also
        `memos_core.vault.prepared`."""
        c = t.cubes.c
        clauses: list[ColumnElement[bool]] = [self._access()]
        if self.namespace or self.exact_namespace:
            prefix = pack_namespace(self.namespace)
            clauses.append(c.namespace == prefix if self.exact_namespace else between_prefix(prefix))
        for column, values in (
            (c.semantic_type, self.types),
            (c.kind, self.kinds),
            (c.id, self.ids),
            (c.key, self.keys),
        ):
            if values is not None:
                clauses.append(column.in_(values))
        if self.not_types:
            clauses.append(c.semantic_type.not_in(self.not_types))
        if self.states is not None:
            clauses.append(c.state.in_([str(x) for x in self.states]))
        elif not self.expired:
            clauses.append(c.state != str(State.EXPIRED))
        if not self.expired:
            # Asked for when the statement runs: a filter may be older than that.
            alive = c.expires_at > bindparam("alive_at", callable_=lambda: micros(now()), unique=True)
            clauses.append(or_(c.expires_at.is_(None), alive, c.frozen.is_(True)))
        if self.valid_at is not None:
            at = micros(self.valid_at)
            clauses += [
                or_(c.valid_from.is_(None), c.valid_from <= at),
                or_(c.valid_to.is_(None), c.valid_to > at),
            ]
        return and_(*clauses)

    def matches(self, cube: MemCube, at: datetime) -> bool:
        """The filter without its access part, of a cube at a past moment."""
        d, expires = cube.header.descriptive, cube.header.governance.expires_at
        plain = cube.payload if isinstance(cube.payload, Plaintext) else None
        starts, ends = (plain.valid_from, plain.valid_to) if plain else (None, None)
        depth = len(self.namespace)
        return (
            cube.namespace[:depth] == tuple(self.namespace)
            and (not self.exact_namespace or len(cube.namespace) == depth)
            and (self.types is None or d.semantic_type in self.types)
            and d.semantic_type not in self.not_types
            and (self.kinds is None or cube.payload.kind in self.kinds)
            and (self.ids is None or cube.id in self.ids)
            and (self.keys is None or cube.key in self.keys)
            and (cube.state in self.states if self.states is not None else self._may_be_over(cube.state))
            and (self.expired or expires is None or expires > at or cube.frozen)
            and (
                self.valid_at is None
                or ((starts is None or starts <= self.valid_at) and (ends is None or ends > self.valid_at))
            )
        )

    def _may_be_over(self, state: State) -> bool:
        return self.expired or state is not State.EXPIRED

    def owns(self, scope: Scope) -> bool:
        """Whether a cube of this scope is inside the filter's own, grants aside."""
        mine = self.scope
        return (
            scope.tenant == mine.tenant
            and mine.user in (ANY_USER, scope.user)
            and mine.agent in (None, scope.agent)
            and self._in_session(scope.session)
        )

    def _in_session(self, session: str | None) -> bool:
        if self.sessionless:
            return session in (None, self.scope.session)
        return self.scope.session in (None, session)

    def cleared(self, cube: MemCube) -> bool:
        """Whether the principal's clearance covers the cube's sensitivity."""
        return self.clearance is None or set(cube.header.governance.sensitivity) <= self.clearance

    def _access(self) -> ColumnElement[bool]:
        c, s = t.cubes.c, self.scope
        own: list[ColumnElement[bool]] = [c.tenant == s.tenant]
        if s.user != ANY_USER:
            own.append(c.user == (s.user or ""))
        if s.agent is not None:
            own.append(c.agent == s.agent)
        if s.session is not None or self.sessionless:
            here = [s.session] if s.session is not None else []
            here += [""] if self.sessionless else []
            own.append(or_(*(c.session == one for one in here)))
        allowed = and_(*own)
        if self.granted is not None and s.user not in (None, ANY_USER):
            others = granted_ids(s.tenant, s.user, self.granted)
            # The tenant once more, as an expression: as a column it would draw SQLite to an index of the tenant
            # for both sides, instead of one of the user's and one of the ids'.
            # One's own are never among them: a grant to everyone does not open a view of another agent.
            theirs = and_(Among(c.id, others), c.tenant.concat("") == s.tenant, c.user.concat("") != s.user)
            allowed = or_(allowed, theirs)
        if self.clearance is None:
            return allowed
        return and_(allowed, ~labels_above(c.id, self.clearance))


def labels_above(cube_id: ColumnElement[str], clearance: frozenset[str]) -> Exists:
    """Whether a cube has a sensitivity label that is not in a clearance."""
    labels = t.labels.c
    return select(labels.cube_id).where(labels.cube_id == cube_id, labels.label.not_in(clearance)).exists()


def granted_ids(tenant: str, user: str, right: Right) -> Select[tuple[str]]:
    """The ids of the cubes that a user was granted a right to: by name, by group, or with everyone."""
    g, m = t.grants.c, t.members.c
    # Joined, not a condition with "or": each of the names is one look into the index.
    to = union_all(
        select(literal("user").label("kind"), literal(user).label("name")),
        select(literal("everyone"), literal("")),
        select(literal("group"), m.group).where(m.tenant == tenant, m.user == user),
    ).subquery("granted_to")
    return (
        select(g.cube_id)
        .join(to, and_(g.kind == to.c.kind, g.name == to.c.name))
        .where(g.tenant == tenant, g.right == right)
    )


def between_prefix(prefix: str) -> ColumnElement[bool]:
    """Namespaces that start with a packed prefix, as a range of the index."""
    return and_(t.cubes.c.namespace >= prefix, t.cubes.c.namespace < prefix[:-1] + chr(ord(t.SEP) + 1))
