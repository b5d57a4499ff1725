"""MemOSMemory: LangChain's classic memory for chains, kept in a MemOS vault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memos_core import arguments
from memos_core.cube import new_id
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS, given
from memos_core.prompt import memory_note, unsaid

try:
    from langchain_classic.memory.chat_memory import BaseChatMemory
except ImportError:
    raise missing_extra("langchain-classic", "langchain") from None

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    get_buffer_string,
    trim_messages,
)
from langchain_core.messages.utils import count_tokens_approximately
from pydantic import ConfigDict, Field

from langchain_memos.history import MemOSChatMessageHistory

_PAGE = 64  # messages read at first


class MemOSMemory(BaseChatMemory):
    """What a chain remembers: the user's memories that bear on the input, then this session's conversation.

    Takes the place of `langchain_classic.memory.ConversationBufferMemory`: same fields, same rules for input and
    output keys. Differences: the conversation lives in a vault, so it survives the process; memories of the
    user's other sessions are recalled; an unknown field is refused, so that a misspelt `user=` cannot put
    memories in the wrong place.

    Args:
        memos: an open `MemOS`, or a narrower view of one. It stays the caller's to close.
        user: whose memory; None takes the user of `memos`.
        session: the conversation; None takes the session of `memos`, else begins a new one (its id is then in
            `session`). Pass the same one after a restart to go on.
        memory_key: the prompt variable this fills.
        facts_key: another prompt variable for the recalled memories, so that the prompt says where they stand; None
            puts them in front of the conversation.
        input_key, output_key: which input and output are stored; needed only where there are several.
        return_messages: False gives one string, True a list of messages (for a `MessagesPlaceholder`).
        human_prefix, ai_prefix: the names in the string.
        k: how many memories to recall at most; 0 recalls none.
        max_messages: only this many of the last messages are shown, beginning with the user's; 0 shows none of the
            conversation, None all of it.
        max_token_limit: about how many tokens memories and conversation may take together, counted with
            `count_tokens_approximately`; what is too old is left out, not deleted. None: no limit.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or session.
    """

    # Extra arguments would otherwise be ignored, as the base class does.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: MemOS = Field(exclude=True, repr=False)
    chat_memory: MemOSChatMessageHistory = Field(exclude=True, repr=False)
    user: str | None = None
    session: str | None = None
    memory_key: str = "history"
    facts_key: str | None = None
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    k: int = 5
    max_messages: int | None = None
    max_token_limit: int | None = None

    def __init__(
        self, *, memos: MemOS, user: str | None = None, session: str | None = None, **settings: Any
    ) -> None:
        if "chat_memory" in settings:
            raise InvalidArgument(
                "chat_memory is the vault's conversation here; pass memos= and session= instead"
            )
        for name, least in (("k", 0), ("max_messages", 0), ("max_token_limit", 1)):
            value = settings.get(name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise InvalidArgument(f"{name} must be an integer of at least {least}, got {value!r}")
        filled = [settings.get("memory_key", "history"), settings.get("facts_key")]
        if filled[0] == filled[1]:
            raise InvalidArgument(f"facts_key must be another variable than memory_key, got {filled[1]!r}")
        for name in ("input_key", "output_key"):
            if settings.get(name) is not None and settings[name] in filled:
                raise InvalidArgument(
                    f"{name}={settings[name]!r} is a variable that this memory fills, so it would be stored each turn"
                )
        history = MemOSChatMessageHistory(
            session or given(memos).scope.session or new_id(), memos=memos, user=user
        )
        scope = history.memos.scope
        super().__init__(memos=memos, chat_memory=history, user=scope.user, session=scope.session, **settings)

    @property
    def memory_variables(self) -> list[str]:
        """The prompt variables this fills."""
        return [self.memory_key] if self.facts_key is None else [self.memory_key, self.facts_key]

    @property
    def buffer(self) -> str | list[BaseMessage]:
        """The session's whole conversation, as `return_messages` says, without recalled memories."""
        return self.buffer_as_messages if self.return_messages else self.buffer_as_str

    @property
    def buffer_as_messages(self) -> list[BaseMessage]:
        """The session's whole conversation as messages."""
        return self.chat_memory.messages

    @property
    def buffer_as_str(self) -> str:
        """The session's whole conversation as text."""
        return self._as_str(self.chat_memory.messages)

    async def abuffer(self) -> str | list[BaseMessage]:
        """Async form of `buffer`."""
        return await self.abuffer_as_messages() if self.return_messages else await self.abuffer_as_str()

    async def abuffer_as_messages(self) -> list[BaseMessage]:
        """Async form of `buffer_as_messages`."""
        return await self.chat_memory.aget_messages()

    async def abuffer_as_str(self) -> str:
        """Async form of `buffer_as_str`."""
        return self._as_str(await self.chat_memory.aget_messages())

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What to put into the prompt for these inputs.

        Args:
            inputs: the chain's inputs: memories are recalled for their texts, those of `input_key` where it is set.

        Returns:
            `{memory_key: …}`: recalled memories (as a system message, or lines under "Relevant memories:")
            that do not stand in the conversation anyway, then the conversation. With a `facts_key` the memories are
            there, a text or a list of messages as well.

        Raises:
            VaultError: the vault cannot be read.
        """
        everything = self._ending()
        shown = self._recent(everything, self.max_token_limit)
        while True:  # a note may push out messages, and what they said belongs into the note then
            note = self._recalled(self._question(inputs), shown)
            if not note or self.max_token_limit is None:
                break
            kept = self._recent(everything, self.max_token_limit - count_tokens_approximately(note))
            if len(kept) >= len(shown):
                break
            shown = kept
        if self.facts_key is not None:
            return {self.memory_key: self._as_asked([], shown), self.facts_key: self._as_asked(note, [])}
        return {self.memory_key: self._as_asked(note, shown)}

    def _as_asked(self, note: list[BaseMessage], shown: list[BaseMessage]) -> str | list[BaseMessage]:
        """Memories and conversation as `return_messages` wants them."""
        if self.return_messages:
            return [*note, *shown]
        parts = [*(str(m.text) for m in note), self._as_str(shown)]
        return "\n\n".join(part for part in parts if part)

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Store the input and the output of a turn, in one transaction, and nothing else of either.

        Args:
            inputs, outputs: the chain's; texts or messages.

        Raises:
            ValueError: several inputs without `input_key`, or several outputs without `output_key` and none
                of them called "output" (as `BaseChatMemory`). InvalidArgument: not texts. VaultError: not
                stored.
        """
        self.chat_memory.add_messages(self._turn(inputs, outputs))

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Async form of `save_context`."""
        await self.chat_memory.aadd_messages(self._turn(inputs, outputs))

    def clear(self) -> None:
        """Delete this session's conversation. Memories of the user stay; see
        `MemOSChatMessageHistory.clear`."""
        self.chat_memory.clear()

    def _turn(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> list[BaseMessage]:
        # What this fills may come back among a chain's outputs; it is not what the model said.
        said_by_model = {name: value for name, value in outputs.items() if name not in self.memory_variables}
        said, answered = self._get_input_output(inputs, said_by_model or outputs)
        return [_message(said, HumanMessage, "the input"), _message(answered, AIMessage, "the output")]

    def _question(self, inputs: dict[str, Any]) -> str:
        """What to recall memories for: the input's text; of several inputs, or a list of messages, the last ones. ""
        for nothing that can be asked for."""
        names = [self.input_key] if self.input_key is not None else [*inputs]
        asked = [inputs[n] for n in names if n in inputs and n not in (*self.memory_variables, "stop")]
        return "\n".join(text for text in map(_text, asked) if text.strip())

    def _recalled(self, question: str, shown: Sequence[BaseMessage]) -> list[BaseMessage]:
        """One system message with the best memories that fit into the token limit, or nothing."""
        if not self.k:
            return []
        hits = self.chat_memory.memos.recall(question, k=self.k, accept=unsaid(str(m.text) for m in shown))
        note: list[BaseMessage] = []
        for n in range(1, len(hits) + 1):
            longer = SystemMessage(memory_note(hit.cube for hit in hits[:n]))
            if (
                self.max_token_limit is not None
                and count_tokens_approximately([longer]) > self.max_token_limit
            ):
                break
            note = [longer]
        return note

    def _ending(self) -> list[BaseMessage]:
        """So many of the last messages that the limits leave some of them out, or all; none are read in vain."""
        if self.max_messages == 0:
            return []
        if self.max_messages is None and self.max_token_limit is None:
            return self.chat_memory.messages
        size = _PAGE
        while True:
            messages = self.chat_memory.last(size)
            shown = self._recent(messages, self.max_token_limit, None)
            if len(messages) < size or len(shown) < len(messages):
                return messages
            size *= 4

    def _recent(
        self,
        messages: list[BaseMessage],
        tokens: int | None,
        start_on: type[BaseMessage] | None = HumanMessage,
    ) -> list[BaseMessage]:
        """The last messages within the limits, beginning with the user's; all of them without limits."""
        if self.max_messages == 0:
            return []
        for limit, counter in ((self.max_messages, len), (tokens, count_tokens_approximately)):
            if limit is not None:
                messages = trim_messages(
                    messages,
                    max_tokens=limit,
                    token_counter=counter,
                    start_on=start_on,
                    include_system=True,
                )
        return messages

    def _as_str(self, messages: Sequence[BaseMessage]) -> str:
        return get_buffer_string(messages, human_prefix=self.human_prefix, ai_prefix=self.ai_prefix)


def _text(value: Any) -> str:
    """The text of what a chain was given; of messages, that of the user's last one."""
    if isinstance(value, list):
        said = [one for one in value if isinstance(one, HumanMessage)]
        if said:
            return str(said[-1].text)
    try:
        return str(_message(value, HumanMessage, "the input").text)
    except InvalidArgument:
        return ""


def _message(value: Any, cls: type[BaseMessage], name: str) -> BaseMessage:
    """What a chain was given or gave back, as a message."""
    if isinstance(value, BaseMessage):
        return value
    if isinstance(value, str):  # half a character, where a reply was cut off, is no reason to lose it
        return cls(content=arguments.whole(value))
    if isinstance(value, list) and all(isinstance(b, str | dict) for b in value):
        return cls(content=value)
    raise InvalidArgument(
        f"{name} must be a text or a message, got {type(value).__name__}; set input_key= or output_key="
    )
