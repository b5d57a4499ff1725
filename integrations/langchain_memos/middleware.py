"""MemOSMiddleware: memory for the agents of `langchain.agents.create_agent`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from memos_core import arguments
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

    def wrap_model_call(self, request: ModelRequest[Any], handler: _Handler) -> ModelResponse[Any]:
        """See `AgentMiddleware.wrap_model_call`."""
        return handler(self._with_memories(request, self._view(request.runtime)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: _AsyncHandler
    ) -> ModelResponse[Any]:
        """See `AgentMiddleware.awrap_model_call`."""
        view = self._view(request.runtime)
        return await handler(await asyncio.to_thread(self._with_memories, request, view))

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.after_agent`."""
        self._finish(self._view(runtime), state["messages"])

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """See `AgentMiddleware.aafter_agent`."""
        await asyncio.to_thread(self._finish, self._view(runtime), state["messages"])

    def _view(self, runtime: Runtime[Any] | None) -> MemOS:
        ids = ids_of_run(runtime)
        return self._memos.scoped(user=ids.get("user_id"), session=ids.get("thread_id"))

    def _with_memories(self, request: ModelRequest[Any], view: MemOS) -> ModelRequest[Any]:
        at = _last(request.messages, HumanMessage)
        question = str(request.messages[at].text) if at is not None else ""
        if at is None or not self._k or not question.strip():
            return request
        hits = view.recall(question, k=self._k, accept=unsaid(str(m.text) for m in request.messages))
        if not hits:
            return request
        note = memory_note(hit.cube for hit in hits)
        asked = request.messages[at]
        content: Any = (
            f"{note}\n\n{asked.content}"
            if isinstance(asked.content, str)
            else [{"type": "text", "text": note}, *asked.content]
        )
        messages = [*request.messages]
        messages[at] = asked.model_copy(update={"content": content})
        return request.override(messages=messages)

    def _finish(self, view: MemOS, messages: Sequence[AnyMessage]) -> None:
        asked, answered = _last(messages, HumanMessage), _last(messages, AIMessage)
        if self._remember and asked is not None:
            turn = [{"role": "user", "content": str(messages[asked].text)}]
            if answered is not None and answered > asked and str(messages[answered].text).strip():
                turn.append({"role": "assistant", "content": str(messages[answered].text)})
            view.remember(turn)
        view.turn_finished()


def _last(messages: Sequence[AnyMessage], kind: type[AnyMessage]) -> int | None:
    return next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], kind)), None)
