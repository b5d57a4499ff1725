"""Between LangChain's messages and what a chat template takes and a model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolCallChunk, ToolMessage

from memos_core.activation import ToolCall
from memos_core.errors import InvalidArgument

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_TEXT_BLOCKS = ("text", "tool_use", "tool_call", "reasoning", "thinking")


def to_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in the form that chat templates take, tool calls and their results included.

    Raises:
        InvalidArgument: content that is not text, or a role that is unknown to chat templates.
    """
    names: dict[str | None, str] = {}  # of the tools that were called, by the calls' ids
    found = []
    for message in messages:
        one = _to_dict(message)
        if isinstance(message, AIMessage) and message.tool_calls:
            names.update((call["id"], call["name"]) for call in message.tool_calls)
            one["tool_calls"] = [
                {
                    "type": "function",
                    "id": call["id"],
                    "function": {"name": call["name"], "arguments": call["args"]},
                }
                for call in message.tool_calls
            ]
        elif isinstance(message, ToolMessage):
            one["tool_call_id"] = message.tool_call_id
            one["name"] = message.name or names.get(message.tool_call_id, "")
        found.append(one)
    return found


def _to_dict(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message.content, list) and any(
        isinstance(block, dict) and block.get("type", "text") not in _TEXT_BLOCKS for block in message.content
    ):
        raise InvalidArgument(
            f"messages: a {message.type} message holds content that is not text, which this model cannot read"
        )
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type)
    if role is None:
        raise InvalidArgument(f"messages: a message of type {message.type!r} has no place in a chat template")
    return {"role": role, "content": str(message.text)}


def call_chunks(calls: Sequence[ToolCall], before: int) -> list[ToolCallChunk]:
    """A model's tool calls as LangChain's. A call that is no whole JSON becomes one of `invalid_tool_calls`.

    Args:
        before: how many calls of the reply came earlier.
    """
    return [
        ToolCallChunk(
            name=call.name,
            args=call.arguments,
            id=f"call_{uuid4().hex}",
            index=before + i,
            type="tool_call_chunk",
        )
        for i, call in enumerate(calls)
    ]
