"""From a mem0 configuration to the options of `MemOS.open` and of `Memory`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from mem0_memos.models import Ask, configured_embedder, configured_llm, unused_settings
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

# Has no meaning beyond mem0 itself: every version we are asked for answers in the shape of "v1.1".
_WITHOUT_EFFECT = ("version",)
# What the model is told beside our own prompt: the names of 2.x, 1.x and 0.1.x.
_INSTRUCTIONS = ("custom_instructions", "custom_fact_extraction_prompt", "custom_prompt")


@dataclass
class Settings:
    """What a configuration means here.

    Args:
        memos: an open one, else None. options: of `MemOS.open`. llm: for `add(infer=True)`, else None.
        instructions: for the llm. strict: refuse the call forms before 2.0.
        unused: the names of the parts that mean nothing here.
    """

    memos: MemOS | None = None
    options: dict[str, Any] = field(default_factory=dict)
    llm: Ask | None = None
    instructions: str | None = None
    strict: bool = False
    unused: list[str] = field(default_factory=list)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as a dict: from a mapping, or from what was set of mem0's `MemoryConfig`.

    Raises:
        InvalidArgument: neither.
    """
    if isinstance(config, Mapping):
        return dict(config)
    if isinstance(config, BaseModel):
        usual = _defaults(type(config))
        said = {
            name: value
            for name, value in config
            if name in config.model_fields_set or value != usual.get(name)  # a part may be changed in place
        }
        return {name: dict(value) if isinstance(value, BaseModel) else value for name, value in said.items()}
    raise InvalidArgument(f"config must be a dict or a mem0 MemoryConfig, got {type(config).__name__}")


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    try:
        return dict(kind())
    except ValidationError:  # it has none
        return {}


def open_memos(memos: Any, config: Any, url: str | os.PathLike[str] | None) -> tuple[MemOS, bool, Settings]:
    """The MemOS that a `Memory` is to use, whether it was opened here, and the rest of the configuration. One
    warning names its parts that have no effect.

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
    settings = read_config({} if config is None else config)
    if settings.memos is not None:
        if memos is not None:
            raise InvalidArgument("pass memos= or config['memos'], not both")
        memos = settings.memos
    options = settings.options
    if url is not None:
        options["url"] = url
    if memos is not None and options:
        raise InvalidArgument(
            f"an open MemOS is passed, so {', '.join(sorted(options))} cannot be chosen; leave it out"
        )
    if settings.unused:
        warnings.warn(
            "mem0_memos keeps memories in the MemOS vault; these parts of the config have no effect: "
            + ", ".join(settings.unused),
            stacklevel=3,
        )
    return (memos, False, settings) if memos is not None else (MemOS.open(**options), True, settings)


def read_config(config: Any) -> Settings:
    """Read a configuration.

    Args:
        config: a mem0 configuration. Beside mem0's own keys it may have "url" (the vault), "memos" (an open
            `MemOS`, or a dict of options of `MemOS.open`), "strict", as "embedder" anything `MemOS.open` takes,
            and as "llm" anything `Memory` takes. Of mem0's providers, "langchain" (its object), "huggingface" (the
            embedder's model, where named) and those with an OpenAI-compatible endpoint are used.

    Raises:
        InvalidArgument: the configuration, or a part of it, is of the wrong type.
    """
    settings, options = Settings(), {}
    parts = {
        key: value
        for key, value in as_dict(config).items()
        if value is not None and key not in _WITHOUT_EFFECT
    }
    memos = parts.pop("memos", {})
    for key, value in parts.items():
        if key == "url":
            options["url"] = value
        elif key == "strict":
            settings.strict = bool(value)
        elif key in _INSTRUCTIONS:
            if not isinstance(value, str):
                raise InvalidArgument(f"config[{key!r}] must be a text, got {value!r:.80}")
            settings.instructions = settings.instructions or value
        elif key == "llm" and (llm := configured_llm(value)) is not None:
            settings.llm = llm
            settings.unused += [f"llm.{name}" for name in unused_settings(value)]
        elif key == "embedder" and (embedder := configured_embedder(value)) is not None:
            options["embedder"] = embedder
            settings.unused += [f"embedder.{name}" for name in unused_settings(value)]
        else:
            settings.unused.append(_label(key, value))
    if isinstance(memos, MemOS):
        settings.memos = memos
        settings.unused += options  # it is open: what only opening could use has no effect
    elif isinstance(memos, Mapping):
        settings.options = {**options, **memos}
    else:
        raise InvalidArgument(
            f"config['memos'] must be a MemOS or a dict of options of MemOS.open, got {memos!r:.80}"
        )
    settings.unused.sort()
    return settings


def _label(key: str, value: Any) -> str:
    """How the warning calls a part: never by its values, which may be secret."""
    provider = value.get("provider") if isinstance(value, Mapping) else None
    return f"{key} ({provider})" if provider else key
