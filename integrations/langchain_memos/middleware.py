"""MemOSMiddleware: memory for the agents of `langchain.agents.create_agent`."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any

from memos_core import arguments
from memos_core.errors import missing_extra
from memos_core.memos import MemOS, given
from memos_core.prompt import memory_note, unsaid

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
    from langchain_core.runnables.config import ensure_config
    from langgraph.runtime import Runtime
except ImportError:
    raise missing_extra("langchain", "langchain") from None

from langchain_memos.scopes import ids_of_run

_MOST = 1_000  # messages of runs that never came to their end are forgotten then
_Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]
_AsyncHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]


class MemOSMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Recalls the user's memories for every question and remembers every turn, whatever model the agent has.

        agent = create_agent(model, tools, middleware=[MemOSMiddleware(memos)], checkpointer=MemOSSaver(memos))
        agent.invoke(question, {"configurable": {"user_id": "maya", "thread_id": "t1"}})

    Recalled memories stand in front of the question in what the model is sent, and nowhere else: neither the state nor
    a checkpoint holds them. The turn is remembered once, when the agent has answered.

    Whose memory: `user_id` of the runtime's context (an attribute or a key), else of the config's `configurable`,
    within the scope of `memos`; the session is the config's `thread_id`. Nothing that the model says can change it.
    An agent that runs inside a tool of another one (in a node "tools", as `create_agent` calls it) recalls, and
    remembers nothing: it was asked by a model. Runs that name neither share the session "default", which no other
    recalls.

    Args:
        memos: an open `MemOS`, or a narrower view of one. agent: part of the scope.
        k: how many memories to recall at most; 0 recalls none (a `ChatMemOS` may do so already).
        remember: store the question and the answer, and what the user states about themselves as typed memories.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied (in a run): the context or config names another user.
    """

    def __init__(self, memos: MemOS, *, agent: str | None = None, k: int = 5, remember: bool = True) -> None:
        super().__init__()
        self._memos = given(memos).scoped(agent=agent, adapter="langchain")
        self._k = arguments.count(k, "k")
        self._remember = remember
        # In runs that are not at their end yet: the question that a message of the model, by its id, answers.
        self._heard: OrderedDict[str | None, list[AnyMessage]] = OrderedDict()
        self._lock = threading.Lock()

    def wrap_model_call(self, request: ModelRequest[Any], handler: _Handler) -> ModelResponse[Any]:
        """See `AgentMiddleware.wrap_model_call`."""
        asked = self._asked(request.messages)
        response = handler(self._with_memories(request, asked))
        self._note(response, asked)
        return response

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: _AsyncHandler
    ) -> ModelResponse[Any]:
        """See `AgentMiddleware.awrap_model_call`."""
        asked = self._asked(request.messages)
        response = await handler(await asyncio.to_thread(self._with_memories, request, asked))
        self._note(response, asked)
        return response

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.after_agent`."""
        self._finish(self._view(runtime), state)

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.aafter_agent`."""
        await asyncio.to_thread(self._finish, self._view(runtime), state)

    def _view(self, runtime: Runtime[Any] | None) -> MemOS:
        ids = ids_of_run(runtime)
        return self._memos.scoped(user=ids.get("user_id"), session=ids.get("thread_id")).in_session()

    def _with_memories(self, request: ModelRequest[Any], asked: Sequence[AnyMessage]) -> ModelRequest[Any]:
        view, at = self._view(request.runtime), _last(request.messages, HumanMessage)
        question = str(asked[-1].text) if asked else ""
        if at is None or not self._k or not question.strip():
            return request
        hits = view.recall(question, k=self._k, accept=unsaid(str(m.text) for m in request.messages))
        if not hits:
            return request
        note, last = memory_note(hit.cube for hit in hits), request.messages[at]
        content: Any = (
            f"{note}\n\n{last.content}"
            if isinstance(last.content, str)
            else [{"type": "text", "text": note}, *last.content]
        )
        messages = [*request.messages]
        messages[at] = last.model_copy(update={"content": content})
        return request.override(messages=messages)

    def _asked(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """What the user said last, also where another middleware has put a summary in its place since."""
        said = _question(messages)
        if said:
            return said
        with self._lock:
            return next((self._heard[m.id] for m in reversed(messages) if m.id in self._heard), [])

    def _note(self, response: ModelResponse[Any], asked: list[AnyMessage]) -> None:
        """Keep what the model's messages are the answers to."""
        with self._lock:
            for message in response.result if self._remember and asked else ():
                if message.id is not None:
                    self._heard[message.id] = asked
            while len(self._heard) > _MOST:
                self._heard.popitem(last=False)

    def _finish(self, view: MemOS, state: AgentState[Any]) -> None:
        messages, structured = state["messages"], state.get("structured_response") is not None
        turn = [*self._asked(messages), *_answer(messages, structured=structured)]
        with self._lock:
            for message in messages:
                self._heard.pop(message.id, None)
        if turn and self._remember and not _asked_by_a_model():
            # Each message once: a run may bring none of its own, go back, or end in the middle of another one.
            view.remember([_kept(message) for message in turn], keys=_keys(turn))
        view.turn_finished()


def _asked_by_a_model() -> bool:
    """Whether this agent runs inside a tool of another one: then what it was asked is a model's wording."""
    around = str(ensure_config().get("configurable", {}).get("checkpoint_ns", "")).split("|")[:-1]
    return any(part.partition(":")[0] == "tools" for part in around)


def _keys(turn: Sequence[AnyMessage]) -> list[str | None]:
    """By what a message is known: its id, its text (ids are not unique, and a message may be edited), and of an answer,
    what it answers (a cache gives one twice)."""
    keys: list[str | None] = []
    asked = ""
    for message in turn:
        told = f"{message.id}\n{message.text}" + ("" if isinstance(message, HumanMessage) else asked)
        asked += f"\n{message.id}" if isinstance(message, HumanMessage) else ""
        digest = blake2b(told.encode(errors="replace"), digest_size=16).hexdigest()
        keys.append(f"langchain:{digest}" if message.id else None)
    return keys


def _said(message: AnyMessage) -> bool:
    """Whether a message is the user's own: LangChain writes summaries of a conversation as if they were."""
    return isinstance(message, HumanMessage) and "lc_source" not in message.additional_kwargs


def _question(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """What the user said last, in one message or several."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], HumanMessage)), -1)
    said: list[AnyMessage] = []
    while last >= 0 and _said(messages[last]):
        said.insert(0, messages[last])
        last -= 1
    return said


def _answer(messages: Sequence[AnyMessage], *, structured: bool) -> list[AnyMessage]:
    """The model's last words, if it said some after the user's; or what a tool answered in its place.

    Args:
        structured: the answer is data: then the last tool message only says so.
    """
    at = _last(messages, AIMessage)
    if at is None or any(map(_said, messages[at:])):
        return []
    if str(messages[at].text).strip():
        return [messages[at]]
    direct = [m for m in messages[at:] if isinstance(m, ToolMessage) and m.status != "error"]
    return [] if structured else [m for m in direct if str(m.text).strip()]


def _kept(message: AnyMessage) -> dict[str, str]:
    """A message as memory. Half a character, as a reply that was cut off may end with, is no reason to lose it."""
    text = arguments.whole(str(message.text))
    return {"role": "user" if isinstance(message, HumanMessage) else "assistant", "content": text}


def _last(messages: Sequence[AnyMessage], kind: type[AnyMessage]) -> int | None:
    return next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], kind)), None)
