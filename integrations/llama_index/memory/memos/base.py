"""MemOSMemory: LlamaIndex's memory for chat engines and agents, kept in a MemOS vault."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

from memos_core.cube import Scope, new_id
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS
from memos_core.prompt import memory_note, unsaid

try:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.memory.types import BaseMemory
    from llama_index.core.utils import get_tokenizer
except ImportError:
    raise missing_extra("llama-index-core", "llama-index") from None

from pydantic import Field, PrivateAttr

from llama_index.memory.memos.messages import count_tokens, fit, from_cube, text_of, to_core
from llama_index.memory.memos.reopen import attach, narrow, reopen

DEFAULT_TOKEN_LIMIT = 30_000  # as llama_index.core.memory.Memory
IN_MEMORY = ":memory:"
_CONTEXT_SHARE = 0.75  # of the model's context, as ChatMemoryBuffer
_WHY = "its vault is in memory and ends with the process; open the MemOS with a folder or file instead"


class MemOSMemory(BaseMemory):  # type: ignore[misc]
    """The user's memories that bear on the question, then this session's conversation within a token limit.

    Takes the place of `llama_index.core.memory.Memory` (and `ChatMemoryBuffer`). Make one with
    `from_defaults`. Its fields only say where the memory is, so a workflow `Context` that holds one survives
    `to_dict` and `from_dict`, in another process too; a restored memory uses the vault that process has open
    (see `llama_index.memory.memos.attach`), else it opens it. Safe from many threads; the async methods of
    the base class run these in a worker thread.

    Args:
        vault: what opens the vault, see `MemOS.url`.
        tenant, user, agent, session: the scope, see `memos_core.cube.Scope`.
        embedder: for opening the vault, see `MemOS.embedder`.
        token_limit: how many tokens `get` returns at most; the last turn is returned even if it is longer.
        k: how many memories `get` recalls at most; 0 recalls none.
        tokenizer_fn: counts tokens; not kept when serialised.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    vault: str
    tenant: str = Scope().tenant
    user: str | None = None
    agent: str | None = None
    session: str
    embedder: str = "auto"
    token_limit: int = DEFAULT_TOKEN_LIMIT
    k: int = 5
    tokenizer_fn: Callable[[str], Sequence[Any]] = Field(
        default_factory=get_tokenizer, exclude=True, repr=False
    )

    _memos: MemOS | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        for name, least in (("token_limit", 1), ("k", 0)):
            value = data.get(name, least)
            if not isinstance(value, int) or value < least:
                raise InvalidArgument(f"{name} must be an integer of at least {least}, got {value!r}")
        super().__init__(**data)

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
            session, session_id: the conversation; None takes the session of `memos`, else begins a new one.
            token_limit: None takes three quarters of the context of `llm`, else 30,000.
            chat_history: replaces the session's messages; an empty one leaves them.
            k, tokenizer_fn: see the class.
            ignored: arguments of other memories (`memory_blocks`, …); one warning names them.

        Raises:
            InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or
                session.
        """
        if ignored:
            warnings.warn(
                f"MemOSMemory has no {', '.join(sorted(ignored))}; ignored", UserWarning, stacklevel=2
            )
        if session and session_id and session != session_id:
            raise InvalidArgument(
                f"session={session!r} and session_id={session_id!r} differ; pass one of them"
            )
        wanted = session or session_id
        if memos is None:
            view = reopen(None, Scope(user=user, session=wanted or new_id()), "auto")
        else:
            view = narrow(memos, user=user, session=wanted)
            if view.scope.session is None:
                view = view.scoped(session=new_id())
            attach(memos)
        if token_limit is None:
            window = llm.metadata.context_window if llm is not None else 0
            token_limit = int(window * _CONTEXT_SHARE) or DEFAULT_TOKEN_LIMIT
        counter = {"tokenizer_fn": tokenizer_fn} if tokenizer_fn else {}
        where = {"vault": view.url or IN_MEMORY, "embedder": view.embedder, **view.scope.model_dump()}
        memory = cls(token_limit=token_limit, k=k, **where, **counter)
        memory._memos = view
        if chat_history:
            memory.set(list(chat_history))
        return memory

    @property
    def memos(self) -> MemOS:
        """The open view behind this memory; opened at first use where it was restored.

        Raises:
            InvalidArgument, VaultError, VaultNewer: the vault cannot be opened.
        """
        if self._memos is None:
            if self.vault == IN_MEMORY:
                raise InvalidArgument(f"this memory cannot be restored: {_WHY}")
            scope = Scope(tenant=self.tenant, user=self.user, agent=self.agent, session=self.session)
            self._memos = reopen(self.vault, scope, self.embedder)
        return self._memos

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
        everything = self.get_all()
        shown = fit(everything, limit, self.tokenizer_fn)
        asked = (
            next((m for m in reversed(everything) if m.role == MessageRole.USER), None)
            if input is None
            else input
        )
        least = fit(everything, 0, self.tokenizer_fn)  # the last turn comes before recalled memories
        note = self._recalled(text_of(asked), shown, limit - self._count(least))
        return [*note, *(fit(everything, limit - self._count(note), self.tokenizer_fn) if note else shown)]

    def get_all(self) -> list[ChatMessage]:
        """The session's messages, oldest first. Messages another framework stored are read by role and text.

        Raises:
            VaultError: the vault cannot be read.
        """
        return [from_cube(cube) for cube in self.memos.conversation()]

    def put(self, message: ChatMessage) -> None:
        """Store one message; see `put_messages`."""
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Store messages, all or none, in one transaction. What users state about themselves becomes
        memories.

        Raises:
            InvalidArgument: a message holds what JSON has no form for. VaultError: nothing was stored.
        """
        if messages:
            self.memos.remember([to_core(m, i) for i, m in enumerate(messages)])

    async def aput_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Async form of `put_messages`."""
        if messages:
            await self.memos.aremember([to_core(m, i) for i, m in enumerate(messages)])

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Replace the session's messages. The new ones are stored before the old ones go, so that nothing is
        lost if this is interrupted. Memories of the user stay.

        Raises:
            InvalidArgument: as `put_messages`; then nothing is changed. VaultError: the vault cannot be
                written.
        """
        old = [cube.id for cube in self.memos.conversation()]
        self.put_messages(messages)
        self.memos.delete(old)

    def reset(self) -> None:
        """Delete the session's messages. Memories of the user stay: delete those through `MemOS.delete`."""
        self.memos.delete_where(types=["message"])

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Where this memory is, as JSON; `from_dict` restores it, in another process too.

        Raises:
            InvalidArgument: the vault is in memory.
        """
        if self.vault == IN_MEMORY:
            raise InvalidArgument(f"this memory cannot be serialised: {_WHY}")
        found: dict[str, Any] = super().to_dict(**kwargs)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the open vault, as all memories of one vault do."""
        found: Self = self.__copy__()
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
