"""Sentences and vectors for benchmarks that need many of both and must not spend their time on making them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from zlib import crc32

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
DIMS = 384
_ROWS = 1024  # of each half; a vector is one row of each, so there are about a million

# The head of the distribution is real words, those that every sentence holds included: a text index must cope
# with words that are in half of all memories. The tail is made of syllables.
_HEAD = """
    the to and of a in is my i for that it on with was at we have be from this as not are but by he she they our
    an will can so about when all what would one had were time there if up out do you work like people new day
    after just home good week year first also back because could more make know want need next now team last
    meeting than project or want school family house food friend morning city book coffee car dog train office
    weekend plan customer report phone dinner doctor garden birthday holiday budget trip contract invoice email
    music film guitar bicycle river mountain kitchen window summer winter monday friday march october berlin london
    paris tokyo boston sister brother mother father daughter son cat tea bread fish apple cheese wine blue green red
    paper letter music lesson match player teacher student doctor nurse lawyer engineer painter writer driver pilot
    server database index query release branch review deadline ticket sprint design logo colour font screen
"""
_SYLLABLES = (
    "ba",
    "co",
    "de",
    "fi",
    "gra",
    "hol",
    "in",
    "ka",
    "lu",
    "mer",
    "no",
    "per",
    "qui",
    "ra",
    "sto",
    "tu",
)


def words() -> list[str]:
    """About 4,000 distinct words, the most frequent first."""
    tail = ("".join(parts) for parts in product(_SYLLABLES, repeat=3))
    return list(dict.fromkeys([*_HEAD.split(), *tail]))


class Sentences:
    """An endless supply of short sentences whose words follow Zipf's law. The same seed, the same sentences."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = words()
        self._weights = list(accumulate(1.0 / rank for rank in range(1, len(self._words) + 1)))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self.of(self._random.randint(8, 18))

    def of(self, length: int) -> str:
        """A sentence of so many words."""
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=length))

    def take(self, count: int) -> list[str]:
        """The next sentences."""
        return [next(self) for _ in range(count)]

    def questions(self, count: int) -> list[str]:
        """Shorter ones, to search for."""
        return [f"what about {self.of(self._random.randint(4, 8))}?" for _ in range(count)]


class InstantEmbedder:
    """Unit vectors that cost nothing: the text's hash picks two precomputed half vectors. They mean nothing, so
    the benchmark is of the store and not of a model. It is an `Embedder` of ours."""

    name = "benchmark-instant"

    def __init__(self) -> None:
        made = np.random.default_rng(7).standard_normal((2, _ROWS, DIMS // 2)).astype(np.float32)
        made /= np.linalg.norm(made, axis=2, keepdims=True) * np.sqrt(2)
        self._left, self._right = made

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """See `memos_core.retrieval.Embedder`."""
        keys = np.fromiter((crc32(text.encode()) for text in texts), np.int64, len(texts))
        return np.hstack([self._left[keys % _ROWS], self._right[keys // _ROWS % _ROWS]])

    def embed_query(self, text: str) -> Matrix:
        """See `memos_core.retrieval.Embedder`."""
        key = crc32(text.encode())
        return np.concatenate([self._left[key % _ROWS], self._right[key // _ROWS % _ROWS]])

    def cost(self) -> str:
        """What it does cost, in words."""
        texts = Sentences(0).take(200)
        one, many = [], []
        for text in texts:
            started = time.perf_counter()
            self.embed_query(text).tolist()
            one.append(time.perf_counter() - started)
        for _ in range(20):
            started = time.perf_counter()
            self.embed_documents(texts)
            many.append((time.perf_counter() - started) / len(texts))
        return (
            f"embedder: {DIMS}-d vectors by hash, {statistics.median(one) * 1e6:.0f} microseconds a text as a "
            f"list (mem0), {statistics.median(many) * 1e6:.1f} in a batch (ours)"
        )
