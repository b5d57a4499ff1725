"""MemOSChatMessageHistory: a LangChain conversation kept in a MemOS vault."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from memos_core.cube import MemCube, Message, dump_json
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS, given
from memos_core.reader import MESSAGES

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.documents import Document
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        ChatMessage,
        HumanMessage,
        SystemMessage,
        ToolMessage,
        message_to_dict,
        messages_from_dict,
    )
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None

_DOCUMENT = "langchain_core.documents.Document"
_ROLES = {"human": "user", "ai": "assistant"}
_CLASSES: dict[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "human": HumanMessage,
    "assistant": AIMessage,
    "ai": AIMessage,
    "system": SystemMessage,
}


class MemOSChatMessageHistory(BaseChatMessageHistory):
    """One session's messages, in a vault: they outlive the process and come back exactly as they went in,
    with tool calls, content blocks, ids and metadata. What users state about themselves also becomes typed
    memories, which every session of the same user recalls.

    For `RunnableWithMessageHistory`, pass `lambda session_id: MemOSChatMessageHistory(session_id,
    memos=memos)`. Stands in for `langchain_core.chat_history.InMemoryChatMessageHistory`. Safe from many
    threads; the async methods of the base class run these in a worker thread.

    Args:
        session_id: the conversation (a number counts as its text); None takes the session of `memos`.
        memos: an open `MemOS`, or a narrower view of one. It stays the caller's to close.
        user: whose conversation it is; None takes the user of `memos`.

    Raises:
        InvalidArgument: there is no session. AccessDenied: `memos` belongs to another user or session.
    """

    def __init__(
        self,
        session_id: str | int | UUID | None = None,
        *,
        memos: MemOS,
        user: str | int | UUID | None = None,
    ) -> None:
        self.memos = given(memos).scoped(user=_name(user), session=_name(session_id), adapter="langchain")
        if self.memos.scope.session is None:
            raise InvalidArgument(
                "session_id must name the conversation; pass one, or a MemOS view with session="
            )

    @property
    def session_id(self) -> str:
        """The conversation this is."""
        return str(self.memos.scope.session)

    @property
    def messages(self) -> list[BaseMessage]:
        """The session's messages, oldest first. Messages that another framework stored are read by role and
        text.

        Raises:
            VaultError: the vault cannot be read.
        """
        return [_from_cube(cube) for cube in self.memos.conversation()]

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        """Replace the conversation, in one transaction. What was in it before is not stated anew."""
        self.memos.replace_messages([_to_core(m, i) for i, m in enumerate(messages)])

    def last(self, n: int) -> list[BaseMessage]:
        """The last `n` messages, oldest first, read without the others; behind the conversation's first message where
        that is a system message.

        Raises:
            VaultError: the vault cannot be read.
        """
        which: dict[str, Any] = {"namespace": (MESSAGES,), "types": ["message"]}
        found = self.memos.find(**which, order="-created", limit=n)[::-1]
        first = self.memos.find(**which, limit=1) if len(found) == n else []
        beginning = [_from_cube(cube) for cube in first if cube.id != found[0].id]
        return [*(m for m in beginning if isinstance(m, SystemMessage)), *map(_from_cube, found)]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Store messages, all or none, in one transaction.

        Args:
            messages: any LangChain messages; chunks too.

        Raises:
            InvalidArgument: a message holds what JSON has no form for. VaultError: nothing was stored.
        """
        if messages:
            self.memos.remember([_to_core(m, i) for i, m in enumerate(messages)])

    def clear(self) -> None:
        """Delete this session's messages. What the user is known to have stated stays: it is the user's, not
        the session's (delete it through `MemOS.delete`)."""
        self.memos.delete_where(types=["message"])


def _name(value: Any) -> Any:
    """An id as the text that it is stored as."""
    return str(value) if isinstance(value, int | UUID) and not isinstance(value, bool) else value


def _to_core(message: BaseMessage, index: int) -> Message:
    if not isinstance(message, BaseMessage):
        raise InvalidArgument(f"messages[{index}] must be a LangChain message, got {type(message).__name__}")
    raw = message_to_dict(message)
    if isinstance(message, ToolMessage) and message.artifact is not None:
        raw["data"]["artifact"] = _packed(message.artifact)
    dump_json(raw, f"messages[{index}]")
    kind = message.type.removesuffix("MessageChunk").lower()
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(kind, kind)
    return Message(role=role, content=str(message.text), raw=raw)


def _packed(artifact: Any) -> Any:
    """What a tool found, as JSON. Documents, which retriever tools give, keep their class."""
    if isinstance(artifact, Document):
        try:
            return {_DOCUMENT: artifact.model_dump(mode="json", exclude={"type"})}
        except (ValueError, TypeError) as err:
            raise InvalidArgument(f"a document of an artifact must be JSON: {err}") from None
    if isinstance(artifact, list | tuple):
        return [_packed(one) for one in artifact]
    if isinstance(artifact, Mapping):
        return {name: _packed(one) for name, one in artifact.items()}
    return artifact


def _unpacked(stored: Any) -> Any:
    if isinstance(stored, list):
        return [_unpacked(one) for one in stored]
    if not isinstance(stored, dict):
        return stored
    if [*stored] == [_DOCUMENT] and isinstance(stored[_DOCUMENT], dict):
        with suppress(ValueError, TypeError):  # another tool's own data
            return Document(**stored[_DOCUMENT])
    return {name: _unpacked(one) for name, one in stored.items()}


def _from_cube(cube: MemCube) -> BaseMessage:
    """The message of a cube, from LangChain's own form where it has that, else from its role and text and, of
    LlamaIndex's, its tool calls."""
    stored: Any = cube.json_data
    role, raw = stored["role"], stored.get("raw")
    if isinstance(raw, dict) and isinstance(raw.get("type"), str) and isinstance(raw.get("data"), dict):
        with suppress(ValueError):  # of a class that LangChain does not have
            message = messages_from_dict([raw])[0]
            if isinstance(message, ToolMessage):
                message.artifact = _unpacked(message.artifact)
            return message
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        if found := _of_llama_index(role, stored["content"], raw):
            return found
    known = _CLASSES.get(role)
    return known(content=stored["content"]) if known else ChatMessage(role=role, content=stored["content"])


def _of_llama_index(role: str, content: str, raw: Any) -> BaseMessage | None:
    """A call of tools, or what one answered, from LlamaIndex's form of it: without their ids no model takes the two."""
    extra = raw["additional_kwargs"]
    if role == "tool":
        return ToolMessage(content=content, tool_call_id=extra["tool_call_id"], name=extra.get("name"))
    calls = [
        (block["tool_call_id"], block["tool_name"], block["tool_kwargs"])
        for block in raw["blocks"]
        if block["block_type"] == "tool_call"
    ] or [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in extra.get("tool_calls") or ()
    ]
    if not calls:
        return None
    return AIMessage(
        content=content,
        tool_calls=[
            {
                "type": "tool_call",
                "id": id_,
                "name": name,
                "args": json.loads(args) if isinstance(args, str) else args,
            }
            for id_, name, args in calls
        ],
    )
