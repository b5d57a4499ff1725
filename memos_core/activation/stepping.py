"""A generator of blocking steps, for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TypeVar

T = TypeVar("T")


async def in_steps(make: Callable[[Callable[[], bool]], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
    """Run a generator in threads, step by step. Cancelling or closing this ends it at its next step.

    Args:
        make: makes the generator, given a function that tells whether it is no longer wanted.
    """
    stop = threading.Event()
    steps = await asyncio.to_thread(make, stop.is_set)
    loop = asyncio.get_running_loop()
    step: asyncio.Future[T | None] | None = None
    try:
        while True:
            step = loop.run_in_executor(None, next, steps, None)
            item = await asyncio.shield(step)
            if item is None:
                return
            yield item
    finally:
        stop.set()
        if step is None or step.done():
            steps.close()
        else:  # the thread ends at its next step
            step.add_done_callback(lambda _: steps.close())
