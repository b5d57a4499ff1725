"""Which statements are new to the ids they are added for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import count

from pydantic import BaseModel

from mem0_memos import record
from memos_core.cube import MemCube, Plaintext, now
from memos_core.memos import MemOS
from memos_core.reader import MEMORIES, structure_text
from memos_core.reader.reader import statement_key

Alike = Callable[[str, str], bool]


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same, whatever their case and spacing: of what a user says again."""
    return statement_key(one) == statement_key(other)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same, letter for letter: of what a language model, which knows the one, found new."""
    return one == other


def new_memories(
    view: MemOS, found: Iterable[tuple[BaseModel, record.Payload]], alike: Alike, moment: datetime
) -> list[MemCube]:
    """Cubes of the statements that these ids do not have yet, each at an address where nothing is.

    Args:
        view: what the ids name. found: statements, each with its metadata. alike: see `free_key`.
        moment: when they were said.
    """
    fresh: dict[str, MemCube] = {}
    for statement, extra in found:
        text = structure_text(statement)
        key = free_key(view, text, alike)
        if key is not None and key not in fresh:
            fresh[key] = view.cube(
                record.statement_content(statement, extra),
                text=text,
                key=key,
                semantic_type=type(statement).__name__.lower(),
                origin="extraction",
                spoken_at=moment,
                valid_from=moment,
            )
    return list(fresh.values())


def free_key(view: MemOS, text: str, alike: Alike = same_words) -> str | None:
    """The key under which to store a statement, where nothing is; None if these ids have it already.

    Outside of a run a statement gets the key that every adapter gives it. In one it gets its own, so that it
    is kept once within that run. A memory that was changed, has expired or holds no more keeps its key: what it said
    is new again, under the next key.

    Args:
        view: what the ids name. text: the statement. alike: whether a memory and a statement are the same.
    """
    agent, session = view.scope.agent, view.scope.session
    shared = statement_key(text, agent)
    own = shared if session is None else statement_key(text, f"{agent or ''}\x1f{session}")
    if own != shared and _says(view.at((MEMORIES,), shared), text, alike):
        return None
    for number in count():
        key = f"{own}-{number}" if number else own
        known = view.at((MEMORIES,), key)
        if known is None:
            return key
        if _says(known, text, alike):
            return None
    raise AssertionError("count() does not end")


def _says(known: MemCube | None, text: str, alike: Alike) -> bool:
    """Whether a memory says it now."""
    return (
        known is not None
        and alike(known.text, text)
        and not has_ended(known)
        and not record.is_expired(record.payload_of(known))
    )


def has_ended(cube: MemCube) -> bool:
    """Whether what a memory says holds no more: a later statement contradicted it."""
    payload = cube.payload
    return isinstance(payload, Plaintext) and payload.valid_to is not None and payload.valid_to <= now()
