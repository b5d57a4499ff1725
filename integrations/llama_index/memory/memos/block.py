"""MemOSMemoryBlock: long-term memory for LlamaIndex's `Memory`, kept in a MemOS vault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS
from memos_core.prompt import memory_note, unsaid

try:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.memory import BaseMemoryBlock
    from llama_index.core.utils import get_tokenizer
except ImportError:
    raise missing_extra("llama-index-core", "llama-index") from None

from llama_index.memory.memos.messages import text_of, to_core
from llama_index.memory.memos.reopen import Locator

FLUSHED = "flushed"  # the namespace: not the conversation's, which a chat store may keep in the same vault
_SAID = "Said before:"


class MemOSMemoryBlock(Locator, BaseMemoryBlock[str]):  # type: ignore[misc]
    """The user's memories that bear on the question, and what was said before the part of the conversation that the
    prompt still shows, for `Memory.from_defaults(memory_blocks=[…])`.

    Takes the place of `VectorMemoryBlock` and `FactExtractionMemoryBlock`; it asks no LLM. It recalls across all
    sessions of its user, and of nobody else; without a user, within the session (without either, in the one called
    "default").

    Args:
        memos, vault, tenant, user, agent, session, embedder: see `Locator`.
        name, description, priority, accept_short_term_memory: see `BaseMemoryBlock`.
        k: how many memories to recall at most. similarity_top_k: how many messages that left the conversation.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or session.
    """

    name: str = "MemOS"
    k: int = 5
    similarity_top_k: int = 2

    def __init__(self, memos: MemOS | None = None, **data: Any) -> None:
        for name in ("k", "similarity_top_k"):
            value = data.get(name, 0)
            if not isinstance(value, int) or value < 0:
                raise InvalidArgument(f"{name} must be an integer of at least 0, got {value!r:.80}")
        super().__init__(memos, **data)

    async def aput(
        self,
        messages: Sequence[ChatMessage],
        from_short_term_memory: bool = False,
        session_id: str | None = None,
    ) -> None:
        """Keep messages word for word, and what users state in them as memories, in one transaction.

        Args:
            messages: they are not changed; the base class would write the session into them.
            from_short_term_memory: whether they leave the conversation. session_id: the session they are from.

        Raises:
            InvalidArgument: a message holds what JSON has no form for. VaultError: nothing was stored.
        """
        if messages and (self.accept_short_term_memory or not from_short_term_memory):
            await asyncio.to_thread(self._keep, messages, session_id)

    async def _aput(self, messages: Sequence[ChatMessage]) -> None:
        await self.aput(messages)

    async def _aget(
        self,
        messages: Sequence[ChatMessage] | None = None,
        session_id: str | None = None,
        **block_kwargs: Any,
    ) -> str:
        return await asyncio.to_thread(self._recalled, messages or (), session_id)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """The content without its last lines, as many as have the tokens; None where nothing would be left."""
        lines, saved, tokenizer = content.splitlines(), 0, get_tokenizer()
        while lines and (saved < tokens_to_truncate or not lines[-1].startswith("- ")):
            saved += len(tokenizer(lines.pop()))
        return "\n".join(lines) or None

    def _keep(self, messages: Sequence[ChatMessage], session_id: str | None) -> None:
        view = self.memos.scoped(session=session_id).in_session()
        # They were said before, when a chat store may have read them already.
        view.remember([to_core(m, i) for i, m in enumerate(messages)], namespace=FLUSHED, again=False)

    def _recalled(self, messages: Sequence[ChatMessage], session_id: str | None) -> str:
        question = text_of(next((m for m in reversed(messages) if m.role == MessageRole.USER), None))
        if not question.strip():
            return ""
        memos = self.memos
        if memos.scope.user is None and memos.scope.session is None:
            memos = memos.scoped(session=session_id).in_session()  # nobody knows who speaks in the others
        shown = [text_of(m) for m in messages]
        parts = []
        facts = memos.recall(question, k=self.k, accept=unsaid(shown)) if self.k else []
        if facts:
            parts.append(memory_note(hit.cube for hit in facts))
            shown += [hit.cube.text for hit in facts]
        if self.similarity_top_k:
            accept, mine = unsaid(shown), memos.scope.user is not None
            said = memos.search(
                question,
                k=self.similarity_top_k,
                namespace=(FLUSHED,),
                types=["message"],
                accept=lambda cube: accept(cube) and (mine or cube.scope.session == memos.scope.session),
            )
            lines = [f"- {hit.cube.json_data['role']}: {' '.join(hit.cube.text.split())}" for hit in said]
            parts.append("\n".join([_SAID, *lines]) if lines else "")
        return "\n".join(part for part in parts if part)
