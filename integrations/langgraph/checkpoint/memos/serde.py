"""The serializer of a saver: LangGraph's, without pickle. What is stored never makes it import anything."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Self

# The hook is made by a function of the module; the class takes a set of names, and makes a plain set of it.
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer, _create_msgpack_ext_hook
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1

_STRICT = "LANGGRAPH_STRICT_MSGPACK"  # LangGraph's own switch


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer, without pickle. That it is this class tells that it turns equal messages into equal bytes
    and back.

    It rebuilds the types that LangGraph knows to be safe, and data classes (pydantic models, dataclasses, enums, named
    tuples) of modules that this process has imported already: a state comes back as it was, and nothing is imported or
    called because the database says so. Anything else comes back as the plain data it was stored as.

    Args:
        allowed_msgpack_modules: classes, or (module, name) pairs: then these are rebuilt beside the safe ones, whether
            loaded or not, and no others; True rebuilds all, which imports whatever the database names. With
            `LANGGRAPH_STRICT_MSGPACK=true` in the environment None is none.
    """

    def __init__(self, allowed_msgpack_modules: Any = None) -> None:
        super().__init__(pickle_fallback=False, allowed_msgpack_modules=allowed_msgpack_modules)
        if allowed_msgpack_modules is None and os.environ.get(_STRICT, "").lower() not in (
            "1",
            "true",
            "yes",
        ):
            self._rebuild(_Loaded())

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> Self:
        """See `JsonPlusSerializer`: a serializer that rebuilds these too."""
        made: Any = super().with_msgpack_allowlist(extra_allowlist)
        if isinstance(self._allowed_msgpack_modules, _Loaded) and made is not self:
            made = copy.copy(made)
            made._rebuild(_Loaded(made._allowed_msgpack_modules))
        found: Self = made
        return found

    def _rebuild(self, allowed: _Loaded) -> None:
        self._allowed_msgpack_modules = allowed
        self._unpack_ext_hook = _create_msgpack_ext_hook(allowed)


class _Loaded(set[tuple[str, ...]]):
    """Names of types: those in the set, and data classes of modules that are loaded."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (
            isinstance(name, tuple) and len(name) == 2 and _is_loaded_data(*name)
        )


def _is_loaded_data(module: Any, name: Any) -> bool:
    if not (isinstance(module, str) and isinstance(name, str)):
        return False
    # Not `getattr`: a module may import what it is asked for.
    found = getattr(sys.modules.get(module), "__dict__", {}).get(name)
    return isinstance(found, type) and (
        issubclass(found, BaseModel | BaseModelV1 | Enum)
        or is_dataclass(found)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
