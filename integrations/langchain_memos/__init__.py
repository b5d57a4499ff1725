"""MemOS for LangChain: a chat model over KV memory, and memory, middleware and a retriever over the same vault."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_memos.chat_models import ChatMemOS
    from langchain_memos.history import MemOSChatMessageHistory
    from langchain_memos.memory import MemOSMemory
    from langchain_memos.middleware import MemOSMiddleware
    from langchain_memos.retriever import MemOSRetriever

__all__ = ["ChatMemOS", "MemOSChatMessageHistory", "MemOSMemory", "MemOSMiddleware", "MemOSRetriever"]

# Each class comes with its own dependencies (langchain-classic, torch): import only what is asked for.
_HOME = {
    "ChatMemOS": "chat_models",
    "MemOSChatMessageHistory": "history",
    "MemOSMemory": "memory",
    "MemOSMiddleware": "middleware",
    "MemOSRetriever": "retriever",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'langchain_memos' has no attribute {name!r}")
    return getattr(import_module(f"langchain_memos.{_HOME[name]}"), name)
