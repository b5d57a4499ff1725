"""KV prefixes: what is stored, and which models it works for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, contiguous_format
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from memos_core.activation.forms import EXACT, Form
from memos_core.activation.keys import Identity, Source, chain_hashes, merge_sources, salt_for
from memos_core.errors import KVError

__all__ = ["KVPrefix", "Layers", "cache_of", "chain_hashes", "reuse_refusal", "salt_for"]

Layers = tuple[tuple[Tensor, ...], ...]
"""Per model layer: keys and values, each [1, kv_heads, n_tokens, head_dim]."""


@dataclass(frozen=True, eq=False)
class KVPrefix:
    """The KV of a token sequence from its first token on. Immutable: nothing ever writes to its tensors.

    Make one with `KVPrefix.of`, which also computes the key.

    Args:
        tokens: token ids, one per KV position.
        layers: per model layer keys and values, each [1, kv_heads, n_tokens, head_dim], contiguous.
        salt: `salt_for` of the owner's scope.
        derived_from: the cubes (id, version) whose text is among the tokens.
        key: the last chain hash, 32 hex digits: equal keys mean equal model, owner and tokens.
    """

    tokens: tuple[int, ...]
    layers: Layers
    salt: str
    derived_from: tuple[Source, ...]
    key: str

    @classmethod
    def of(
        cls,
        identity: Identity,
        salt: str,
        tokens: Sequence[int],
        layers: Iterable[tuple[Tensor, ...]],
        derived_from: Iterable[Source] = (),
        *,
        own: bool = True,
    ) -> KVPrefix:
        """Build an entry that owns its memory: tensors that are views of something larger are copied.

        Args:
            own: False leaves them views, for one who takes copies of parts.

        Raises:
            KVError: no tokens, or a tensor does not hold exactly these tokens of one sequence.
        """
        ids = tuple(int(t) for t in tokens)
        if not ids:
            raise KVError("a KV prefix needs at least one token")
        checked = tuple((_checked(k, len(ids)), _checked(v, len(ids))) for k, v in layers)
        owned = tuple((alone(k), alone(v)) for k, v in checked) if own else checked
        key = chain_hashes(identity.seed(salt), ids)[-1].hex()
        return cls(ids, owned, salt, merge_sources(derived_from), key)

    @property
    def n_tokens(self) -> int:
        """How many tokens it covers."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)

    def cut(self, n_tokens: int) -> Layers:
        """Views of the first `n_tokens` tokens of every layer."""
        if not 0 <= n_tokens <= len(self.tokens):
            raise KVError(f"n_tokens={n_tokens} is outside this prefix, which has {len(self.tokens)} tokens")
        return tuple((k[:, :, :n_tokens], v[:, :, :n_tokens]) for k, v in self.layers)

    def cache(self, n_tokens: int) -> DynamicCache:
        """A fresh cache that starts with the first `n_tokens` tokens, as views: nothing is copied.

        Raises:
            KVError: `n_tokens` is more than is stored.
        """
        return cache_of(self.cut(n_tokens))


def cache_of(layers: Layers) -> DynamicCache:
    """A fresh cache that starts with these tensors themselves: nothing is copied.

    `DynamicLayer.update` concatenates into new tensors, so a generation on this cache leaves the stored tensors as
    they are and many caches can share them.
    """
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(keys, values)  # sets dtype and device, and empties keys and values
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


class _Room:
    """Memory for the keys and values of all layers of one sequence, in one piece: allocating a piece for each takes an
    accelerator longer than a short forward pass."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._whole: Tensor | None = None  # [layers, 2, 1, heads, size, dim]

    def of(self, layer: int, keys: Tensor, values: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Room for `length` tokens of a layer, and an eighth more. What was in it before is not in it any more."""
        size = length + max(length // 8, 64)
        if keys.shape != values.shape or (self._whole is not None and not _fits(self._whole, keys)):
            return _empty(keys, size), _empty(values, size)
        if self._whole is None or length > self._whole.shape[4]:
            self._whole = keys.new_empty((self._n_layers, 2, *keys.shape[:2], size, keys.shape[3]))
        return self._whole[layer, 0], self._whole[layer, 1]


def _fits(whole: Tensor, keys: Tensor) -> bool:
    """Whether a layer is like the first one."""
    return whole.shape[2:4] == keys.shape[:2] and whole.shape[5] == keys.shape[3]


def _empty(like: Tensor, size: int) -> Tensor:
    return like.new_empty((*like.shape[:2], size, like.shape[3]))


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` that starts with stored pieces and appends in place: they are copied once, into room for more
    tokens, and not again with every token as by concatenation. For one sequence; only `update` may change it.

    Args:
        room: shared with the other layers. layer: which one this is.
        pieces: of each what `form` stores of this layer; they are left as they are.
    """

    def __init__(
        self, room: _Room, layer: int, pieces: Sequence[tuple[Tensor, ...]] = (), form: Form = EXACT
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room, self._layer, self._pieces, self._form = room, layer, list(pieces), form
        self._length = sum(piece[0].shape[2] for piece in pieces)
        self._mine: tuple[Tensor, ...] = ()

    def get_seq_length(self) -> int:
        """See `DynamicLayer`."""
        return self._length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See `DynamicLayer`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, self._length = self._length, self._length + key_states.shape[2]
        if not self._mine or self._length > self._mine[0].shape[2]:
            self._grow(key_states, value_states, before)
        for room, new in zip(self._mine, (key_states, value_states), strict=True):
            room[:, :, before : self._length] = new
        self.keys, self.values = (room[:, :, : self._length] for room in self._mine)
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, before: int) -> None:
        """Move into a larger room."""
        pieces = [self._form.unpack(piece, keys.dtype) for piece in self._pieces]
        if self._mine:
            pieces = [tuple(old[:, :, :before] for old in self._mine)]
        self._mine, self._pieces = self._room.of(self._layer, keys, values, self._length), []
        start = 0
        for piece in pieces:
            end = start + piece[0].shape[2]
            for room, old in zip(self._mine, piece, strict=True):
                room[:, :, start:end] = old
            start = end


def growing_cache(parts: Sequence[Layers], n_layers: int, form: Form = EXACT) -> DynamicCache:
    """A cache for one sequence that starts with these parts, each behind the one before it; they may lie on another
    device, and are stored in this form."""
    cache, room = DynamicCache(), _Room(n_layers)
    cache.layers.extend(GrowingLayer(room, n, [part[n] for part in parts], form) for n in range(n_layers))
    return cache


def _checked(tensor: Tensor, n_tokens: int) -> Tensor:
    """The tensor without its gradient's history, if it holds one sequence of so many tokens."""
    if tensor.dim() != 4 or tensor.shape[0] != 1 or tensor.shape[2] != n_tokens:
        raise KVError(
            f"a KV tensor has shape {tuple(tensor.shape)}; [1, kv_heads, {n_tokens}, head_dim] is needed"
        )
    return tensor.detach()


def alone(tensor: Tensor) -> Tensor:
    """The tensor itself when it is contiguous and alone in its memory, else a copy that is."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=contiguous_format)


def reuse_refusal(model: Any) -> str | None:
    """Why this model's KV cannot be cut, stored and shared; None when it can.

    Read from the cache that transformers builds for the configuration: every layer must be plain full
    attention. Sliding-window and recurrent layers keep a state that cannot be cut to a shorter prefix, and
    rotary embeddings that change with the length of the text give the same token different keys.

    Args:
        model: a transformers model.
    """
    config = model.config.get_text_config(decoder=True)
    for index, layer in enumerate(DynamicCache(config=model.config).layers):
        if type(layer) is DynamicLayer:
            continue
        if getattr(layer, "is_sliding", False):
            what = f"keeps only the last {layer.get_max_length()} tokens"
        else:
            what = f"is a {type(layer).__name__}, not plain full attention"
        return f"layer {index} of {model.config.model_type} {what}; KV reuse is off for this model"
    for rope_type in _rope_types(getattr(config, "rope_parameters", None)):
        if "dynamic" in rope_type or rope_type == "longrope":
            return (
                f"{model.config.model_type} rescales positions with the length of the text "
                f"(rope_type {rope_type!r}); KV reuse is off for this model"
            )
    return None


def _rope_types(parameters: Any) -> list[str]:
    """Every rope_type in `rope_parameters`, which is flat or has one dict per layer type."""
    if not isinstance(parameters, dict):
        return []
    nested = [kind for value in parameters.values() for kind in _rope_types(value)]
    return nested + ([str(parameters["rope_type"])] if "rope_type" in parameters else [])
