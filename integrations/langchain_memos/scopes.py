"""Whose request it is, as LangGraph's configs say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ids_of(configurable: Mapping[str, Any]) -> dict[str, str]:
    """`user_id` and `thread_id` of a config's `configurable`, those that are there."""
    return {
        name: str(configurable[name])
        for name in ("user_id", "thread_id")
        if configurable.get(name) is not None
    }
