"""LangGraph checkpointers over a MemOS vault.

from langgraph.checkpoint.memos import MemOSSaver

with MemOSSaver.from_conn_string(".memos/vault") as saver:
    graph = builder.compile(checkpointer=saver)
"""

from langgraph.checkpoint.memos.saver import AsyncMemOSSaver, MemOSSaver

__all__ = ["AsyncMemOSSaver", "MemOSSaver"]
