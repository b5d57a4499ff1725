"""MemOSCache and MemOSSemanticCache: a model's replies, kept in a vault to be given again."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from langchain_memos.scopes import of_none_within
from memos_core import arguments
from memos_core.cube import dump_json
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS, given

try:
    from langchain_core.caches import BaseCache
    from langchain_core.messages import message_to_dict, messages_from_dict
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None

log = logging.getLogger("langchain_memos")
CACHE = "cache"
_READ = 1_000  # characters: about what a sentence embedder reads before it cuts off
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,:]\d+)*|\d+")
_KINDS: dict[str, type[Generation]] = {
    cls.__name__: cls for cls in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}


class MemOSCache(BaseCache):
    """Replies to prompts that were asked before, word for word (interface: `langchain_core.caches.BaseCache`).

        langchain_core.globals.set_llm_cache(MemOSCache(memos.scoped(user="maya")))

    They outlive the process. Nobody else's are given: they lie in the scope of the view. No search, recall or prompt
    finds them. What is stored is JSON, read without running anything. The async methods run in a worker thread, as the
    base class does it.

    Args:
        memos: an open `MemOS`, or a narrower view of one. It stays the caller's to close.
        ttl: how long a reply is given again; None: until `clear`.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(self, memos: MemOS, *, ttl: timedelta | None = None) -> None:
        if ttl is not None and not (isinstance(ttl, timedelta) and ttl > timedelta(0)):
            raise InvalidArgument(f"ttl must be a positive timedelta or None, got {ttl!r}")
        self._memos = given(memos).scoped(adapter="langchain")
        self._ttl = ttl

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """See `BaseCache.lookup`."""
        key = self._key(prompt)
        found = self._memos.items_at(self._place(prompt, llm_string), [key]).get(key)
        return None if found is None else [_generation(stored) for stored in found.data["replies"]]

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """See `BaseCache.update`. A reply that holds what JSON has no form for is not kept, and a warning in the log
        says so: it is a good reply all the same.

        Raises:
            VaultError: nothing was stored.
        """
        try:
            replies = [_stored(generation) for generation in return_val]
            dump_json(replies, "return_val")
            self._memos.write(
                {"replies": replies},
                text=self._found_by(prompt),
                namespace=self._place(prompt, llm_string),
                key=self._key(prompt),
                semantic_type=CACHE,
                ttl=self._ttl,
            )
        except InvalidArgument as err:
            log.warning("a reply is not kept: %s", err)

    def clear(self, **kwargs: Any) -> None:
        """Remove all replies of this scope, of every model."""
        self._memos.delete_where(namespace=(CACHE,), types=[CACHE])

    def _key(self, prompt: str) -> str:
        """Addresses are the user's: each of their sessions and agents has its own."""
        scope = self._memos.scope
        narrower = "" if scope.session is None and scope.agent is None else f"{scope}\n"
        return _digest(narrower + prompt)

    def _place(self, prompt: str, llm_string: str) -> tuple[str, ...]:
        """The namespace of the replies that may stand for one another."""
        return CACHE, _digest(llm_string)

    def _found_by(self, prompt: str) -> str:
        """The text by which a search finds the reply; "" for none."""
        return ""


class MemOSSemanticCache(MemOSCache):
    """`MemOSCache` that also gives the reply to the nearest question, where it is near enough. Only the last line of a
    chat may differ, if the user wrote it; everything above it (the system message, the conversation, recalled
    facts), the model and its settings must be the same, and so must the numbers in the question, in their order. A
    question longer than an embedder reads (1,000 characters) must be the same word for word.

    Args:
        memos: as for `MemOSCache`; opened with an embedder. similarity: how near, as a cosine. ttl: as there.

    Raises:
        InvalidArgument: an argument cannot be used, or the vault has no embedder.
    """

    def __init__(self, memos: MemOS, *, similarity: float = 0.95, ttl: timedelta | None = None) -> None:
        super().__init__(memos, ttl=ttl)
        if isinstance(similarity, bool) or not isinstance(similarity, int | float) or not 0 < similarity <= 1:
            raise InvalidArgument(f"similarity must be a number above 0, at most 1, got {similarity!r:.80}")
        _ = self._memos.embedding  # refused here, not at the first prompt
        self._similarity = similarity

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """See `BaseCache.lookup`."""
        same, asked = super().lookup(prompt, llm_string), self._found_by(prompt)
        if same is not None or not asked.strip():
            return same
        numbers = _numbers(asked)
        hits = self._memos.search(
            asked,
            k=5,
            namespace=self._place(prompt, llm_string),
            types=[CACHE],
            min_similarity=self._similarity,
            shared=False,
            valid_at=None,
            accept=lambda cube: of_none_within(self._memos.scope, cube) and _numbers(cube.text) == numbers,
        )
        near = [hit for hit in hits if hit.similarity is not None]  # the others were found by words only
        if not near:
            return None
        best = max(near, key=lambda hit: hit.similarity or 0.0)
        return [_generation(stored) for stored in best.cube.json_data["replies"]]

    def _place(self, prompt: str, llm_string: str) -> tuple[str, ...]:
        return *super()._place(prompt, llm_string), _digest(_parted(prompt)[0])

    def _found_by(self, prompt: str) -> str:
        asked = arguments.whole(_parted(prompt)[1])
        return asked if len(asked) <= _READ else ""


def _parted(prompt: str) -> tuple[str, str]:
    """A prompt as what stands before its last question, and the question: the last line of the last message, which
    is the user's. Memories and examples stand on lines of their own, and must be the same.

    Args:
        prompt: of a chat, LangChain's `dumps` of its messages; else the text itself.
    """
    try:
        *before, last = json.loads(prompt)
        kind, said = last["id"][-1], last["kwargs"].pop("content")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        before, last, kind, said = [], {}, "HumanMessage", prompt
    if kind != "HumanMessage" or not isinstance(said, str):
        return prompt, ""
    above, _, question = said.rstrip().rpartition("\n")
    return json.dumps([*before, last, above]), question


def _numbers(text: str) -> list[str]:
    """The numbers of a text in order, with their signs."""
    return _NUMBER.findall(text)


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _stored(generation: Generation) -> dict[str, Any]:
    """A generation as JSON."""
    stored: dict[str, Any] = {
        "kind": type(generation).__name__,
        "text": generation.text,
        "info": generation.generation_info,
    }
    if isinstance(generation, ChatGeneration):
        stored["message"] = message_to_dict(generation.message)
    if stored["kind"] not in _KINDS:
        raise InvalidArgument(f"return_val holds a {stored['kind']}, which cannot be kept")
    return stored


def _generation(stored: dict[str, Any]) -> Generation:
    """A generation of what was stored; only the classes named here are made of it."""
    kind = _KINDS[stored["kind"]]
    if issubclass(kind, ChatGeneration):
        message: Any = messages_from_dict([stored["message"]])[0]
        return kind(message=message, generation_info=stored["info"])
    return kind(text=stored["text"], generation_info=stored["info"])
