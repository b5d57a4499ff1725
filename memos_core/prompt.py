"""The layout of a prompt, stable parts first, so that its KV cache can be reused:
[system, resident memory | history | memories recalled for this question, question]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from memos_core.cube import MemCube

ChatMessage = dict[str, Any]

DEFAULT_SYSTEM = "You are a helpful assistant who remembers what the user has told you."
_RESIDENT = "What the user has told you:"
_RECALLED = "Remember what I told you:"


def memory_line(cube: MemCube) -> str:
    """One memory as one line of a prompt."""
    return "- " + " ".join(cube.text.split())


def system_with_memory(system: str, resident: Iterable[MemCube]) -> str:
    """The system text with resident memories behind it. Adding a memory at the end leaves what is before unchanged."""
    lines = [memory_line(cube) for cube in resident]
    return "\n".join([system, "", _RESIDENT, *lines]) if lines else system


def compose(messages: Sequence[ChatMessage], resident: Sequence[MemCube], recalled: Sequence[MemCube]) -> list[ChatMessage]:
    """The messages to send to a model.

    Args:
        messages: `{"role", "content"}` dicts in order, with or without a system message first.
        resident: memories that stand in front of every prompt of this session, in a fixed order.
        recalled: memories found for the last user message; they are put into it, before the question.
    """
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else DEFAULT_SYSTEM
    out: list[ChatMessage] = [{"role": "system", "content": system_with_memory(system, resident)}, *rest]
    if recalled and rest and rest[-1]["role"] == "user":
        notes = "\n".join(memory_line(cube) for cube in recalled)
        out[-1] = {**rest[-1], "content": f"{_RECALLED}\n{notes}\n\n{rest[-1]['content']}"}
    return out
