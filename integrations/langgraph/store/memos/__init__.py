"""LangGraph's long-term store over a MemOS vault.

from langgraph.store.memos import MemOSStore

memos = MemOS.open(".memos/vault")
graph = builder.compile(store=MemOSStore(memos.scoped(user="alice")))
"""

from langgraph.store.memos.store import AsyncMemOSStore, MemOSStore

__all__ = ["AsyncMemOSStore", "MemOSStore"]
