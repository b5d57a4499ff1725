"""The agent of the quickstart: a LangGraph graph over one MemOS. Two nodes: answer, then remember the turn."""

from __future__ import annotations

from typing import Any

from memos_core.errors import missing_extra
from memos_core.memos import MemOS

SYSTEM = "You are a helpful assistant who remembers what the user has told you."


def build(memos: MemOS, *, max_tokens: int) -> Any:
    """Compile the graph: messages in, the reply appended; every step goes through MemOSSaver into the vault.

    Args:
        memos: an open view with a model.
        max_tokens: the most tokens of a reply.

    Raises:
        MissingExtra: langgraph or langchain is not installed.
    """
    try:
        from langchain_core.messages import SystemMessage
        from langgraph.graph import END, START, MessagesState, StateGraph
    except ImportError:
        raise missing_extra("langgraph", "all") from None
    from langchain_core.runnables import RunnableConfig

    from langchain_memos import ChatMemOS
    from langgraph.checkpoint.memos import MemOSSaver

    model = ChatMemOS(memos=memos, max_tokens=max_tokens)

    def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [model.invoke([SystemMessage(SYSTEM), *state["messages"]], config)]}

    def remember(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        said, reply = state["messages"][-2:]
        where = config["configurable"]
        view = memos.scoped(user=where["user_id"], session=where["thread_id"], adapter="langgraph")
        view.remember([{"role": "user", "content": said.text}, {"role": "assistant", "content": reply.text}])
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("remember", remember)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "remember")
    graph.add_edge("remember", END)
    return graph.compile(checkpointer=MemOSSaver(memos))
