"""Which statements are new to the ids they are added for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import count

from pydantic import BaseModel

from mem0_memos import record
from memos_core.cube import MemCube, Plaintext, now
from memos_core.errors import VersionConflict
from memos_core.memos import MemOS
from memos_core.reader import MEMORIES, structure_text
from memos_core.reader.reader import statement_key
from memos_core.settle import rivals

Alike = Callable[[str, str], bool]
_KEYS = 32  # looked at together
_TRIES = 1_000


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same, whatever their case and spacing: of what a user says again."""
    return statement_key(one) == statement_key(other)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same, letter for letter: of what a language model, which knows the one, found new."""
    return one == other


def add_statements(
    view: MemOS, found: Iterable[tuple[BaseModel, record.Payload]], alike: Alike, moment: datetime
) -> list[MemCube]:
    """Store the statements that these ids do not have yet, in one transaction; of two callers at the same moment one
    stores them.

    Args:
        view: what the ids name. found: statements, each with its metadata. alike: whether a memory and a statement are
            the same. moment: when they were said.
    """
    statements = list(found)
    for _ in range(_TRIES):
        try:
            return view.put(_new_memories(view, statements, alike, moment), expected_version=0)
        except VersionConflict:
            continue  # somebody added one of them a moment ago: look again
    raise VersionConflict("the statements could not be added: their addresses are taken by others each time")


def _new_memories(
    view: MemOS, found: Iterable[tuple[BaseModel, record.Payload]], alike: Alike, moment: datetime
) -> list[MemCube]:
    fresh: list[MemCube] = []
    for statement, extra in found:
        text = structure_text(statement)
        cube = view.cube(
            record.statement_content(statement, extra),
            text=text,
            # Before it is asked whether it is known: what takes the address after this is a conflict.
            key=_free_key(view, text, {c.key for c in fresh}),
            semantic_type=type(statement).__name__.lower(),
            origin="extraction",
            spoken_at=moment,
            valid_from=moment,
        )
        said = [c for c in fresh if alike(c.text, cube.text)]
        # What was contradicted a moment ago and is said once more is the last word.
        if not rivals(cube, fresh):
            if said or _is_known(view, cube, alike, moment):
                continue
        elif said:
            fresh = [c for c in fresh if c not in said]
        fresh.append(cube)
    return fresh


def _is_known(view: MemOS, new: MemCube, alike: Alike, moment: datetime) -> bool:
    """Whether these ids have it, as it was at the moment at which it is said now."""
    expires = record.payload_of(new).get("expiration_date")
    for known in view.saying(new.text):
        until = record.payload_of(known).get("expiration_date")
        over = record.is_expired({"expiration_date": until}) and not (expires and str(expires) <= str(until))
        if alike(known.text, new.text) and not over and not has_ended(known, moment):
            return True
    return False


def _free_key(view: MemOS, text: str, taken: set[str]) -> str:
    """The key under which to store a statement, where nothing is. Outside of a run a statement gets the key that every
    adapter gives it, in one its own. What was changed, has expired or holds no more keeps its key.

    Args:
        taken: keys that are given away already.
    """
    agent, session = view.scope.agent, view.scope.session
    keeper = agent if session is None else f"{agent or ''}\x1f{session}"
    own = statement_key(text, keeper)
    for start in count(0, _KEYS):
        keys = [f"{own}-{n}" if n else own for n in range(start, start + _KEYS)]
        known = view.find(namespace=(MEMORIES,), keys=keys, states=None)
        there = {cube.key for cube in known} | taken
        for key in keys:
            if key not in there:
                return key
    raise AssertionError("count() does not end")


def has_ended(cube: MemCube, at: datetime | None = None) -> bool:
    """Whether what a memory says holds no more at a moment, None is now: a later statement contradicted it."""
    payload = cube.payload
    return (
        isinstance(payload, Plaintext) and payload.valid_to is not None and payload.valid_to <= (at or now())
    )
