"""What a write means for what is known already: contradictions and duplicates, inside its transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from memos_core.cube import Header, MemCube, Plaintext, Slot, Source, content_hash, now
from memos_core.cube.contradiction import contradicts
from memos_core.governance import DuplicatePolicy, merge_content
from memos_core.reader import slot_of
from memos_core.vault import Writer


def has_slot(cube: MemCube) -> bool:
    """Whether a cube can contradict another."""
    return _slot(cube) is not None


def has_ended(cube: MemCube, at: datetime | None = None) -> bool:
    """Whether what a cube says holds no more at a moment; None is now."""
    payload = cube.payload
    return (
        isinstance(payload, Plaintext) and payload.valid_to is not None and payload.valid_to <= (at or now())
    )


def rewritten(cube: MemCube, text: str) -> dict[str, Any]:
    """The validity of a cube that is to say something else, for `MemOS.update`: it says that from now on, and if what
    it said holds no more, without an end. Empty where nothing changes."""
    if text == cube.text:
        return {}
    if has_ended(cube):
        return {"valid_from": now(), "valid_to": None}
    begins = cube.payload.valid_from if isinstance(cube.payload, Plaintext) else None
    return {"valid_from": now()} if begins is not None and begins <= now() else {}


def ended_by(cube: MemCube, others: Iterable[MemCube]) -> list[MemCube]:
    """Those of others, said later, because of which what a cube says holds no more."""
    slot = _slot(cube)
    if slot is None:
        return []
    return [other for other in others if (newer := _slot(other)) is not None and contradicts(newer, slot)]


def _slot(cube: MemCube) -> Slot | None:
    return cube.payload.slot if isinstance(cube.payload, Plaintext) else None


def settle_contradiction(writer: Writer, cube: MemCube) -> MemCube:
    """Of two statements about the same thing, the older one holds until the newer one begins: its validity is
    closed with a new version. A statement about an earlier time than what is known is closed itself.

    Returns:
        The cube to store.
    """
    payload, slot = cube.payload, _slot(cube)
    if not isinstance(payload, Plaintext) or slot is None:
        return cube
    begins = _begins(cube)
    if payload.valid_from is None:
        payload = payload.model_copy(update={"valid_from": begins})
        cube = cube.model_copy(update={"payload": payload})
    for other in writer.same_slot(cube, slot.key):
        assert isinstance(other.payload, Plaintext)
        if other.payload.slot is None:
            continue
        if _begins(other) <= begins:
            if other.frozen or not contradicts(slot, other.payload.slot):
                continue
            closed = _closed(other, begins)
            if closed is not None:
                writer.put(closed, expected_version=other.version, action="close")
        elif contradicts(other.payload.slot, slot):
            cube = _closed(cube, _begins(other)) or cube
    return cube


def _closed(cube: MemCube, at: datetime) -> MemCube | None:
    """The cube with its validity ended; None where it had ended before."""
    payload = cube.payload
    assert isinstance(payload, Plaintext)
    if payload.valid_to is not None and payload.valid_to <= at:
        return None
    return cube.model_copy(update={"payload": payload.model_copy(update={"valid_to": at})})


def _begins(cube: MemCube) -> datetime:
    payload = cube.payload
    assert isinstance(payload, Plaintext)
    return payload.valid_from or payload.spoken_at or cube.header.descriptive.created_at


def settle_duplicate(
    writer: Writer, cube: MemCube, policy: DuplicatePolicy, near: Sequence[str]
) -> tuple[MemCube, bool]:
    """Apply the policy to a cube that says what is known already.

    Args:
        near: ids of cubes whose meaning is near, nearest first (see `Core.near_duplicates`).

    Returns:
        The cube, and whether that is all: if not, it is still to be stored.
    """
    if cube.key or not policy.covers(cube):  # who names an address wants the cube there
        return cube, False
    alike, action = _standing_for(cube, writer.same_content(cube), policy), policy.exact
    if not alike and near:
        found = writer.get(near, writer.beside(cube))
        alike, action = _standing_for(cube, [found[i] for i in near if i in found], policy), policy.near
    if action == "merge":
        # What others were granted must not come to say more than was granted.
        alike = [c for c in alike if not c.frozen and not writer.is_granted(c.id)]
    if not alike or action == "keep":
        return cube, False
    old = alike[0]
    if action == "reject":
        return old, True
    if action == "link":
        sources = dict.fromkeys((*cube.derived_from, Source(id=old.id, version=old.version)))
        return cube.model_copy(update={"derived_from": tuple(sources)}), False
    return writer.put(_joined(old, cube), expected_version=old.version, action="merge"), True


def _standing_for(cube: MemCube, found: Sequence[MemCube], policy: DuplicatePolicy) -> list[MemCube]:
    """Those that can stand for a new cube: whoever would find it finds them, now and for as long."""
    moment = now()
    return [c for c in found if policy.covers(c) and _stands_for(c, cube, moment)]


def _stands_for(old: MemCube, new: MemCube, moment: datetime) -> bool:
    said, says = old.payload, new.payload
    assert isinstance(said, Plaintext)
    assert isinstance(says, Plaintext)
    if (old.scope, old.namespace) != (new.scope, new.namespace):
        return False
    if said.valid_to is not None and (says.valid_to is None or said.valid_to < says.valid_to):
        return False
    if said.valid_from is not None and said.valid_from > (says.valid_from or moment):
        return False
    if said.slot and says.slot and (contradicts(says.slot, said.slot) or contradicts(said.slot, says.slot)):
        return False
    lives, wanted = old.header.governance.expires_at, new.header.governance.expires_at
    return lives is None or (wanted is not None and wanted <= lives)


def _joined(old: MemCube, new: MemCube) -> MemCube:
    """The next version of `old`, which says what both say and has the sources of both."""
    payload = old.payload
    assert isinstance(payload, Plaintext)
    if content_hash(old) != content_hash(new):
        said, data = merge_content([old, new])
        structure = {"structure": payload.structure, "structure_version": payload.structure_version}
        if data is None:
            structure = {"structure": None, "structure_version": None}
        slot = slot_of(data if isinstance(data, BaseModel) else None, said) if payload.slot else None
        payload = payload.model_copy(update={"text": said, "data": data, "slot": slot, **structure})
    d, other = old.header.descriptive, new.header.descriptive
    g, strict = old.header.governance, new.header.governance
    header = Header(
        descriptive=d.model_copy(
            update={
                "tags": _union(d.tags, other.tags),
                "source_messages": _union(d.source_messages, other.source_messages),
            }
        ),
        governance=g.model_copy(
            update={
                "priority": max(g.priority, strict.priority),
                "sensitivity": _union(g.sensitivity, strict.sensitivity),
            }
        ),
        behaviour=old.header.behaviour,
    )
    sources = tuple(dict.fromkeys((*old.derived_from, *new.derived_from)))
    return old.model_copy(update={"payload": payload, "header": header, "derived_from": sources})


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
