"""The second process of `benchmarks.ttft`: it finds on disk what the first has computed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.peers.lines import serve
from benchmarks.ttft_models import SCOPE, open_engine, prompt
from memos_core.activation import GenerateOptions, Usage, salt_for

ONE = GenerateOptions(max_new_tokens=1, keep=False)


def first_token(engine: Any, tokens: list[int]) -> tuple[int, Usage]:
    """The first token of ours, and what it cost."""
    chunks = list(engine.stream(tokens, SCOPE, ONE))
    return next(token for chunk in chunks for token in chunk.token_ids), chunks[-1].usage


class FromDisk:
    """An engine of this process over the folder of another's."""

    def __init__(self, model: str, dtype: str, device: str, folder: str) -> None:
        self.engine = open_engine(model, dtype, device, Path(folder))
        first_token(self.engine, prompt(self.engine, 64))  # warm up the model, not the memory

    def ask(self, context: int, query: int) -> dict[str, Any]:
        """The first token of a cell, its context read from disk."""
        tokens = prompt(self.engine, context + query)
        started = time.perf_counter()
        tier = self.engine.warm(
            tokens[:context], SCOPE
        )  # a request leaves a file that is slower than computing
        read = time.perf_counter() - started
        token, usage = first_token(self.engine, tokens)
        self.engine.store.release(salt_for(SCOPE), tokens)  # the next question finds it on disk again
        if tier != "disk" or usage.cached_tokens < context:
            raise RuntimeError(f"expected {context} tokens from disk, got {usage}")
        return {"seconds": read + usage.ttft_s, "token": token}


if __name__ == "__main__":
    serve(FromDisk)
