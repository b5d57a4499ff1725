"""LangGraph checkpointers over a MemOS vault.

from langgraph.checkpoint.memos import MemOSSaver

with MemOSSaver.from_conn_string(".memos/vault") as saver:
    graph = builder.compile(checkpointer=saver)
"""

from memos_core.errors import missing_extra

try:
    import langgraph.checkpoint.base
    import langgraph.store.base  # noqa: F401 - the official packages that ours extend
except ImportError:
    raise missing_extra("langgraph", "langgraph") from None

from langgraph.checkpoint.memos.saver import AsyncMemOSSaver, MemOSSaver

__all__ = ["AsyncMemOSSaver", "MemOSSaver"]
