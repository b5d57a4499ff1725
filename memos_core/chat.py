"""One call of a chat model that remembers: what `ChatMemOS`, `MemOSLLM` and their like have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, Self

from memos_core.activation import Chunk, GenerateOptions
from memos_core.memos import MemOS, Prompt


class Settings(Protocol):
    """The fields by which chat models say how they generate."""

    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int
    stop: list[str] | None


def options_of(fields: Settings, call: Mapping[str, Any]) -> GenerateOptions:
    """How to generate: what a call says of it, else the model's fields.

    Raises:
        InvalidArgument: as `GenerateOptions`.
    """
    return GenerateOptions(
        max_new_tokens=call.get("max_tokens") or fields.max_tokens,
        temperature=call.get("temperature", fields.temperature),
        top_p=call.get("top_p", fields.top_p),
        seed=call.get("seed", fields.seed),
        stop=tuple(call.get("stop") or fields.stop or ()),
    )


class ChatTurn:
    """A prompt with memory in it, the reply piece by piece, and what follows: the turn is remembered, if that is
    wanted, and the scheduler prepares the next one. A reply that is not read to its end is not remembered.

    Args:
        view: whose request it is. messages: `{"role", "content"}` dicts, oldest first.
        options: how to generate. recall_k: memories recalled for the last message; 0 recalls none.
        remember: store the last message, if it is the user's, and the reply.

    Raises:
        InvalidArgument: as `MemOS.prompt`. ModelError, MissingExtra: the model cannot be loaded.
    """

    prompt: Prompt

    def __init__(
        self,
        view: MemOS,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions,
        *,
        recall_k: int,
        remember: bool,
    ) -> None:
        self._view, self._options, self._remember = view, options, remember
        self._messages = [dict(message) for message in messages]
        self._engine = view.generator  # loaded first: how much memory fits depends on it
        self.prompt = view.prompt(self._messages, k=recall_k, room_for=options.max_new_tokens)

    @classmethod
    async def abegin(cls, *args: Any, **how: Any) -> Self:
        """The constructor, which loads and reads, in a thread."""
        return await asyncio.to_thread(cls, *args, **how)

    def stream(self) -> Generator[Chunk, None, None]:
        """The reply; the last chunk carries the usage. See `ActivationEngine.stream`."""
        text, prompt = "", self.prompt
        for chunk in self._engine.stream(
            prompt.messages, self._view.scope, self._options, derived_from=prompt.sources
        ):
            text += chunk.text
            yield chunk
        self._finish(text)

    async def astream(self) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio. Cancelling it ends the request at the next forward pass."""
        text, prompt = "", self.prompt
        chunks = self._engine.astream(
            prompt.messages, self._view.scope, self._options, derived_from=prompt.sources
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                text += chunk.text
                yield chunk
        await asyncio.to_thread(self._finish, text)

    def _finish(self, reply: str) -> None:
        said, system = self._messages[-1:], self._messages[:1]
        if self._remember and said and said[0]["role"] == "user":
            self._view.remember([*said, {"role": "assistant", "content": reply}])
        self._view.turn_finished(
            system=system[0]["content"] if system and system[0]["role"] == "system" else None
        )
