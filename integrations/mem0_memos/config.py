"""From a mem0 configuration to the options of `MemOS.open`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

# Has no meaning beyond mem0 itself: every version we are asked for answers in the shape of "v1.1".
_WITHOUT_EFFECT = ("version",)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as a dict: from a mapping, or from what was set of mem0's `MemoryConfig`.

    Raises:
        InvalidArgument: neither.
    """
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "model_dump"):
        return dict(config.model_dump(exclude_unset=True))
    raise InvalidArgument(f"config must be a dict or a mem0 MemoryConfig, got {type(config).__name__}")


def open_memos(memos: Any, config: Any, url: str | os.PathLike[str] | None) -> tuple[MemOS, bool]:
    """The MemOS that a `Memory` is to use, and whether it was opened here. One warning names the parts of the
    configuration that have no effect.

    Args:
        memos: an open one, or a configuration in its place. config, url: see `Memory`.

    Raises:
        InvalidArgument: more than one of them says which vault, or one cannot be used.
        VaultError, VaultNewer: see `MemOS.open`.
    """
    if memos is not None and not isinstance(memos, MemOS):
        if config is not None:
            raise InvalidArgument(f"memos must be a MemOS, got {type(memos).__name__}")
        memos, config = None, memos
    chosen, unused = open_options({} if config is None else config)
    options: dict[str, Any] = {}
    if not isinstance(chosen, MemOS):
        options = chosen
    elif memos is None:
        memos = chosen
    else:
        raise InvalidArgument("pass memos= or config['memos'], not both")
    if url is not None:
        options["url"] = url
    if memos is not None and options:
        raise InvalidArgument(
            f"an open MemOS is passed, so {', '.join(sorted(options))} cannot be chosen; leave it out"
        )
    if unused:
        warnings.warn(
            "mem0_memos keeps memories in the MemOS vault; these parts of the config have no effect: "
            + ", ".join(unused),
            stacklevel=3,
        )
    return (memos, False) if memos is not None else (MemOS.open(**options), True)


def open_options(config: Any) -> tuple[MemOS | dict[str, Any], list[str]]:
    """What a configuration means here, and the names of its parts that mean nothing here.

    Args:
        config: a mem0 configuration. Beside mem0's own keys it may have "url" (the vault), "memos" (an open
            `MemOS`, or a dict of options of `MemOS.open`), and as "embedder" anything `MemOS.open` takes.
            Of mem0's embedders, "langchain" (its object) and "huggingface" (its model, where named) are used.

    Raises:
        InvalidArgument: the configuration, or its "memos", is of the wrong type.
    """
    options: dict[str, Any] = {}
    unused: list[str] = []
    parts = {
        key: value
        for key, value in as_dict(config).items()
        if value is not None and key not in _WITHOUT_EFFECT
    }
    memos = parts.pop("memos", {})
    for key, value in parts.items():
        if key == "url":
            options["url"] = value
        elif key == "embedder" and (embedder := _embedder(value)) is not None:
            options["embedder"] = embedder
        else:
            unused.append(_label(key, value))
    if isinstance(memos, MemOS):
        return memos, sorted([*unused, *options])  # it is open: what only opening could use has no effect
    if not isinstance(memos, Mapping):
        raise InvalidArgument(
            f"config['memos'] must be a MemOS or a dict of options of MemOS.open, got {memos!r:.80}"
        )
    return {**options, **memos}, sorted(unused)


def _embedder(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    provider, model = value.get("provider"), (value.get("config") or {}).get("model")
    return model if provider in ("langchain", "huggingface") else None


def _label(key: str, value: Any) -> str:
    """How the warning calls a part: never by its values, which may be secret."""
    provider = value.get("provider") if isinstance(value, Mapping) else None
    return f"{key} ({provider})" if provider else key
