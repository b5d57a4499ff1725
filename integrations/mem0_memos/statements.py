"""Which statements are new to the ids they are added for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import count
from typing import Any

from pydantic import BaseModel

from mem0_memos import record
from memos_core.cube import MemCube, Plaintext, now
from memos_core.errors import AccessDenied, VersionConflict
from memos_core.memos import MemOS
from memos_core.reader import MEMORIES, structure_text
from memos_core.reader.reader import addresses, statement_key
from memos_core.settle import ended_by

Alike = Callable[[str, str], bool]
_KEYS = 32  # looked at together
_TRIES = 1_000
_HIDDEN = 3


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same, whatever their case and spacing: of what a user says again."""
    return statement_key(one) == statement_key(other)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same, letter for letter: of what a language model, which knows the one, found new."""
    return one == other


def add_statements(
    view: MemOS,
    found: Iterable[tuple[BaseModel, record.Payload]],
    alike: Alike,
    moment: datetime,
    *,
    dated: bool,
) -> list[MemCube]:
    """Store the statements that these ids do not have yet, in one transaction; of two callers at the same moment one
    stores them.

    Args:
        view: what the ids name. found: statements, each with its metadata. alike: whether a memory and a statement are
            the same. moment: when they were said. dated: that is not the moment of this call.
    """
    statements, hidden = list(found), 0
    for _ in range(_TRIES):
        try:
            return view.put(_new_memories(view, statements, alike, moment, dated, hidden), expected_version=0)
        except VersionConflict:
            continue  # somebody added one of them a moment ago: look again
        except AccessDenied:
            if hidden == _HIDDEN:
                raise
            hidden += 1  # what may not be read here lies at one of the addresses
    raise VersionConflict("the statements could not be added: their addresses are taken by others each time")


def _new_memories(
    view: MemOS,
    found: Iterable[tuple[BaseModel, record.Payload]],
    alike: Alike,
    moment: datetime,
    dated: bool,
    hidden: int,
) -> list[MemCube]:
    fresh: list[MemCube] = []
    for statement, extra in found:
        text, expires = structure_text(statement), extra.get("expiration_date")
        # The address first: what takes it after this is a conflict.
        key, there = _address(view, text, {c.key for c in fresh}, hidden)
        same = [c for c in (*there, *view.saying(text)) if alike(c.text, text)]
        at = moment if dated else now()  # somebody may have said it since this call began
        later = [start for c in same if (start := _begins(c)) is not None and start > at]
        # What is said again later holds from then on by that.
        until = min([*later, *filter(None, [record.end_of(expires)])], default=None)
        cube = view.cube(
            record.statement_content(statement, extra),
            text=text,
            key=key,
            semantic_type=type(statement).__name__.lower(),
            origin="extraction",
            spoken_at=moment,
            valid_from=moment if until is None else min(moment, until),
            valid_to=until,
        )
        said = [c for c in fresh if alike(c.text, cube.text)]
        # What was contradicted a moment ago and is said once more is the last word.
        if not ended_by(cube, fresh):
            if said or any(_holds(c, at, expires) for c in same):
                continue
            if later and not _contradicted(view, cube, at, min(later)):
                continue  # it holds from a later moment on, and nothing was said in between
        elif said:
            fresh = [c for c in fresh if c not in said]
        fresh.append(cube)
    return fresh


def _contradicted(view: MemOS, cube: MemCube, start: datetime, end: datetime) -> bool:
    """Whether something else about the same thing began to hold in a time."""
    others = ended_by(cube, view.find(namespace=(MEMORIES,), kinds=["plaintext"]))
    return any((begins := _begins(other)) is not None and start < begins < end for other in others)


def _holds(known: MemCube, moment: datetime, expires: Any) -> bool:
    """Whether a memory says it at a moment; or is over like what is said, which so adds nothing to it."""
    if record.is_over(known, moment):
        return False
    until = record.expiration_of(known)
    if record.is_expired({"expiration_date": until}):
        return bool(expires) and str(expires) <= str(until)
    start = _begins(known)
    return start is None or start <= moment


def _begins(cube: MemCube) -> datetime | None:
    return cube.payload.valid_from if isinstance(cube.payload, Plaintext) else None


def _address(view: MemOS, text: str, taken: set[str], hidden: int) -> tuple[str, list[MemCube]]:
    """The key under which to store a statement, where nothing is, and the memories at the keys before it. Outside of a
    run a statement gets the key that every adapter gives it, in one its own. What was changed, has expired or holds no
    more keeps its key.

    Args:
        taken: keys that are given away already. hidden: how often an address was found to hold what may not be read.
    """
    agent, session = view.scope.agent, view.scope.session
    keeper = agent if session is None else f"{agent or ''}\x1f{session}"
    own = statement_key(text, f"{keeper or ''}\x1f\x1f{hidden}" if hidden else keeper)
    there: list[MemCube] = []
    for start in count(0, _KEYS):
        keys = addresses(own, start, _KEYS)
        there += view.find(namespace=(MEMORIES,), keys=keys, states=None)
        full = {cube.key for cube in there} | taken
        for key in keys:
            if key not in full:
                return key, there
    raise AssertionError("count() does not end")
