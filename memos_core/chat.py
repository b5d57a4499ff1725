"""One call of a chat model that remembers: what `ChatMemOS`, `MemOSLLM` and their like have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, Self

from memos_core.activation import Chunk, GenerateOptions, ToolReader
from memos_core.activation.served import ServedEngine
from memos_core.activation.toolcalls import check_choice
from memos_core.memos import MemOS, Prompt
from memos_core.prompt import asked


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


def check_tools(view: MemOS, tool_choice: str | None, names: Sequence[str]) -> None:
    """Refuse tools that a view's model cannot call. Loads the model, if it is not.

    Args:
        tool_choice: see `ChatTurn`. names: of the tools.

    Raises:
        ModelError: the model's chat template has no place for tools, or writes calls in a form not known here.
        InvalidArgument: a choice of a tool there is not.
    """
    if isinstance(view.generator, ServedEngine):  # whether its model can, only the server knows
        check_choice(tool_choice, names)
    else:
        view.engine.tool_form().beginning(tool_choice, names)


class ChatTurn:
    """A prompt with memory in it, the reply piece by piece, and what follows: the turn is remembered, if that is
    wanted, and the scheduler prepares the next one. A reply that is not read to its end is not remembered, and one that
    calls tools is no end of a turn.

    Args:
        view: whose request it is. messages: `{"role", "content"}` dicts, oldest first; an assistant's may have
            "tool_calls" in OpenAI's form (with the arguments as an object).
        options: how to generate. recall_k: memories recalled for the question; 0 recalls none.
        remember: store the question and the reply.
        tools: what the model may call, as JSON Schemas in OpenAI's form; the chunks then carry its `calls`.
        tool_choice: None leaves it to the model, "any" makes it call one, a name this one.

    Raises:
        InvalidArgument: as `MemOS.prompt`, or `tool_choice` is something else. ModelError, MissingExtra: the model
            cannot be loaded, or its chat template has no tools.
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
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | None = None,
    ) -> None:
        self._view, self._options, self._remember = view, options, remember
        self._messages = [dict(message) for message in messages]
        self._reader: ToolReader | None = None
        self._text, self._called = "", False
        self._engine = view.generator  # loaded first: how much memory fits depends on it
        self._how: dict[str, Any] = {}
        begun, extra = "", 0
        if tools and isinstance(
            self._engine, ServedEngine
        ):  # the server tells the model, and reads its calls
            self._how = {"tools": tools, "tool_choice": tool_choice}
            extra, tools = self._engine.count_tokens(json.dumps([*tools])), ()
        if tools:
            engine = view.engine
            form = engine.tool_form()
            begun = form.beginning(tool_choice, [tool["function"]["name"] for tool in tools])
            self._reader = ToolReader(form, begun)
            extra = len(engine.encode(_ONE, tools=[*tools])) - len(engine.encode(_ONE))
        self.prompt = view.prompt(self._messages, k=recall_k, room_for=options.max_new_tokens + extra)
        self._sent: Any = self.prompt.messages
        if tools:
            ids = engine.encode(self.prompt.messages, tools=[*tools])
            self._sent = [*ids, *engine.tokenizer.encode(begun, add_special_tokens=False)]

    @classmethod
    async def abegin(cls, *args: Any, **how: Any) -> Self:
        """The constructor, which loads and reads, in a thread."""
        return await asyncio.to_thread(cls, *args, **how)

    def stream(self) -> Generator[Chunk, None, None]:
        """The reply; the last chunk carries the usage. See `ActivationEngine.stream`."""
        for chunk in self._engine.stream(
            self._sent, self._view.scope, self._options, derived_from=self.prompt.sources, **self._how
        ):
            yield from self._read(chunk)
        self._finish()

    async def astream(self) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio. Cancelling it ends the request at the next forward pass."""
        chunks = self._engine.astream(
            self._sent, self._view.scope, self._options, derived_from=self.prompt.sources, **self._how
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                for piece in self._read(chunk):
                    yield piece
        await asyncio.to_thread(self._finish)

    def _read(self, chunk: Chunk) -> list[Chunk]:
        """The chunk with its text told from tool calls; none while nothing can be said of it."""
        if self._reader is not None:
            text, calls = self._reader.push(chunk.text, last=chunk.usage is not None)
            if not text and not calls and chunk.usage is None:
                return []
            chunk = replace(chunk, text=text, calls=calls)
        self._text += chunk.text
        self._called = self._called or bool(chunk.calls)
        return [chunk]

    def _finish(self) -> None:
        if self._called:
            return
        at, system = asked(self._messages), self._messages[:1]
        if self._remember and at is not None:
            self._view.remember([self._messages[at], {"role": "assistant", "content": self._text}])
        self._view.turn_finished(
            system=system[0]["content"] if system and system[0]["role"] == "system" else None
        )


_ONE = ({"role": "user", "content": "."},)
