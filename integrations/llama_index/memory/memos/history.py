"""The messages of one conversation of a vault, as LlamaIndex's memory and chat stores see them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import MessageStatus

from llama_index.memory.memos.messages import from_cube, to_core
from memos_core.cube import LIVE, MemCube, State
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS
from memos_core.reader import MESSAGES

ANY = (*LIVE, State.ARCHIVED)
REPLACING = threading.RLock()
# LlamaIndex's status of a message is the state of its cube.
_STATES = {None: ANY, MessageStatus.ACTIVE: LIVE, MessageStatus.ARCHIVED: (State.ARCHIVED,)}


def cubes(
    view: MemOS, status: MessageStatus | None, limit: int | None = None, offset: int | None = None
) -> list[MemCube]:
    """The cubes of the messages with a status, oldest first."""
    return view.find(
        namespace=(MESSAGES,),
        types=["message"],
        states=_STATES[status],
        limit=limit,
        offset=offset or 0,
    )


def read(
    view: MemOS, status: MessageStatus | None, limit: int | None = None, offset: int | None = None
) -> list[ChatMessage]:
    """The messages with a status, oldest first. Those another framework stored are read by role and text."""
    return [from_cube(cube) for cube in cubes(view, status, limit, offset)]


def add(
    view: MemOS,
    messages: Sequence[ChatMessage],
    status: MessageStatus = MessageStatus.ACTIVE,
    replaced: Sequence[MemCube] = (),
) -> None:
    """Store messages in one transaction, in which those that they replace go. What users state about themselves
    becomes memories; what is stored anew was said before, and is no statement now."""
    if isinstance(messages, str | ChatMessage) or not isinstance(messages, Sequence):
        raise InvalidArgument(f"messages must be a list of ChatMessages, got {messages!r:.80}")
    delete, told = [cube.id for cube in replaced], {cube.text for cube in replaced}
    if not messages:
        view.delete(delete)
        return
    stored = view.remember(
        [to_core(m, i) for i, m in enumerate(messages)], extract=lambda text: text not in told, delete=delete
    )
    if status is MessageStatus.ARCHIVED:
        view.archive([cube.id for cube in stored if cube.semantic_type == "message"])


def replace(
    view: MemOS,
    messages: Sequence[ChatMessage],
    status: MessageStatus = MessageStatus.ACTIVE,
    *,
    which: MessageStatus | None = None,
) -> None:
    """Store messages in the place of all that there are, or of those with the status `which`. One at a time within a
    process: of two at the same moment the second replaces what the first stored."""
    with REPLACING:
        add(view, messages, status, replaced=cubes(view, which))


def remove(view: MemOS, found: Sequence[MemCube]) -> list[ChatMessage]:
    """Delete messages, and return them."""
    gone = set(view.delete([cube.id for cube in found]))
    return [from_cube(cube) for cube in found if cube.id in gone]
