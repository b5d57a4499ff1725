"""What the scheduler needs of an engine, and what it tells people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from memos_core.activation.radix import Chain, Ids
from memos_core.cube import Scope, now

KV_NAMESPACE = ("kv",)
"""Where the cubes are that tell of KV on disk."""


class PrefixEngine(Protocol):
    """What the scheduler needs of an engine that holds KV caches."""

    model_fingerprint: str
    tokenizer_fingerprint: str
    context_length: int

    def stable_prefix(self, messages: list[dict[str, Any]]) -> list[int]:
        """The tokens that every prompt beginning with these messages begins with."""
        ...

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens."""
        ...

    def warm(self, tokens: Sequence[int], scope: Scope) -> str | None:
        """Bring the whole prefix into memory from where it is: "memory", "disk", or None if it is nowhere."""
        ...

    def prefill(
        self,
        tokens: Sequence[int],
        scope: Scope,
        *,
        derived_from: tuple[tuple[str, int], ...] = (),
        save: bool = False,
        hold: bool = True,
        should_yield: Callable[[], None] | None = None,
    ) -> Any:
        """Compute the prefix's KV, to `save` it on disk, to `hold` it in memory, or both; returns an object with
        `key`, `nbytes` and `n_tokens`."""
        ...

    def forget(self, keys: Sequence[str]) -> int:
        """Drop prefixes from every tier, by key."""
        ...


@runtime_checkable
class Server(Protocol):
    """What the scheduler needs of an engine whose server keeps KV itself."""

    @property
    def context_length(self) -> int:
        """Tokens that the model reads."""
        ...

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens."""
        ...

    def preload(self, messages: list[dict[str, Any]], scope: Scope) -> tuple[int, int]:
        """Have the server compute the KV of what begins with these messages; returns the prompt's tokens, and how
        many of them were there already."""
        ...


@runtime_checkable
class Tiers(Protocol):
    """What the planner needs of a store of KV that has a budget."""

    memory_budget: int
    token_bytes: int
    worth: Callable[[str, Ids], float] | None

    @property
    def host_budget(self) -> int:
        """Bytes beside an accelerator's memory; 0 without one."""
        ...

    @property
    def disk_budget(self) -> int:
        """Bytes of files; 0 without a disk tier."""
        ...

    def chains(self) -> Sequence[Chain]:
        """What is in memory, without what others continue."""
        ...

    def files(self) -> Sequence[Chain]:
        """What is on disk."""
        ...

    def release(self, salt: str, tokens: Ids, keep: int) -> int:
        """Take what stands behind the first `keep` of these tokens out of memory, not off the disk; returns bytes."""
        ...


@dataclass(frozen=True)
class Decision:
    """One thing the scheduler did, and why.

    Args:
        action: "plan", "preload" (what was on disk), "build" (computed), "keep", "drop" or "error".
        tokens: length of the prefix or of the memories. seconds: how long it took, in the background.
    """

    scope: Scope
    action: str
    reason: str
    cubes: int = 0
    tokens: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    at: datetime = field(default_factory=now)
