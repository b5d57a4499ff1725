"""What the checks of `langgraph.store.memos.conformance` are made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    IndexConfig,
    TTLConfig,
)

DIMS = 64
TTL = 1.0  # lives: `Subject` and `configured` know how long one lasts


class Difference(Exception):
    """The store does something else; the message says what."""


class Words(Embeddings):
    """An embedder without a model: texts that share words are near one another. It notes what it was asked."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """See LangChain."""
        return [_vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """See LangChain."""
        self.queries.append(text)
        return _vector(text)


def _vector(text: str) -> list[float]:
    vector = [0.0] * DIMS
    for word in text.lower().replace('"', " ").split():
        vector[zlib.crc32(word.strip(".,:?!{}[]").encode()) % DIMS] += 1.0
    return vector


class Subject:
    """A store under test, called the same way whether it is sync or async.

    Args:
        call: `call("put", …)` calls `put`, or `aput` in an event loop. wait: lets some minutes pass.
        life: minutes that a life lasts. embedder: the one it was given, if any.
    """

    def __init__(
        self, call: Callable[..., Any], wait: Callable[[float], None], life: float, embedder: Words | None
    ) -> None:
        self._call = call
        self._wait = wait
        self._life = life
        self.embedder = embedder

    def wait(self, lives: float) -> None:
        """Let some lives pass."""
        self._wait(lives * self._life)

    def put(self, namespace: tuple[str, ...], key: str, value: dict[Any, Any], **how: Any) -> None:
        """See `BaseStore.put`; a `ttl` is in lives."""
        if how.get("ttl") is not None:
            how["ttl"] *= self._life
        self._call("put", namespace, key, value, **how)

    def get(self, namespace: tuple[str, ...], key: str, **how: Any) -> Any:
        """See `BaseStore.get`."""
        return self._call("get", namespace, key, **how)

    def value(self, namespace: tuple[str, ...], key: str) -> Any:
        """The value of an item, None where there is none."""
        found = self.get(namespace, key)
        return found.value if found is not None else None

    def delete(self, namespace: tuple[str, ...], key: str) -> None:
        """See `BaseStore.delete`."""
        self._call("delete", namespace, key)

    def search(self, prefix: tuple[str, ...], **how: Any) -> list[Any]:
        """See `BaseStore.search`."""
        found: list[Any] = self._call("search", prefix, **how)
        return found

    def keys(self, prefix: tuple[str, ...], **how: Any) -> list[str]:
        """The keys that a search finds."""
        return [item.key for item in self.search(prefix, **how)]

    def namespaces(self, **how: Any) -> list[tuple[str, ...]]:
        """See `BaseStore.list_namespaces`."""
        found: list[tuple[str, ...]] = self._call("list_namespaces", **how)
        return found

    def batch(self, ops: list[Any]) -> list[Any]:
        """See `BaseStore.batch`."""
        found: list[Any] = self._call("batch", ops)
        return found

    def sweep(self) -> int:
        """See `SqliteStore.sweep_ttl`."""
        return int(self._call("sweep_ttl"))


@dataclass(frozen=True)
class Check:
    """One decided behaviour.

    Args:
        name: what is expected, as a sentence. index, ttl: what the store must be opened with; TTLs are in lives.
    """

    name: str
    run: Callable[[Subject], None]
    index: IndexConfig | None = None
    ttl: TTLConfig | None = None

    def configured(self, life: float) -> TTLConfig | None:
        """Its `ttl` with lives of so many minutes."""
        default = (self.ttl or {}).get("default_ttl")
        return (
            self.ttl if self.ttl is None or default is None else {**self.ttl, "default_ttl": default * life}
        )


CHECKS: list[Check] = []  # in the order of the table
A, B = ("conformance", "a"), ("conformance", "b")


def check(
    name: str, *, fields: list[str] | None = None, indexed: bool = False, ttl: TTLConfig | None = None
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Add a check to `CHECKS`.

    Args:
        name: see `Check`. fields, indexed: whether and how the store is to be indexed. ttl: its configuration.
    """
    index: IndexConfig | None = None
    if indexed or fields is not None:
        index = {"dims": DIMS}
        if fields is not None:
            index["fields"] = fields

    def note(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(name, run, index, ttl))
        return run

    return note


def differ(said: str) -> NoReturn:
    """The store does something else."""
    raise Difference(said)


def same(found: object, wanted: object, what: str = "") -> None:
    """It must be this, and of the same types."""
    if found != wanted or repr(found) != repr(wanted):  # True == 1, but is not the same
        differ(f"{what}{found!r:.60}, not {wanted!r:.60}")


def expect(good: bool, otherwise: str) -> None:
    """It must be so."""
    if not good:
        differ(otherwise)


def kept_or_refused(store: Subject, value: dict[Any, Any]) -> None:
    """What is stored comes back as it was, or is refused as a bad value, and then nothing is stored."""
    try:
        store.put(A, "odd", value)
    except (ValueError, TypeError):
        expect(store.value(A, "odd") is None, "an error, but something was stored")
        return
    same(store.value(A, "odd"), value, "comes back as ")


def refused(call: Callable[[], object], otherwise: str, *kinds: type[Exception]) -> None:
    """An error of these kinds must come (by default: ValueError or TypeError)."""
    expected = kinds or (ValueError, TypeError)
    try:
        call()
    except expected:
        return
    differ(otherwise)
