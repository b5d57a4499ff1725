"""Which statements are new to the ids they are added for."""

from __future__ import annotations

from itertools import count

from mem0_memos import record
from memos_core.cube import MemCube
from memos_core.memos import MemOS
from memos_core.reader import MEMORIES
from memos_core.reader.reader import statement_key


def free_key(view: MemOS, text: str) -> str | None:
    """The key under which to store a statement; None if these ids have it already.

    Outside of a run a statement gets the key that every adapter gives it. In one it gets its own, so that it
    is kept once within that run. A memory that was changed keeps its key, so what it said before is new
    again, under the next key.

    Args:
        view: what the ids name. text: the statement.
    """
    agent, session = view.scope.agent, view.scope.session
    shared = statement_key(text, agent)
    own = shared if session is None else statement_key(text, f"{agent or ''}\x1f{session}")
    if own != shared and _says(view.at((MEMORIES,), shared), text):
        return None
    for number in count():
        key = f"{own}-{number}" if number else own
        known = view.at((MEMORIES,), key)
        if known is None:
            return key
        if _same(known.text, text):
            return key if record.is_expired(record.payload_of(known)) else None
    raise AssertionError("count() does not end")


def _says(known: MemCube | None, text: str) -> bool:
    return known is not None and _same(known.text, text) and not record.is_expired(record.payload_of(known))


def _same(one: str, other: str) -> bool:
    return statement_key(one) == statement_key(other)
