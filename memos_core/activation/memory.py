"""KV in memory: of token sequences that begin alike each beginning once, on the model's device and, where that is an
accelerator, in the host's memory too, each within a budget."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import torch
from transformers import DynamicCache

from memos_core.activation.forms import EXACT, Form
from memos_core.activation.keys import Source, Tier, Tokens, merge_sources
from memos_core.activation.kv import KVPrefix, Layers, alone, cache_of, growing_cache
from memos_core.activation.radix import Ids, Node


class Run(Node):
    """Some tokens of one owner with their KV. Its tensors are never written to; where it is divided, both parts get
    their own, so that what is evicted is really free."""

    salt: str = ""
    layers: Layers = ()
    sources: tuple[Source, ...] = ()
    key: str = ""  # of the prefix that ends here, if one was put
    pinned: bool = False
    on_host: bool = False
    used: int = 0  # when it was last used: larger is later

    @property
    def nbytes(self) -> int:
        """Bytes of its own tensors."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)

    def front(self, n: int) -> Run:
        """See `Node.front`. The sources of both parts are those of the whole: nobody noted where which text is."""
        front = super().front(n)
        front.salt, front.sources, front.used = self.salt, self.sources, self.used
        front.on_host = self.on_host
        front.layers, self.layers = _slice(self.layers, 0, n), _slice(self.layers, n, len(self.ids))
        return front


@dataclass(frozen=True)
class Held:
    """What is stored of a prompt's beginning.

    Args:
        n_tokens: how many of its tokens.
        tier: where they were found: "host" if any of them was there. device: where the model is.
        derived_from: the cubes (id, version) whose text may be among them.
        parts: their KV, piece after piece, stored in this form.
        dtype: the model's.
    """

    n_tokens: int
    tier: Tier
    derived_from: tuple[Source, ...]
    parts: tuple[Layers, ...]
    device: str | torch.device = "cpu"
    form: Form = EXACT
    dtype: torch.dtype = torch.float32

    def layers(self) -> Layers:
        """The KV of all its tokens: the stored tensors themselves where they lie in one piece, else a copy."""
        parts = [
            tuple(self.form.unpack(layer, self.dtype) for layer in _moved(part, self.device))
            for part in self.parts
        ]
        if len(parts) == 1:
            return parts[0]
        joined = zip(*parts, strict=True)
        return tuple(
            tuple(torch.cat(pieces, dim=2) for pieces in zip(*layer, strict=True)) for layer in joined
        )

    def cache(self) -> DynamicCache:
        """A fresh cache that starts with these tokens. A generation on it leaves what is stored as it is."""
        return cache_of(self.layers())

    def growing_cache(self) -> DynamicCache:
        """The same for one sequence: quicker, but only the model's forward passes may change it."""
        return growing_cache(self.parts, len(self.parts[0]), self.form)


class MemoryTier:
    """Runs of KV in a radix tree for each owner. Not locked: the store does that.

    Args:
        budget: bytes on the model's device. host_budget: bytes in the host's memory, where what is evicted from the
            device goes.
        device: the model's. form: how KV is stored.
    """

    def __init__(
        self,
        budget: int,
        host_budget: int = 0,
        device: str | torch.device = "cpu",
        form: Form = EXACT,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.budget, self.host_budget, self.device = budget, host_budget, device
        self.form, self.dtype = form, dtype
        self.worth: Callable[[str, Ids], float] | None = None
        self.used = self.host_used = 0
        self.evictions = 0
        self._roots: dict[str, Run] = {}
        self._keys: dict[str, Run] = {}
        self._ticks = count(1)

    def __len__(self) -> int:
        """How many runs there are."""
        return sum(1 for _ in self.runs())

    def runs(self, salt: str | None = None) -> Iterator[Run]:
        """All runs of one owner or of all, each before those behind it."""
        roots = self._roots.values() if salt is None else filter(None, [self._roots.get(salt)])
        for root in roots:
            yield from (run for run in root.below() if run is not root)

    def match(self, salt: str, tokens: Tokens) -> Held | None:
        """The longest beginning of these tokens that this owner has here."""
        root = self._roots.get(salt)
        path, n = root.walk(tokens) if root else ([], 0)
        if not n:
            return None
        self._touch(path)
        parts = [run.layers for run in path[:-1]]
        last = path[-1]
        inside = n - last.start
        parts.append(last.layers if inside == len(last.ids) else _views(last.layers, inside))
        tier: Tier = "host" if any(run.on_host for run in path) else "memory"
        sources = merge_sources(*(run.sources for run in path))
        return Held(n, tier, sources, tuple(parts), self.device, self.form, self.dtype)

    def put(self, prefix: KVPrefix, n_tokens: int, *, pin: bool) -> bool:
        """Keep the first tokens of a prefix; what of them is here already is not stored again.

        Returns:
            Whether they are here now: False when they do not fit beside what is pinned.
        """
        ids = prefix.tokens[:n_tokens]
        root = self._roots.get(prefix.salt) or Run()
        end, n = root.reach(ids)
        path = end.path()
        self._touch(path)
        new = self._packed(prefix.layers, n, n_tokens) if n < n_tokens else ()
        need = sum(tensor.nbytes for layer in new for tensor in layer)
        fixed = self._fixed(path)
        held = sum(run.nbytes for run in self.runs() if id(run) in fixed and not run.on_host)
        away = [run for run in path if run.on_host]
        if held + need + sum(run.nbytes for run in away) <= self.budget:
            for run in away:
                self._place(run, self._packed(prefix.layers, run.start, run.end), on_host=False)
        elif held + need > self.budget:
            return False
        self._evict(need, fixed)
        self._roots[prefix.salt] = root
        if n < n_tokens:
            end = self._append(end, prefix, n, n_tokens)
            end.layers = new
            self._count(end, 1)
        elif end.parent is not None:
            end.sources = merge_sources(end.sources, prefix.derived_from)
        if n_tokens == len(prefix.tokens):
            end.key, self._keys[prefix.key] = prefix.key, end
        end.pinned |= pin
        return True

    def _packed(self, layers: Layers, start: int, end: int) -> Layers:
        """Some tokens' KV as it is stored, in tensors of their own."""
        if self.form is EXACT:
            return _slice(layers, start, end)
        return tuple(self.form.pack(*(tensor[:, :, start:end] for tensor in layer)) for layer in layers)

    def _append(self, parent: Run, prefix: KVPrefix, n: int, n_tokens: int) -> Run:
        """A run of the prefix's tokens from `n` on, behind `parent`."""
        run = Run(np.asarray(prefix.tokens[n:n_tokens], dtype=np.int64), parent)
        run.salt, run.sources = prefix.salt, prefix.derived_from
        self._touch([run])
        return run

    def _fixed(self, path: Collection[Run] = ()) -> set[int]:
        """What is not evicted: these runs, what is pinned, and what stands in front of it."""
        pinned = (run for end in self.runs() if end.pinned for run in end.path())
        return {id(run) for run in chain(path, pinned)}

    def trim(self) -> None:
        """Evict what is over a budget, except what is pinned."""
        fixed = self._fixed()
        self._evict(0, fixed)
        self._evict_from_host(0, fixed)

    def _evict(self, nbytes: int, fixed: Collection[int]) -> None:
        """Move ends of chains to the host's memory, or drop them: the least worth first, among equals the least
        recently used."""
        if self.used + nbytes <= self.budget:
            return

        def is_end(run: Run) -> bool:
            behind = run.children.values()
            return not run.on_host and id(run) not in fixed and all(child.on_host for child in behind)

        ends = [self._rank(run) for run in self.runs() if is_end(run)]
        heapq.heapify(ends)
        while ends and self.used + nbytes > self.budget:
            *_, run = heapq.heappop(ends)
            parent = run.parent
            if run.nbytes <= self.host_budget and self._evict_from_host(run.nbytes, fixed):
                self._place(run, _on_host(run.layers), on_host=True)
            else:
                self.remove(run)
            self.evictions += 1
            if parent is not None and parent.parent is not None and is_end(parent):
                heapq.heappush(ends, self._rank(parent))

    def _evict_from_host(self, nbytes: int, fixed: Collection[int]) -> bool:
        """Drop what is worth least there; whether so many bytes fit then."""
        if self.host_used + nbytes > self.host_budget:
            leaves = (r for r in self.runs() if r.on_host and not r.children and id(r) not in fixed)
            ends = sorted(self._rank(run) for run in leaves)
            for *_, run in ends:
                if self.host_used + nbytes <= self.host_budget:
                    break
                self.remove(run)
        return self.host_used + nbytes <= self.host_budget

    def _place(self, run: Run, layers: Layers, *, on_host: bool) -> None:
        """Hold a run's KV in other tensors, on the other side."""
        self._count(run, -1)
        run.layers, run.on_host = layers, on_host
        self._count(run, 1)

    def _count(self, run: Run, sign: int) -> None:
        if run.on_host:
            self.host_used += sign * run.nbytes
        else:
            self.used += sign * run.nbytes

    def _rank(self, run: Run) -> tuple[float, int, int, Run]:
        worth = self.worth(run.salt, run.tokens()) if self.worth is not None else 0.0
        return worth, run.used, id(run), run

    def release(self, salt: str, tokens: Tokens, keep: int) -> int:
        """Take what stands behind the first `keep` of these tokens out, except what is pinned; returns the bytes."""
        root = self._roots.get(salt)
        path, n = root.walk(tokens) if root else ([], 0)
        if n <= keep:
            return 0
        before = self.used + self.host_used
        first = next(run for run in path if run.end > keep)
        if keep > first.start:
            first.divide(keep - first.start)
        for run in reversed(list(first.below())):  # ends first
            if not run.children and not run.pinned:
                self.remove(run)
                self.evictions += 1
        return before - self.used - self.host_used

    def remove(self, run: Run) -> None:
        """Take a run, and what stands behind it, out."""
        for gone in run.below():
            self._count(gone, -1)
            if gone.key and self._keys.get(gone.key) is gone:
                del self._keys[gone.key]
        run.remove()
        self._tidy(run.salt)

    def _tidy(self, salt: str) -> None:
        if salt in self._roots and not self._roots[salt].children:
            del self._roots[salt]

    def named(self, key: str) -> Run | None:
        """Where the prefix with this key ends, if it was put and is here."""
        return self._keys.get(key)

    def forget(self, key: str) -> bool:
        """Take a prefix out by its key, pinned or not, as far as nothing else stands behind its tokens."""
        run = self._keys.pop(key, None)
        if run is None:
            return False
        run.key, run.pinned = "", False
        while run.parent is not None and not (run.children or run.key or run.pinned):
            parent = run.parent
            self.remove(run)
            run = parent
        return True

    def drop(self, which: Callable[[Run], bool]) -> set[str]:
        """Take out the runs that `which` names, pinned or not, and what stands behind them. Returns a name for each."""
        gone: set[str] = set()
        stack: list[Run] = [run for root in self._roots.values() for run in root.children.values()]
        while stack:
            run = stack.pop()
            if which(run):
                gone.update(r.key or f"run {id(r)}" for r in run.below())
                self.remove(run)
            else:
                stack.extend(run.children.values())
        return gone

    def _touch(self, path: Collection[Run]) -> None:
        tick = next(self._ticks)
        for run in path:
            run.used = tick


def _views(layers: Layers, n: int) -> Layers:
    return tuple(tuple(tensor[:, :, :n] for tensor in layer) for layer in layers)


def _slice(layers: Layers, start: int, end: int) -> Layers:
    """Some tokens' KV as tensors of their own."""
    return tuple(tuple(alone(tensor[:, :, start:end]) for tensor in layer) for layer in layers)


def _moved(layers: Layers, device: str | torch.device) -> Layers:
    return tuple(tuple(tensor.to(device) for tensor in layer) for layer in layers)


def _on_host(layers: Layers) -> Layers:
    """Copies in the host's memory, page-locked where that makes the way back quick."""
    return tuple(
        tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda).copy_(t) for t in layer)
        for layer in layers
    )
