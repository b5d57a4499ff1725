"""`AsyncMemory`: the same memory for async code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from mem0_memos.memory import Memory
from mem0_memos.project import AsyncLocalProject
from memos_core.memos import MemOS
from memos_core.reader import Extractor, extract_statements

P = ParamSpec("P")
R = TypeVar("R")


def _async(
    method: Callable[Concatenate[Memory, P], R],
) -> Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, R]]:
    """The async twin of a method of `Memory`: the same code, in a worker thread."""

    @wraps(method)
    async def twin(self: AsyncMemory, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self._memory, *args, **kwargs)

    twin.__name__ = method.__name__.removeprefix("_")
    twin.__doc__ = f"Async form of `Memory.{twin.__name__}`."
    return twin


class AsyncMemory:
    """mem0's `AsyncMemory`: every method of `Memory`, awaitable. Takes what `Memory` takes.

    `await AsyncMemory.from_config(…)`, the form of 1.x, works too.
    """

    def __init__(
        self,
        memos: MemOS | Any | None = None,
        config: Any = None,
        url: str | os.PathLike[str] | None = None,
        *,
        llm: Any = None,
        extractor: Extractor = extract_statements,
        strict: bool | None = None,
    ) -> None:
        self._memory = Memory(memos, config, url, llm=llm, extractor=extractor, strict=strict)

    @classmethod
    def from_config(cls, config_dict: Mapping[str, Any]) -> Self:
        """Open from a mem0 configuration; see `Memory`."""
        return cls(config=config_dict)

    @property
    def memos(self) -> MemOS:
        """The MemOS underneath."""
        return self._memory.memos

    add = _async(Memory._add)
    get = _async(Memory.get)
    get_all = _async(Memory.get_all)
    search = _async(Memory.search)
    update = _async(Memory.update)
    delete = _async(Memory.delete)
    delete_all = _async(Memory.delete_all)
    history = _async(Memory.history)
    reset = _async(Memory.reset)

    async def chat(self, query: str) -> Any:
        """Not there, as in mem0.

        Raises:
            NotImplementedError: always.
        """
        return self._memory.chat(query)

    @property
    def project(self) -> AsyncLocalProject:
        """What only the hosted client can change."""
        return AsyncLocalProject()

    def close(self) -> None:
        """Close the MemOS, if this memory opened it. Safe to call twice."""
        self._memory.close()

    async def _self(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._self().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
