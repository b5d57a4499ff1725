"""LangGraph's long-term store over a MemOS vault.

from langgraph.store.memos import MemOSStore

memos = MemOS.open(".memos/vault")
graph = builder.compile(store=MemOSStore(memos.scoped(user="alice")))
"""

from memos_core.errors import missing_extra

try:
    import langgraph.checkpoint.base
    import langgraph.store.base  # noqa: F401 - the official packages that ours extend
except ImportError:
    raise missing_extra("langgraph", "langgraph") from None

from langgraph.store.memos.store import AsyncMemOSStore, MemOSStore

__all__ = ["AsyncMemOSStore", "MemOSStore"]
