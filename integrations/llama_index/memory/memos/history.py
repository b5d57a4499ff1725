"""The messages of one conversation of a vault, as LlamaIndex's memory and chat stores see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.storage.chat_store.base_db import MessageStatus

from llama_index.memory.memos.messages import SYSTEM, from_cube, to_core
from memos_core.cube import LIVE, MemCube, Message, State
from memos_core.errors import InvalidArgument, NotFound
from memos_core.memos import MemOS
from memos_core.reader import MESSAGES
from memos_core.vault import Order

ANY = (*LIVE, State.ARCHIVED)
# LlamaIndex's status of a message is the state of its cube.
_STATES = {None: ANY, MessageStatus.ACTIVE: LIVE, MessageStatus.ARCHIVED: (State.ARCHIVED,)}
_PAGE = 64  # messages read at first


def cubes(
    view: MemOS,
    status: MessageStatus | None,
    limit: int | None = None,
    offset: int | None = None,
    *,
    order: Order = "created",
) -> list[MemCube]:
    """The cubes of the messages with a status, oldest first or in another order."""
    return view.find(
        namespace=(MESSAGES,),
        types=["message"],
        states=_STATES[status],
        limit=limit,
        offset=offset or 0,
        order=order,
    )


def read(
    view: MemOS, status: MessageStatus | None, limit: int | None = None, offset: int | None = None
) -> list[ChatMessage]:
    """The messages with a status, oldest first. Those another framework stored are read by role and text."""
    return [from_cube(cube) for cube in cubes(view, status, limit, offset)]


def count(view: MemOS, status: MessageStatus | None) -> int:
    """How many messages have a status."""
    return view.count(namespace=(MESSAGES,), types=["message"], states=_STATES[status])


def at(view: MemOS, index: int, status: MessageStatus | None) -> list[MemCube]:
    """The message at a position among those with a status, from the end where it is negative; [] if there is none."""
    if index < 0:
        return cubes(view, status, 1, -index - 1, order="-created")
    return cubes(view, status, 1, index)


def ending(view: MemOS, enough: Callable[[Sequence[ChatMessage]], bool]) -> list[ChatMessage]:
    """The system messages that the active conversation begins with, and its end, from the beginning of a turn: so much
    of it that it is enough, or all of it.

    Args:
        enough: whether these messages, from the beginning of a turn, are; asked of more and more.
    """
    size = _PAGE
    while True:
        last = [from_cube(c) for c in reversed(cubes(view, MessageStatus.ACTIVE, size, order="-created"))]
        if len(last) < size:
            return last
        first = next((i for i, m in enumerate(last) if m.role == MessageRole.USER), len(last))
        if first < len(last) and enough(last[first:]):
            return [*_beginning(view), *last[first:]]
        size *= 4


def _beginning(view: MemOS) -> list[ChatMessage]:
    """The system messages that the conversation begins with."""
    size = 4
    while True:
        first = read(view, MessageStatus.ACTIVE, size)
        other = next((i for i, m in enumerate(first) if m.role not in SYSTEM), None)
        if other is not None or len(first) < size:
            return first[:other]
        size *= 4


def add(view: MemOS, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE) -> None:
    """Store messages in one transaction. What users state about themselves becomes memories.

    Raises:
        InvalidArgument: no list of messages, or one holds what JSON has no form for.
    """
    if new := _checked(messages):
        _archived(view, view.remember(new), status)


def insert(view: MemOS, index: int, message: ChatMessage) -> None:
    """Store a message at a position among the active ones, as `list.insert` does. Raises as `add`."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise InvalidArgument(f"idx must be a position in the conversation, got {index!r:.80}")
    [new] = _checked([message])
    view.insert(index, new)


def replace(
    view: MemOS, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
) -> None:
    """Store messages in the place of all that there are; see `MemOS.replace_messages`. Raises as `add`."""
    _archived(view, view.replace_messages(_checked(messages), states=ANY), status)


def _checked(messages: Sequence[ChatMessage]) -> list[Message]:
    if isinstance(messages, str | ChatMessage) or not isinstance(messages, Sequence):
        raise InvalidArgument(f"messages must be a list of ChatMessages, got {messages!r:.80}")
    return [to_core(m, i) for i, m in enumerate(messages)]


def _archived(view: MemOS, stored: Sequence[MemCube], status: MessageStatus) -> None:
    if status is MessageStatus.ARCHIVED:
        view.archive([cube.id for cube in stored if cube.semantic_type == "message"])


def remove(view: MemOS, found: Sequence[MemCube]) -> list[ChatMessage]:
    """Delete messages, and return those that were still there."""
    gone = set(view.delete([cube.id for cube in found]))
    return [from_cube(cube) for cube in found if cube.id in gone]


def take_oldest(view: MemOS, n: int, take: Callable[[list[str]], Sequence[str]]) -> list[ChatMessage]:
    """Take the oldest `n` active messages out of the conversation and return them. Each is returned to one caller only.

    Args:
        take: from their ids to those that it took; the others were taken by somebody else meanwhile.
    """
    taken: list[ChatMessage] = []
    while len(taken) < n and (oldest := cubes(view, MessageStatus.ACTIVE, n - len(taken))):
        try:
            mine = set(take([cube.id for cube in oldest]))
        except NotFound:  # somebody deleted one of them meanwhile
            continue
        taken += [from_cube(cube) for cube in oldest if cube.id in mine]
    return taken
