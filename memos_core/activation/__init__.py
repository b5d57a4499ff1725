"""KV memory for a Hugging Face model: prefill once, keep it in memory and on disk, attach, generate.

`ActivationEngine` is the door; `load_model` finds a model; `KVStore` holds what was computed. Stored KV is
immutable, knows the model, tokenizer, dtype and user it was made for, and can always be computed again.

Each name is imported at its first use. Most need torch and transformers (the extra ``[hf]``); reading file
headers (`read_header`), erasing files (`drop_files`) and a model behind a server (`ServedEngine`) need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memos_core.errors import missing_extra

if TYPE_CHECKING:
    from memos_core.activation.engine import ActivationEngine
    from memos_core.activation.fingerprint import model_fingerprint, tokenizer_fingerprint
    from memos_core.activation.header import KVFile, all_files, drop_files, read_header
    from memos_core.activation.keys import Identity, chain_hashes, salt_for
    from memos_core.activation.kv import KVPrefix, reuse_refusal
    from memos_core.activation.kvfile import verify_file
    from memos_core.activation.models import LOCAL_MODELS, LoadedModel, load_model
    from memos_core.activation.request import Chunk, GenerateOptions, Usage
    from memos_core.activation.served import ServedEngine
    from memos_core.activation.store import KVStore
    from memos_core.activation.toolcalls import ToolCall, ToolReader, tool_form

_HOME = {
    "ActivationEngine": "engine",
    "Chunk": "request",
    "GenerateOptions": "request",
    "Identity": "keys",
    "KVFile": "header",
    "KVPrefix": "kv",
    "KVStore": "store",
    "LOCAL_MODELS": "models",
    "LoadedModel": "models",
    "ServedEngine": "served",
    "ToolCall": "toolcalls",
    "ToolReader": "toolcalls",
    "Usage": "request",
    "all_files": "header",
    "chain_hashes": "keys",
    "drop_files": "header",
    "load_model": "models",
    "model_fingerprint": "fingerprint",
    "read_header": "header",
    "reuse_refusal": "kv",
    "salt_for": "keys",
    "tokenizer_fingerprint": "fingerprint",
    "tool_form": "toolcalls",
    "verify_file": "kvfile",
}

__all__ = [
    "ActivationEngine",
    "Chunk",
    "GenerateOptions",
    "Identity",
    "KVFile",
    "KVPrefix",
    "KVStore",
    "LOCAL_MODELS",
    "LoadedModel",
    "ServedEngine",
    "ToolCall",
    "ToolReader",
    "Usage",
    "all_files",
    "chain_hashes",
    "drop_files",
    "load_model",
    "model_fingerprint",
    "read_header",
    "reuse_refusal",
    "salt_for",
    "tokenizer_fingerprint",
    "tool_form",
    "verify_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] in ("torch", "transformers", "safetensors", "jinja2"):
            raise missing_extra("torch" if err.name is None else err.name, "hf") from err
        raise
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
