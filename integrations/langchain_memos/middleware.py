"""MemOSMiddleware: memory for the agents of `langchain.agents.create_agent`."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from memos_core import arguments
from memos_core.cube import Scope
from memos_core.errors import missing_extra
from memos_core.memos import MemOS, given
from memos_core.prompt import memory_note, unsaid

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
    from langgraph.runtime import Runtime
except ImportError:
    raise missing_extra("langchain", "langchain") from None

from langchain_memos.scopes import ids_of_run

_MOST = 1_000  # turns that never came to their end are forgotten then
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
    Runs that name neither share the session "default", which no other recalls.

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
        self._heard: OrderedDict[Scope, list[str]] = OrderedDict()  # in turns that are not at their end yet
        self._lock = threading.Lock()

    def wrap_model_call(self, request: ModelRequest[Any], handler: _Handler) -> ModelResponse[Any]:
        """See `AgentMiddleware.wrap_model_call`."""
        view = self._view(request.runtime)
        self._hear(view, request.messages)
        return handler(self._with_memories(request, view))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: _AsyncHandler
    ) -> ModelResponse[Any]:
        """See `AgentMiddleware.awrap_model_call`."""
        view = self._view(request.runtime)
        self._hear(view, request.messages)
        return await handler(await asyncio.to_thread(self._with_memories, request, view))

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.after_agent`."""
        self._finish(self._view(runtime), state["messages"])

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.aafter_agent`."""
        await asyncio.to_thread(self._finish, self._view(runtime), state["messages"])

    def _view(self, runtime: Runtime[Any] | None) -> MemOS:
        ids = ids_of_run(runtime)
        return self._memos.scoped(user=ids.get("user_id"), session=ids.get("thread_id")).in_session()

    def _with_memories(self, request: ModelRequest[Any], view: MemOS) -> ModelRequest[Any]:
        at = _last(request.messages, HumanMessage)
        if at is None or not self._k:
            return request
        asked = request.messages[at]
        question = str(asked.text) if _said(asked) else "\n".join(self._heard.get(view.scope, []))
        if not question.strip():
            return request
        hits = view.recall(question, k=self._k, accept=unsaid(str(m.text) for m in request.messages))
        if not hits:
            return request
        note = memory_note(hit.cube for hit in hits)
        content: Any = (
            f"{note}\n\n{asked.content}"
            if isinstance(asked.content, str)
            else [{"type": "text", "text": note}, *asked.content]
        )
        messages = [*request.messages]
        messages[at] = asked.model_copy(update={"content": content})
        return request.override(messages=messages)

    def _hear(self, view: MemOS, messages: Sequence[AnyMessage]) -> None:
        """Note what the user said, before another middleware may take it out of the state within the turn."""
        if self._remember and messages and _said(messages[-1]):
            with self._lock:
                self._heard[view.scope] = _question(messages)
                self._heard.move_to_end(view.scope)
                while len(self._heard) > _MOST:
                    self._heard.popitem(last=False)

    def _finish(self, view: MemOS, messages: Sequence[AnyMessage]) -> None:
        with self._lock:
            heard = self._heard.pop(view.scope, [])
        if self._remember:
            said = _question(messages) or heard
            turn = [{"role": "user", "content": text} for text in said]
            answered = _last(messages, AIMessage)
            if turn and answered is not None and not any(map(_said, messages[answered:])):
                answer = str(messages[answered].text)
                turn += [{"role": "assistant", "content": answer}] if answer.strip() else []
            if turn:
                view.remember(turn)
        view.turn_finished()


def _said(message: AnyMessage) -> bool:
    """Whether a message is the user's own: LangChain writes summaries of a conversation as if they were."""
    return isinstance(message, HumanMessage) and "lc_source" not in message.additional_kwargs


def _question(messages: Sequence[AnyMessage]) -> list[str]:
    """What the user said last, in one message or several."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], HumanMessage)), -1)
    said: list[str] = []
    while last >= 0 and _said(messages[last]):
        said.insert(0, str(messages[last].text))
        last -= 1
    return said


def _last(messages: Sequence[AnyMessage], kind: type[AnyMessage]) -> int | None:
    return next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], kind)), None)
