"""MemOSMemory: LlamaIndex's memory for chat engines and agents, kept in a MemOS vault."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

from memos_core.cube import new_id
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS, given
from memos_core.prompt import memory_note, unsaid

try:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.memory.types import BaseMemory
    from llama_index.core.storage.chat_store.base_db import MessageStatus
    from llama_index.core.utils import get_tokenizer
except ImportError:
    raise missing_extra("llama-index-core", "llama-index") from None

from pydantic import Field

from llama_index.memory.memos.history import add, cubes, ending, read, remove, replace
from llama_index.memory.memos.messages import count_tokens, fit, text_of
from llama_index.memory.memos.reopen import Locator

DEFAULT_TOKEN_LIMIT = 30_000  # as llama_index.core.memory.Memory
_CONTEXT_SHARE = 0.75  # of the model's context, as ChatMemoryBuffer


class MemOSMemory(Locator, BaseMemory):  # type: ignore[misc]
    """The user's memories that bear on the question, then this session's conversation within a token limit.

    Takes the place of `llama_index.core.memory.Memory` (and `ChatMemoryBuffer`). Make one with
    `from_defaults`. Its fields only say where the memory is, so a workflow `Context` that holds one survives
    `to_dict` and `from_dict`, in another process too; a restored memory uses the vault that process has open
    (see `llama_index.memory.memos.attach`), else it opens it. Safe from many threads and event loops.

    Args:
        memos, vault, tenant, user, agent, session, embedder: see `Locator`.
        token_limit: how many tokens `get` returns at most; the last turn is returned even if it is longer.
        k: how many memories `get` recalls at most; 0 recalls none.
        tokenizer_fn: counts tokens; not kept when serialised.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or session.
    """

    session: str
    token_limit: int = DEFAULT_TOKEN_LIMIT
    k: int = 5
    tokenizer_fn: Callable[[str], Sequence[Any]] = Field(
        default_factory=get_tokenizer, exclude=True, repr=False
    )

    def __init__(self, memos: MemOS | None = None, **data: Any) -> None:
        for name, least in (("token_limit", 1), ("k", 0)):
            value = data.get(name, least)
            if isinstance(value, float) and value.is_integer():  # what a share of a model's context comes to
                value = data[name] = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidArgument(f"{name} must be an integer of at least {least}, got {value!r}")
        data["session"] = _session(data.get("session"), data.pop("session_id", None))
        scope = memos.scope if isinstance(memos, MemOS) else None
        if data.get("session") is None and (scope is None or scope.session is None):
            raise InvalidArgument(
                "session must name the conversation; MemOSMemory.from_defaults(memos) begins a new one"
            )
        super().__init__(memos, **data)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises it under."""
        return "MemOSMemory"

    @classmethod
    def from_defaults(  # type: ignore[override, unused-ignore]
        cls,
        memos: MemOS | None = None,
        user: str | None = None,
        session: str | None = None,
        token_limit: int | None = None,
        chat_history: Sequence[ChatMessage] | None = None,
        *,
        session_id: str | None = None,
        chat_store_key: str | None = None,
        llm: Any = None,
        k: int = 5,
        tokenizer_fn: Callable[[str], Sequence[Any]] | None = None,
        **ignored: Any,
    ) -> Self:
        """Make a memory.

        Args:
            memos: an open `MemOS`, or a narrower view of one; it stays the caller's to close. None opens the
                default vault (`MEMOS_VAULT`, else `.memos/vault`).
            user: whose memory; None takes the user of `memos`.
            session, session_id, chat_store_key: the conversation; None or "" takes the session of `memos`, else
                begins a new one.
            token_limit: None takes three quarters of the context of `llm`, else 30,000.
            chat_history: replaces the session's messages; an empty one leaves them.
            k, tokenizer_fn: see the class.
            ignored: arguments of other memories (`memory_blocks`, …); one warning names them.

        Raises:
            InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or
                session.
        """
        if whose := [name for name in ignored if name.lower().startswith(("user", "agent", "tenant"))]:
            raise InvalidArgument(f"MemOSMemory has no {', '.join(whose)}; whose memory it is, user= says")
        if ignored:
            warnings.warn(
                f"MemOSMemory has no {', '.join(sorted(ignored))}; ignored", UserWarning, stacklevel=2
            )
        wanted = _session(session, session_id, chat_store_key)
        if wanted is None:
            wanted = (given(memos).scope.session if memos is not None else None) or new_id()
        if token_limit is None:
            window = llm.metadata.context_window if llm is not None else 0
            token_limit = int(window * _CONTEXT_SHARE) or DEFAULT_TOKEN_LIMIT
        counter = {"tokenizer_fn": tokenizer_fn} if tokenizer_fn else {}
        memory = cls(memos, user=user, session=wanted, token_limit=token_limit, k=k, **counter)
        if chat_history:
            memory.set(list(chat_history))
        return memory

    @property
    def session_id(self) -> str | None:
        """The conversation's name, as `Memory` calls it."""
        return self.session

    def get(
        self, input: str | ChatMessage | None = None, initial_token_count: int = 0, **kwargs: Any
    ) -> list[ChatMessage]:
        """What to put into the prompt: one system message with recalled memories that do not stand in the
        conversation anyway, if there are any; then the last turns of the conversation that fit.

        Args:
            input: the question; None takes the last user message of the conversation.
            initial_token_count: tokens the prompt holds already.
            kwargs: accepted for other memories' sake, not used.

        Raises:
            InvalidArgument: `initial_token_count` is above the token limit. VaultError: the vault cannot be
                read.
        """
        if initial_token_count > self.token_limit:
            raise InvalidArgument(
                f"initial_token_count={initial_token_count} is above token_limit={self.token_limit}"
            )
        limit = self.token_limit - initial_token_count
        end = ending(self.memos, lambda turns: len(fit(turns, limit, self.tokenizer_fn)) < len(turns))
        asked = (
            next((m for m in reversed(end) if m.role == MessageRole.USER), None) if input is None else input
        )
        least = self._count(fit(end, 0, self.tokenizer_fn))  # the last turn comes before recalled memories
        shown = fit(end, limit, self.tokenizer_fn)
        while True:  # a note may push out a turn, and what that said belongs into the note then
            note = self._recalled(text_of(asked), shown, limit - least)
            kept = fit(end, limit - self._count(note), self.tokenizer_fn)
            if len(kept) >= len(shown):
                return [*note, *shown]
            shown = kept

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """The session's messages, oldest first. Messages another framework stored are read by role and text.

        Args:
            status: only those with this one; see `MemOSChatStore`. This memory archives none.

        Raises:
            VaultError: the vault cannot be read.
        """
        return read(self.memos, status)

    def put(self, message: ChatMessage) -> None:
        """Store one message; see `put_messages`."""
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Store messages, all or none, in one transaction. What users state about themselves becomes
        memories.

        Raises:
            InvalidArgument: a message holds what JSON has no form for. VaultError: nothing was stored.
        """
        add(self.memos, messages)

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Replace the session's messages, in one transaction. Memories of the user stay.

        Raises:
            InvalidArgument: as `put_messages`; then nothing is changed. VaultError: the vault cannot be
                written.
        """
        replace(self.memos, messages)

    def reset(self, status: MessageStatus | None = None) -> None:
        """Delete the session's messages. Memories of the user stay: delete those through `MemOS.delete`.

        Args:
            status: only those with this one.
        """
        if status is None:
            self.memos.delete_where(types=["message"])
        else:
            remove(self.memos, cubes(self.memos, status))

    async def aget(
        self, input: str | ChatMessage | None = None, initial_token_count: int = 0, **kwargs: Any
    ) -> list[ChatMessage]:
        """Async form of `get`."""
        return await asyncio.to_thread(self.get, input, initial_token_count, **kwargs)

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Async form of `get_all`."""
        return await asyncio.to_thread(self.get_all, status)

    async def aput(self, message: ChatMessage) -> None:
        """Async form of `put`."""
        await asyncio.to_thread(self.put, message)

    async def aput_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Async form of `put_messages`."""
        await asyncio.to_thread(self.put_messages, messages)

    async def aset(self, messages: Sequence[ChatMessage]) -> None:
        """Async form of `set`."""
        await asyncio.to_thread(self.set, messages)

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Async form of `reset`."""
        await asyncio.to_thread(self.reset, status)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Where this memory is, as JSON; `from_dict` restores it, in another process too.

        Raises:
            InvalidArgument: the vault is in memory.
        """
        self.locate()
        found: dict[str, Any] = super().to_dict(**kwargs)
        return found

    def to_string(self) -> str:
        """`to_dict` as a text, as `ChatMemoryBuffer` has it; `from_string` restores it."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_string(cls, json_str: str) -> Self:
        """The memory that `to_string` told of."""
        found: Self = cls.from_dict(json.loads(json_str))
        return found

    def _recalled(self, question: str, shown: Sequence[ChatMessage], limit: int) -> list[ChatMessage]:
        """One system message with the best memories that fit into the limit, or nothing."""
        if not self.k:
            return []
        hits = self.memos.recall(question, k=self.k, accept=unsaid(text_of(m) for m in shown))
        note: list[ChatMessage] = []
        for n in range(1, len(hits) + 1):
            longer = ChatMessage(role=MessageRole.SYSTEM, content=memory_note(hit.cube for hit in hits[:n]))
            if self._count([longer]) > limit:
                break
            note = [longer]
        return note

    def _count(self, messages: Sequence[ChatMessage]) -> int:
        return sum(count_tokens(m, self.tokenizer_fn) for m in messages)


def _session(session: str | None, session_id: str | None, chat_store_key: str | None = None) -> str | None:
    """The conversation that the names for it mean; an empty one counts as none.

    Raises:
        InvalidArgument: they are not the same.
    """
    given_names = {"session": session, "session_id": session_id, "chat_store_key": chat_store_key}
    names = {name: value for name, value in given_names.items() if value}
    if len({*names.values()}) > 1:
        differ = " and ".join(f"{name}={value!r}" for name, value in names.items())
        raise InvalidArgument(f"{differ} differ; pass one of them")
    return next(iter(names.values()), None)
