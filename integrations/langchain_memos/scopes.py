"""Whose request it is, as LangGraph's configs and contexts say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.config import ensure_config

from memos_core.cube import MemCube, Scope

# What arguments of a tool call might be called that say whose memory is meant, without "_id", in lower case.
_PARTS = {"tenant": "tenant", "user": "user", "agent": "agent", "session": "session", "thread": "session"}


def ids_of(configurable: Mapping[str, Any]) -> dict[str, str]:
    """`user_id` and `thread_id` of a config's `configurable`, those that are there."""
    return {
        name: str(configurable[name])
        for name in ("user_id", "thread_id")
        if configurable.get(name) is not None
    }


def ids_of_run(runtime: Any = None) -> dict[str, str]:
    """`user_id` and `thread_id` of the run that this is called in: of its runtime's context, else of its config.

    Args:
        runtime: LangGraph's, where the caller was given it; else that of the node that this is called in, if any.
    """
    return {**ids_of(ensure_config().get("configurable", {})), **ids_of_context(runtime)}


def ids_of_context(runtime: Any = None) -> dict[str, str]:
    """`user_id` of the context of a graph's run, if it is there.

    Args:
        runtime: see `ids_of_run`.
    """
    context = getattr(runtime if runtime is not None else _runtime(), "context", None)
    user = context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None)
    return {} if user is None else {"user_id": str(user)}


def _runtime() -> Any:
    try:
        from langgraph.runtime import get_runtime

        return get_runtime()
    except (ImportError, RuntimeError):  # outside of a graph
        return None


def of_none_within(scope: Scope, cube: MemCube) -> bool:
    """Whether a cube in a scope is of that scope itself, and not of a session or an agent within it."""
    return (scope.agent, scope.session) == (cube.scope.agent, cube.scope.session)


def outside(arguments: Mapping[str, Any], scope: Scope) -> str | None:
    """The argument of a tool call that names another tenant, user, agent or session than the scope's; None if none."""
    for name, value in arguments.items():
        part = _PARTS.get(name.lower().replace("-", "_").removesuffix("id").removesuffix("_"))
        if part is not None and value is not None and value != getattr(scope, part):
            return name
    return None
