"""The vault as it was at a moment: which cubes there were, in which version and state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select

from memos_core.cube import ANY_USER, MemCube, State, StructureRegistry
from memos_core.vault import tables as t
from memos_core.vault.filter import CubeFilter, granted_ids, labels_above
from memos_core.vault.rows import CubeDamaged, from_kept, from_row, micros
from memos_core.vault.statements import with_behaviour
from memos_core.vault.writer import chunks, state_after_write

log = logging.getLogger("memos_core.vault")
_STATE = "state:"
_WRITES = ("write", "update", "rollback", "merge", "close")


def cubes_at(
    conn: Connection, which: CubeFilter, at: datetime, structures: StructureRegistry
) -> list[MemCube]:
    """The cubes that matched the filter at a moment, in order of their ids. Who may read is asked as of now.

    What was deleted since is gone from the past too. State and validity are those of that moment. A damaged one is
    left out with an error in the log.

    Raises:
        CubeDamaged: one that the filter names by its id is damaged.
    """
    moment = micros(at)
    found = {c.id: c for c in _current(conn, which, moment, structures)}
    found.update({c.id: c for c in _superseded(conn, which, moment, structures)})
    states = _states(conn, found, moment)
    cubes = (c.model_copy(update={"state": states.get(c.id, State.GENERATED)}) for c in found.values())
    return sorted((c for c in cubes if which.matches(c, at)), key=lambda c: c.id)


def _current(
    conn: Connection, which: CubeFilter, moment: int, structures: StructureRegistry
) -> Iterable[MemCube]:
    everything = CubeFilter(
        which.scope, which.clearance, which.granted, states=None, ids=which.ids, expired=True
    )
    query = with_behaviour().where(everything.where(), t.cubes.c.written_at <= moment)
    return _whole(which, conn.execute(query), lambda row: from_row(row, structures))


def _whole(which: CubeFilter, rows: Iterable[Any], made: Callable[[Any], MemCube]) -> Iterator[MemCube]:
    """The cubes of rows; one that is damaged does not take the others with it."""
    for row in rows:
        try:
            yield made(row)
        except CubeDamaged as err:
            if which.ids is not None:
                raise
            log.error("%s (`memos doctor` lists every damage)", err)


def _superseded(
    conn: Connection, which: CubeFilter, moment: int, structures: StructureRegistry
) -> Iterable[MemCube]:
    v, scope = t.versions.c, which.scope
    owned = v.tenant == scope.tenant
    if scope.user != ANY_USER:
        owned = and_(owned, v.user == (scope.user or ""))
    query = select(v.cube_id, v.cube).where(v.written_at <= moment, v.replaced_at > moment)
    if which.clearance is not None:  # what has become secret since is secret in the past too
        query = query.where(~labels_above(v.cube_id, which.clearance))
    if which.ids is not None:
        query = query.where(v.cube_id.in_(which.ids))

    def made(row: Any) -> MemCube:
        return from_kept(row.cube, structures, row.cube_id)

    for cube in _whole(which, conn.execute(query.where(owned)), made):
        if which.owns(cube.scope) and which.cleared(cube):
            yield cube
    if which.granted is not None and scope.user not in (None, ANY_USER):
        shared: list[str] = [
            row.cube_id for row in conn.execute(granted_ids(scope.tenant, scope.user, which.granted))
        ]
        for chunk in chunks(shared):
            theirs = query.where(v.cube_id.in_(chunk), v.user != scope.user)
            for cube in _whole(which, conn.execute(theirs), made):
                if which.cleared(cube):
                    yield cube


def _states(conn: Connection, ids: Iterable[str], moment: int) -> dict[str, State]:
    """The state of each cube at a moment, from the audit log; a write makes an archived one live again."""
    a = t.audit.c
    found: dict[str, State] = {}
    for chunk in chunks(ids):
        rows = conn.execute(
            select(a.cube_id, a.action).where(a.cube_id.in_(chunk), a.at <= moment).order_by(a.seq)
        )
        for row in rows:
            found[row.cube_id] = _after(found.get(row.cube_id, State.GENERATED), row.action)
    return found


def _after(state: State, action: Any) -> State:
    if action.startswith(_STATE):
        return State(action.removeprefix(_STATE))
    return state_after_write(state) if action in _WRITES else state
