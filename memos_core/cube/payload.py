"""The three kinds of memory a cube can hold (MemOS paper, section 4.2): plaintext, activation, parametric."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Generic, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar

from memos_core.errors import InvalidArgument

T = TypeVar("T", default=Any)

MAX_DEPTH = 100
_TEXT_KEYS = ("text", "content", "memory", "statement", "data")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slot(_Frozen):
    """What a statement is about, where only one value can hold at a time.

    Args:
        key: e.g. "i live in". value: e.g. "paris". ends: the statement says that the value holds no more.
    """

    key: str = Field(min_length=1)
    value: str
    ends: bool = False


class Plaintext(_Frozen, Generic[T]):
    """Explicit memory a person can read.

    Args:
        text: what is searched and what goes into a prompt.
        data: any JSON value, or an instance of a registered pydantic model (its *structure*), or None.
        structure: the registered name of that model, None for plain JSON.
        structure_version: the model's version at the time of writing.
        spoken_at: when it was said. valid_from, valid_to: when it holds (None: unbounded).
        slot: a newer statement with the same slot and another value ends the validity of this one.
    """

    kind: Literal["plaintext"] = "plaintext"
    text: str
    data: T | None = None
    structure: str | None = None
    structure_version: int | None = None
    spoken_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    slot: Slot | None = None


class Activation(_Frozen):
    """KV cache of a prompt prefix. The tensors are derived data and live in the KV tiers; this names them.

    Args:
        model: fingerprint of the model whose KV it is. tokenizer: fingerprint of its tokenizer.
        key: chain hash of the prefix, the name of its file. n_tokens: its length in tokens.
        nbytes: size of the tensors in bytes.
    """

    kind: Literal["activation"] = "activation"
    model: str
    tokenizer: str
    key: str
    n_tokens: int = Field(ge=1)
    nbytes: int = Field(ge=0)


class Parametric(_Frozen):
    """A LoRA adapter. The weights are derived data; this names them.

    Args:
        base_model: fingerprint of the model it belongs to. format: e.g. "peft-lora".
        modules: the modules it changes. blob: content hash of the weights, stored as safetensors.
    """

    kind: Literal["parametric"] = "parametric"
    base_model: str
    format: str = "peft-lora"
    modules: tuple[str, ...] = ()
    blob: str


def dump_json(data: Any, argument: str = "data", *, max_depth: int = MAX_DEPTH) -> str:
    """JSON text of `data`, strict: what cannot be stored faithfully is refused.

    Raises:
        InvalidArgument: `data` holds a value JSON has no form for (NaN, a set, a non-string key, a lone
            surrogate, an object), or is nested more than `max_depth` deep.
    """
    try:
        text = encode_json(data)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{argument} holds a lone surrogate, which is not valid Unicode") from None
    except (TypeError, ValueError, RecursionError) as err:
        raise InvalidArgument(f"{argument} must be JSON: {err}") from None
    _check_nesting(data, argument, max_depth)
    return text


# Compact and strict: NaN is a ValueError.
encode_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def _check_nesting(data: Any, argument: str, max_depth: int) -> None:
    """Refuse deep nesting and keys that are not strings, level by level."""
    if data is None or isinstance(data, str | int | float):
        return
    level = [data]
    for _ in range(max_depth):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise InvalidArgument(f"{argument} must be JSON: every object key must be a string")
                below += value.values()
            elif isinstance(value, list | tuple):
                below += value
        if not below:
            return
        level = below
    raise InvalidArgument(f"{argument} must be nested at most {max_depth} deep")


def text_of(data: Any) -> str:
    """The searchable text of a JSON value: its own text field where it has one, else `key: value` lines.

    Args:
        data: any JSON value.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, dict):
        for name in _TEXT_KEYS:
            value = data.get(name)
            if isinstance(value, str) and value.strip():
                return value
        return "\n".join(f"{k}: {text_of(v)}" for k, v in data.items() if v is not None)
    if isinstance(data, list | tuple):
        return ", ".join(text_of(v) for v in data)
    return json.dumps(data, ensure_ascii=False) if data is not None else ""
