"""The messages of `add`, in the forms mem0 takes, as plain (role, text, name) turns."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from mem0_memos.errors import ValidationError

log = logging.getLogger("mem0_memos")


class Turn(NamedTuple):
    """One message with something to remember."""

    role: str
    text: str
    name: str | None


def turns(messages: Any, *, whole: bool = False) -> list[Turn]:
    """The messages that can become memories, in order: system messages and those without text are left out.

    Args:
        whole: system messages count too, and of messages without text the tools that they call.
        messages: a text (of the user), one message dict, or a list of them. Content that is a list of parts
            counts with its text parts.

    Raises:
        ValidationError: none of these.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, Mapping):
        messages = [messages]
    elif not isinstance(messages, list):
        raise ValidationError(
            "messages must be str, dict, or list[dict]",
            "VALIDATION_003",
            {"provided_type": type(messages).__name__, "valid_types": ["str", "dict", "list[dict]"]},
            "Convert your input to a string, dictionary, or list of dictionaries.",
        )
    found = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValidationError(
                f"messages[{index}] must be a dict with role and content, got {type(message).__name__}",
                "VALIDATION_003",
                {"provided_type": type(message).__name__, "valid_types": ["str", "dict", "list[dict]"]},
                "Pass one text as a string, several as [{'role': 'user', 'content': '…'}, …].",
            )
        turn = _turn(message) or (_called(message) if whole else None)
        if turn is None:
            log.warning("messages[%d] has no role or no text, it is skipped", index)
        elif whole or turn.role != "system":
            found.append(turn)
    return found


def _called(message: Mapping[Any, Any]) -> Turn | None:
    """A message that only calls tools (as OpenAI writes it), in words."""
    role, calls = message.get("role"), message.get("tool_calls")
    if not isinstance(role, str) or not isinstance(calls, list) or not calls:
        return None
    try:
        return Turn(role, json.dumps({"tool_calls": calls}, ensure_ascii=False), None)
    except (TypeError, ValueError):
        return Turn(role, f"tool_calls: {calls!r}", None)


def _turn(message: Mapping[Any, Any]) -> Turn | None:
    role, content, name = message.get("role"), message.get("content"), message.get("name")
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
        content = " ".join(p for p in parts if isinstance(p, str))
    if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
        return None
    return Turn(role, content, name if isinstance(name, str) and name else None)
