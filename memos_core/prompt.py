"""The layout of a prompt, stable parts first, so that its KV cache can be reused:
[system, resident memory | history | memories recalled for this question, question]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument
from memos_core.reader.statements import sentences

ChatMessage = dict[str, Any]

DEFAULT_SYSTEM = "You are a helpful assistant who remembers what the user has told you."
_RESIDENT = "What the user has told you:"
_RECALLED = "Relevant memories:"


def memory_line(cube: MemCube) -> str:
    """One memory as one line of a prompt."""
    return "- " + " ".join(cube.text.split())


def memory_note(cubes: Iterable[MemCube]) -> str:
    """Recalled memories under a heading, for a prompt that is not laid out by `compose`."""
    return "\n".join([_RECALLED, *map(memory_line, cubes)])


def unsaid(texts: Iterable[str]) -> Callable[[MemCube], bool]:
    """A condition for `recall`: memories that nobody says, word for word, in what the prompt shows anyway.

    A memory counts as said if each of its sentences is a sentence of a message; questions say nothing.

    Args:
        texts: what the messages say.
    """
    said = {_words(sentence) for text in texts for sentence in sentences(text) if not sentence.endswith("?")}
    return lambda cube: not all(_words(sentence) in said for sentence in sentences(cube.text))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def system_with_memory(system: str, resident: Iterable[MemCube]) -> str:
    """The system text with resident memories behind it. One added at the end changes nothing before it."""
    lines = [memory_line(cube) for cube in resident]
    return "\n".join([system, "", _RESIDENT, *lines]) if lines else system


def asked(messages: Sequence[ChatMessage]) -> int | None:
    """Where the user's message stands that is to be answered: the last one, or the one that the tool calls and results
    at the end belong to. None where something else was said since."""
    for i in range(len(messages) - 1, -1, -1):
        role = messages[i].get("role")
        if role == "user":
            return i
        if role != "tool" and not (role == "assistant" and messages[i].get("tool_calls")):
            return None
    return None


def check_messages(messages: Sequence[ChatMessage]) -> None:
    """Refuse messages that no memory can be put into.

    Raises:
        InvalidArgument: a message without a role, or a system message or question that is no text.
    """
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise InvalidArgument(f"messages must be a list of dicts, got {messages!r:.80}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidArgument(
                f"messages[{i}] must be a dict with 'role' and 'content', got {message!r:.80}"
            )
    at = asked(messages)
    for i, message in enumerate(messages):
        first_of_system = i == 0 and message["role"] == "system"
        if (i == at or first_of_system) and not isinstance(message.get("content"), str):
            raise InvalidArgument(
                f"messages[{i}]: 'content' must be a text, got {message.get('content')!r:.80}"
            )


def compose(
    messages: Sequence[ChatMessage], resident: Sequence[MemCube], recalled: Sequence[MemCube]
) -> list[ChatMessage]:
    """The messages to send to a model.

    Args:
        messages: `{"role", "content"}` dicts in order, with or without a system message first.
        resident: memories that stand in front of every prompt of this session, in a fixed order.
        recalled: memories found for the user's question (see `asked`); they are put into it, before the question.
    """
    at = asked(messages)
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else DEFAULT_SYSTEM
    out: list[ChatMessage] = [{"role": "system", "content": system_with_memory(system, resident)}, *rest]
    if recalled and at is not None:
        question, from_end = messages[at], at - len(messages)
        notes = "\n".join(" ".join(cube.text.split()) for cube in recalled)
        out[from_end] = {**question, "content": f"{notes}\n\n{_ask(question['content'])}"}
    return out


def _ask(text: str) -> str:
    """A question, marked as one where it stands below memories: small models answer far more of them so."""
    return f"Question: {text}\nAnswer:" if text.rstrip().endswith("?") else text
