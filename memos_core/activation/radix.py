"""Token sequences that begin alike, each beginning once: a radix tree, as SGLang's RadixAttention. Without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from memos_core.activation.keys import Tokens, shared_length

Ids = NDArray[np.int64]

_NOTHING: Ids = np.empty(0, np.int64)


class Chain(NamedTuple):
    """All tokens of a sequence whose KV is kept, and its owner's salt.

    Args:
        used: when it was used last, where that is known; larger is later.
    """

    salt: str
    tokens: Ids
    used: int = 0


class Node:
    """Tokens that stand behind their parent's. Siblings differ in their first token.

    Args:
        ids: its own tokens. start: how many stand in front of them.
        parent: the node in front; None for a root, which has no tokens.
    """

    def __init__(self, ids: Ids = _NOTHING, parent: Self | None = None) -> None:
        self.ids = ids
        self.parent = parent
        self.start: int = parent.end if parent else 0
        self.children: dict[int, Self] = {}
        if parent is not None:
            parent.children[int(ids[0])] = self

    @property
    def end(self) -> int:
        """How many tokens there are from the root to this node's last one."""
        return self.start + len(self.ids)

    def divide(self, n: int) -> Self:
        """Put a node with the first `n` tokens in front of this one, which keeps the others; returns the new node."""
        assert self.parent is not None
        front = self.front(n)
        self.ids, self.parent, self.start = self.ids[n:].copy(), front, front.end
        front.children[int(self.ids[0])] = self
        return front

    def front(self, n: int) -> Self:
        """A node with the first `n` tokens, in this one's place below its parent. Subclasses add what they carry."""
        return type(self)(self.ids[:n].copy(), self.parent)

    def remove(self) -> None:
        """Take this node, and what stands behind it, out of the tree."""
        assert self.parent is not None
        del self.parent.children[int(self.ids[0])]

    def path(self) -> list[Self]:
        """The nodes from the first one below the root to this one."""
        nodes: list[Self] = []
        node: Self | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def tokens(self) -> Ids:
        """All tokens from the root to this node's last one."""
        return np.concatenate([_NOTHING, *(node.ids for node in self.path())])

    def below(self) -> Iterator[Self]:
        """This node and all that stand behind it, each before those behind it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def walk(self, tokens: Tokens) -> tuple[list[Self], int]:
        """Follow tokens from here, which must be a root.

        Returns:
            The nodes that share tokens, and how many tokens are shared in all: the last node may share only some.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        nodes: list[Self] = []
        node, n = self, 0
        while n < len(ids) and (child := node.children.get(int(ids[n]))) is not None:
            shared = shared_length(child.ids, ids[n:])
            nodes.append(child)
            n += shared
            if shared < len(child.ids):
                break
            node = child
        return nodes, n

    def reach(self, tokens: Tokens) -> tuple[Self, int]:
        """`walk`, with a node's end where the tokens part or stop: divides the last node if need be.

        Returns:
            The node (this root, if nothing is shared), and its `end`.
        """
        nodes, n = self.walk(tokens)
        if not nodes:
            return self, 0
        last = nodes[-1]
        return (last if n == last.end else last.divide(n - last.start)), n
