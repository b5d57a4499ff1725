"""The messages of `add`, in the forms mem0 takes, as plain (role, text, name) turns."""

from __future__ import annotations

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


def turns(messages: Any) -> list[Turn]:
    """The messages with a role and a text, in order.

    Args:
        messages: a text (of the user), one message dict, or a list of them. Content that is a list of parts
            counts with its text parts.

    Raises:
        ValidationError: none of these.
    """
    found = []
    for index, message in enumerate(_listed(messages)):
        turn = _turn(message)
        if turn is None:
            log.warning("messages[%d] has no role or no text, it is skipped", index)
        else:
            found.append(turn)
    return found


def for_model(messages: Any) -> list[dict[str, Any]]:
    """The messages as chat models take them, the calls of tools and what these answered included (OpenAI's form). An
    answer to no call is told in words.

    Args:
        messages: see `turns`.

    Raises:
        ValidationError: see `turns`.
    """
    told: list[dict[str, Any]] = []
    called: set[str] = set()
    for message in _listed(messages):
        role, calls = message.get("role"), message.get("tool_calls")
        turn = _turn(message)
        if isinstance(calls, list) and calls and isinstance(role, str):
            called |= {str(call.get("id")) for call in calls if isinstance(call, Mapping)}
            told.append({"role": role, "content": turn.text if turn else "", "tool_calls": calls})
        elif turn is not None and role == "tool":
            answers = message.get("tool_call_id")
            told.append(
                {"role": role, "content": turn.text, "tool_call_id": answers}
                if str(answers) in called
                else {"role": "user", "content": f"[tool] {turn.text}"}
            )
        elif turn is not None:
            told.append({"role": turn.role, "content": turn.text})
    return told


def _listed(messages: Any) -> list[Mapping[Any, Any]]:
    """The messages as a list of dicts."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping):
        return [messages]
    if not isinstance(messages, list):
        raise ValidationError(
            "messages must be str, dict, or list[dict]",
            "VALIDATION_003",
            {"provided_type": type(messages).__name__, "valid_types": ["str", "dict", "list[dict]"]},
            "Convert your input to a string, dictionary, or list of dictionaries.",
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValidationError(
                f"messages[{index}] must be a dict with role and content, got {type(message).__name__}",
                "VALIDATION_003",
                {"provided_type": type(message).__name__, "valid_types": ["str", "dict", "list[dict]"]},
                "Pass one text as a string, several as [{'role': 'user', 'content': '…'}, …].",
            )
    return messages


def _turn(message: Mapping[Any, Any]) -> Turn | None:
    role, content, name = message.get("role"), message.get("content"), message.get("name")
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
        content = " ".join(p for p in parts if isinstance(p, str))
    if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
        return None
    return Turn(role, content, name if isinstance(name, str) and name else None)
