"""LlamaIndex messages to and from the vault's, and how many of them fit into a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from memos_core.cube import MemCube, Message, dump_json
from memos_core.errors import InvalidArgument

Tokenizer = Callable[[str], Sequence[Any]]
SYSTEM = (MessageRole.SYSTEM, MessageRole.DEVELOPER)
_ROLES = {role.value for role in MessageRole}
# What a picture, recording or file costs in a prompt, as `llama_index.core.memory.Memory` estimates it.
_MEDIA_TOKENS = {"image": 256, "audio": 256, "video": 256, "document": 2048}


def to_core(message: ChatMessage, index: int) -> Message:
    """A message for the vault, with LlamaIndex's own JSON form of it beside its text.

    Raises:
        InvalidArgument: it is no ChatMessage, or holds what JSON has no form for.
    """
    if not isinstance(message, ChatMessage):
        raise InvalidArgument(f"messages[{index}] must be a ChatMessage, got {type(message).__name__}")
    try:
        raw = message.model_dump(mode="json")
    except ValueError as err:  # pydantic's serialisation error
        raise InvalidArgument(f"messages[{index}] must be JSON: {err}") from None
    # The old form of pictures: ChatMessage has made blocks of them already, and would again on the way back.
    raw["additional_kwargs"].pop("images", None)
    dump_json(raw, f"messages[{index}]")
    return Message(role=message.role.value, content=message.content or "", raw=raw)


def from_cube(cube: MemCube) -> ChatMessage:
    """The message of a cube, from LlamaIndex's own form where it has that, else from its role and text and, of
    LangChain's, its tool calls."""
    stored: Any = cube.json_data
    role, raw = stored["role"], stored.get("raw")
    if isinstance(raw, dict) and "role" in raw and isinstance(raw.get("blocks"), list):
        with suppress(ValueError):  # a block that this release of LlamaIndex does not know
            return ChatMessage.model_validate(raw)
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        if found := _of_langchain(stored["content"], raw):
            return found
    return ChatMessage(role=role if role in _ROLES else MessageRole.ASSISTANT, content=stored["content"])


def _of_langchain(content: str, raw: Any) -> ChatMessage | None:
    """A call of tools, or what one answered, from LangChain's form of it: without their ids no model takes the two."""
    kind, data = raw["type"], raw["data"]
    if kind == "tool":
        about = {"tool_call_id": data["tool_call_id"], **({"name": data["name"]} if data.get("name") else {})}
        return ChatMessage(role=MessageRole.TOOL, content=content, additional_kwargs=about)
    if kind != "ai" or not data["tool_calls"]:
        return None
    calls = [(call["id"], call["name"], call["args"]) for call in data["tool_calls"]]
    blocks = [
        {"block_type": "tool_call", "tool_call_id": id_, "tool_name": name, "tool_kwargs": args}
        for id_, name, args in calls
    ]
    said = [{"block_type": "text", "text": content}] if content else []
    with suppress(ValueError):
        return ChatMessage.model_validate({"role": MessageRole.ASSISTANT, "blocks": [*said, *blocks]})
    openai = [  # llama-index-core 0.13 has no blocks for them
        {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
        for id_, name, args in calls
    ]
    return ChatMessage(role=MessageRole.ASSISTANT, content=content, additional_kwargs={"tool_calls": openai})


def text_of(message: Any) -> str:
    """The text of a question, however it is given: a text, a message, a `QueryBundle`, … None is no question."""
    if message is None:
        return ""
    return (message.content or "") if isinstance(message, ChatMessage) else str(message)


def count_tokens(message: ChatMessage, tokenizer: Tokenizer) -> int:
    """About how many tokens a message takes in a prompt."""
    total = len(tokenizer(str(message.additional_kwargs))) if message.additional_kwargs else 0
    return total + sum(_block_tokens(block, tokenizer) for block in message.blocks)


def _block_tokens(block: Any, tokenizer: Tokenizer) -> int:
    # By their names: llama-index-core 0.13 has not all of these classes.
    if block.block_type == "text":
        return len(tokenizer(block.text))
    if block.block_type == "tool_call":
        return len(tokenizer(f"{block.tool_name} {block.tool_kwargs}"))
    if block.block_type in _MEDIA_TOKENS:
        return _MEDIA_TOKENS[block.block_type]
    content = getattr(block, "content", None)  # of a thought, a citation, a citable document
    if isinstance(content, list):
        return sum(_block_tokens(one, tokenizer) for one in content)
    return len(tokenizer(content)) if isinstance(content, str) else 0


def fit(messages: Sequence[ChatMessage], limit: int, tokenizer: Tokenizer) -> list[ChatMessage]:
    """The last whole turns that fit, behind the system messages the conversation begins with.

    A turn is a user's message with everything up to the next: so a tool's result never loses its call, and
    the first message that is no system message is a user's. The last turn is kept even where it alone is too
    long, so that the model's own error names the problem. What stands before the first turn, as an
    assistant's greeting, is left out.

    Args:
        messages: oldest first. limit: in tokens.
    """
    starts = [i for i, m in enumerate(messages) if m.role == MessageRole.USER]
    head = next((i for i, m in enumerate(messages) if m.role not in SYSTEM), len(messages))
    left = limit - sum(count_tokens(m, tokenizer) for m in messages[:head])
    kept, end = len(messages), len(messages)
    for start in reversed(starts):
        left -= sum(count_tokens(m, tokenizer) for m in messages[start:end])
        if left < 0 and kept < len(messages):
            break
        kept = end = start
    return [*messages[:head], *messages[kept:]]
