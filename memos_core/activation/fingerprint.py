"""What makes stored KV belong to one model and one tokenizer: fingerprints over their content, not names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from memos_core.activation.digest import digest_tensors
from memos_core.errors import ModelError

_NOT_THE_MODEL = {
    *("_name_or_path", "_model_name_or_path", "transformers_version"),  # where it came from
    *("architectures", "dtype"),  # filled in by saving and loading; read off the model itself instead
}


def model_fingerprint(model: Any) -> str:
    """A digest of all of a model that shapes its KV: configuration, attention kernel, dtype, weights.

    Two loads of the same weights agree whatever folder they came from; another dtype, an attached adapter or
    one changed weight give another fingerprint. About 0.3 s for 135M parameters in fp32 on two cores.

    Args:
        model: a transformers model with its weights in memory.

    Returns:
        64 hex digits.

    Raises:
        ModelError: a weight is not in memory (a model on the meta device, or offloaded to disk).
    """
    described = {
        "class": type(model).__name__,
        "config": _without_origin(model.config.to_dict()),
        # transformers has no public way to read which attention kernel a loaded model uses.
        "attention": getattr(model.config, "_attn_implementation", None),
        "dtype": str(model.dtype),
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return digest_tensors(_weights(model), text.encode())


def _without_origin(config: Any) -> Any:
    """A configuration, nested ones included, without what does not shape the model."""
    if isinstance(config, dict):
        return {k: _without_origin(v) for k, v in config.items() if k not in _NOT_THE_MODEL}
    return config


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight once: names in order, tied weights under their first name."""
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_meta:
            raise ModelError(f"weight {name} is not in memory; load the model without offloading to disk")
        where = (tensor.data_ptr(), tensor.shape)
        if where not in seen:
            seen.add(where)
            yield name, tensor


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of everything that decides which tokens a conversation becomes.

    Args:
        tokenizer: a transformers tokenizer.

    Returns:
        64 hex digits, over the serialised backend (or the vocabulary, where there is none), the special
        tokens and the chat template.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        vocabulary = json.loads(backend.to_str())
        for switch in ("truncation", "padding"):  # set by whoever called the tokenizer last
            vocabulary.pop(switch, None)
    else:
        vocabulary = tokenizer.get_vocab()
    described = [type(tokenizer).__name__, vocabulary, tokenizer.special_tokens_map, tokenizer.chat_template]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
