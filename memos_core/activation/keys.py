"""Names of KV: the model it belongs to, its owner, and its tokens. Needs no torch.

The chain hash is vLLM's (docs.vllm.ai, "Automatic Prefix Caching"): each block's hash covers its tokens and
the hash of the block before it, so equal hashes mean equal prefixes. The salt is vLLM's ``cache_salt``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memos_core.cube.scope import Scope

Tokens = Sequence[int] | NDArray[np.int64]

Tier = Literal["none", "memory", "host", "disk", "server"]
"""Where stored KV was found: on the model's device, in the memory of an accelerator's host, in a file, or by a
server that keeps KV itself."""

BLOCK = 32
"""Tokens per block of the chain hash, and the least gain for which a file is read from disk."""

Source = tuple[str, int]
"""(cube id, version): a cube that stored KV was computed from."""


@dataclass(frozen=True)
class Identity:
    """The model that KV belongs to.

    Args:
        model: `model_fingerprint`.
        tokenizer: `tokenizer_fingerprint`.
        dtype: the KV's dtype as torch prints it, without the ``torch.`` (``"float32"``), and how it is stored, where
            that is not exact (``"float32 int8"``).
        secret: goes into every name, so that nobody without it can tell from a name what was computed.
    """

    model: str
    tokenizer: str
    dtype: str
    secret: bytes = field(default=b"", repr=False, compare=False)

    def seed(self, salt: str) -> bytes:
        """The start of every chain of this model for one salt."""
        return hashlib.blake2b(
            "\x00".join((self.model, self.tokenizer, self.dtype, salt)).encode(),
            digest_size=16,
            key=self.secret,
        ).digest()


def salt_for(scope: Scope, *, public: bool = False) -> str:
    """The salt that keeps one user's KV from everybody else's.

    Args:
        scope: tenant and user count; agent and session do not, so that a user's agents share.
        public: the salt of what all users of the tenant share on purpose.

    Returns:
        32 hex digits that do not show the names (they are written into file headers, and servers that take a
        salt, such as vLLM, log it).
    """
    owner = f"{scope.tenant}\x00\x00public" if public else f"{scope.tenant}\x00{scope.user or ''}"
    return hashlib.blake2b(owner.encode(), digest_size=16, person=b"memos-kv-salt").hexdigest()


def chain_hashes(seed: bytes | str, tokens: Sequence[int], block_size: int = BLOCK) -> list[bytes]:
    """One 16-byte hash per started block of tokens, each covering everything before it.

    Args:
        seed: what the chain belongs to, e.g. `Identity.seed`.
        tokens: token ids.
        block_size: tokens per block; the last block may be shorter.
    """
    previous = seed.encode() if isinstance(seed, str) else seed
    ids = np.asarray(tokens, dtype="<i8")
    hashes = []
    for start in range(0, len(ids), block_size):
        block = ids[start : start + block_size].tobytes()
        previous = hashlib.blake2b(previous + block, digest_size=16).digest()
        hashes.append(previous)
    return hashes


def shared_length(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common from the start."""
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if different.size else n


def merge_sources(*sources: Iterable[Source]) -> tuple[Source, ...]:
    """All sources once, sorted."""
    return tuple(sorted({(str(cube), int(version)) for cube, version in chain(*sources)}))
