"""Chat stores over a MemOS vault: for LlamaIndex's `Memory`, and for its older buffers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any, Self

from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS
from memos_core.reader import MESSAGES
from memos_core.vault.rows import MAX_NAME

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.storage.chat_store.base import BaseChatStore
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
    from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
except ImportError:
    raise missing_extra("llama-index-core", "llama-index") from None

from llama_index.memory.memos.history import (
    ANY,
    add,
    at,
    count,
    cubes,
    insert,
    read,
    remove,
    replace,
    take_oldest,
)
from llama_index.memory.memos.messages import to_core
from llama_index.memory.memos.reopen import Locator

_ACTIVE = MessageStatus.ACTIVE


class _Sessions(Locator):
    """Conversations of one user by their keys."""

    def _of(self, key: str) -> MemOS:
        """The conversation of a key: a session within the scope of this store.

        Raises:
            InvalidArgument: the key names none. AccessDenied: the store is fixed to another session.
        """
        if not isinstance(key, str) or not key.strip():  # no session would be all of the user's conversations
            raise InvalidArgument(f"key must be the name of a conversation, got {key!r:.80}")
        memos = self.memos
        try:
            if (size := len(key.encode(errors="surrogatepass"))) > MAX_NAME:
                raise InvalidArgument(f"key must have at most {MAX_NAME:,} bytes as UTF-8, it has {size:,}")
            return memos.scoped(session=key)
        except InvalidArgument as err:
            raise InvalidArgument(str(err).replace("session", "key", 1)) from None

    def _keys(self) -> list[str]:
        spaces = self.memos.namespaces((MESSAGES,), states=ANY)
        return [space[1] for space in spaces if len(space) == 2]

    def _at(self, key: str, idx: int, status: MessageStatus | None = None) -> ChatMessage | None:
        """Delete the message at a position among those with a status, and return it."""
        if isinstance(idx, bool) or not isinstance(idx, int):
            raise InvalidArgument(f"idx must be a position in the conversation, got {idx!r:.80}")
        view = self._of(key)
        gone = remove(view, at(view, idx, status))
        return gone[0] if gone else None


class MemOSChatStore(_Sessions, AsyncDBChatStore):  # type: ignore[misc]
    """The conversations of one user in a vault, for `Memory.from_defaults(chat_store=…)`.

    Takes the place of `llama_index.core.storage.chat_store.sql.SQLAlchemyChatStore`. A key is a session of the user:
    the same conversation that `MemOSMemory` and the other frameworks' classes see under that name. What users state
    about themselves also becomes memories. Archived messages are cubes in the state "archived".

    Args:
        memos, vault, tenant, user, agent, session, embedder: see `Locator`. With a session there is only that key.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises it under."""
        return "MemOSChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = _ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """The messages of a key with a status, oldest first.

        Raises:
            InvalidArgument: an empty key, or a negative limit or offset. AccessDenied: the store is fixed to another
                session.
        """
        return await asyncio.to_thread(lambda: read(self._of(key), status, limit, offset))

    async def count_messages(self, key: str, status: MessageStatus | None = _ACTIVE) -> int:
        """How many messages of a key have a status."""
        return await asyncio.to_thread(lambda: count(self._of(key), status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = _ACTIVE) -> None:
        """Store one message; see `add_messages`."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = _ACTIVE
    ) -> None:
        """Store messages, all or none, in one transaction; archived ones are archived in a second one.

        Raises:
            InvalidArgument: a message holds what JSON has no form for. VaultError: nothing was stored.
        """
        await asyncio.to_thread(lambda: add(self._of(key), messages, status))

    async def set_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = _ACTIVE
    ) -> None:
        """Replace all messages of a key, in one transaction. Raises as `add_messages` does; nothing is changed then."""
        await asyncio.to_thread(lambda: replace(self._of(key), messages, status))

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete one message and return it; None where there is none.

        Args:
            idx: its position among all messages of the key, from 0.
        """
        return await asyncio.to_thread(self._at, key, idx)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete the messages of a key with a status, all without one. Memories of the user stay."""

        def delete(view: MemOS) -> None:
            remove(view, cubes(view, status))

        await asyncio.to_thread(lambda: delete(self._of(key)))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the oldest `n` active messages of a key and return them."""

        def delete(view: MemOS) -> list[ChatMessage]:
            return take_oldest(view, _number(n), view.delete)

        return await asyncio.to_thread(lambda: delete(self._of(key)))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest `n` active messages of a key, in one transaction, and return them."""

        def archive(view: MemOS) -> list[ChatMessage]:
            return take_oldest(view, _number(n), view.archive)

        return await asyncio.to_thread(lambda: archive(self._of(key)))

    async def get_keys(self) -> list[str]:
        """The keys with messages, sorted."""
        return await asyncio.to_thread(self._keys)


class MemOSSimpleChatStore(_Sessions, BaseChatStore):  # type: ignore[misc]
    """The conversations of one user in a vault, for `ChatMemoryBuffer` and `ChatSummaryMemoryBuffer`.

    Takes the place of `llama_index.core.storage.chat_store.SimpleChatStore`; else as `MemOSChatStore`. The async
    methods of the base class run these in a worker thread.

    Args:
        memos, vault, tenant, user, agent, session, embedder: see `Locator`. With a session there is only that key.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises it under."""
        return "MemOSSimpleChatStore"

    def set_messages(self, key: str, messages: Sequence[ChatMessage]) -> None:
        """Replace the messages of a key, in one transaction.

        Raises:
            InvalidArgument: a message holds what JSON has no form for; nothing is changed then. VaultError.
        """
        replace(self._of(key), messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """The messages of a key, oldest first."""
        return read(self._of(key), _ACTIVE)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Store one message.

        Args:
            idx: the position it goes to, as in `list.insert`; None: the end.
        """
        if idx is None:
            add(self._of(key), [message])
        else:
            insert(self._of(key), idx, message)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Delete the messages of a key and return them; None where there are none. Memories of the user stay."""
        view = self._of(key)
        return remove(view, cubes(view, None)) or None

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a position and return it; None where there is none."""
        return self._at(key, idx, _ACTIVE)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the last message and return it; None where there is none."""
        return self._at(key, -1, _ACTIVE)

    def get_keys(self) -> list[str]:
        """The keys with messages, sorted."""
        return self._keys()

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: Any = None, **where: Any) -> Self:
        """The store, as `SimpleChatStore.from_persist_path` gives it. Conversations of a file that a `SimpleChatStore`
        has written are brought along, those whose keys have no messages in the vault, and no statements are read from
        them. Delete the file then: what is deleted from the vault would come back.

        Args:
            persist_path: the file; there need be none. fs: of another file system (fsspec). where: of the constructor.

        Raises:
            InvalidArgument: the file is no such file.
        """
        store = cls(**where)
        found = fs.exists(persist_path) if fs is not None else os.path.exists(persist_path)
        if not found:
            return store
        with fs.open(persist_path, "r") if fs is not None else open(persist_path, encoding="utf-8") as file:
            text = file.read()
        try:
            data = json.loads(text)
            data = json.loads(data) if isinstance(data, str) else data
            kept = {
                key: [ChatMessage.model_validate(message) for message in messages]
                for key, messages in data["store"].items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise InvalidArgument(
                f"persist_path: {persist_path} is no chat store of LlamaIndex: {err}"
            ) from None
        views = {key: store._of(key) for key in kept}  # all of the keys can be used, or none is
        known = {*store.get_keys()}
        for key, view in views.items():
            if key not in known and kept[key]:
                # They were said at an unknown time: what users stated in them is no news.
                view.remember([to_core(m, i) for i, m in enumerate(kept[key])], extract=False)
        return store

    def persist(self, persist_path: str = "", fs: Any = None) -> None:
        """Nothing is left to do: a message is on the disk when the call that stores it returns. Takes what
        `SimpleChatStore.persist` takes, for programs that call it, and writes no file."""


def _number(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise InvalidArgument(f"n must be how many messages, 0 or more, got {n!r:.80}")
    return n


# The table from which the older buffers restore their store by its name.
RECOGNIZED_CHAT_STORES[MemOSSimpleChatStore.class_name()] = MemOSSimpleChatStore
