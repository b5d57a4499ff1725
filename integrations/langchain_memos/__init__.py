"""MemOS for LangChain: a chat model over KV memory, and memory, middleware, tools, a retriever, a vector store and a
cache over the same vault."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_memos.caches import MemOSCache, MemOSSemanticCache
    from langchain_memos.chat_models import ChatMemOS
    from langchain_memos.embeddings import MemOSEmbeddings
    from langchain_memos.history import MemOSChatMessageHistory
    from langchain_memos.memory import MemOSMemory
    from langchain_memos.middleware import MemOSMiddleware
    from langchain_memos.retriever import MemOSRetriever
    from langchain_memos.tools import memory_tools
    from langchain_memos.vectorstores import MemOSVectorStore

__all__ = [
    "ChatMemOS",
    "MemOSCache",
    "MemOSChatMessageHistory",
    "MemOSEmbeddings",
    "MemOSMemory",
    "MemOSMiddleware",
    "MemOSRetriever",
    "MemOSSemanticCache",
    "MemOSVectorStore",
    "memory_tools",
]

# Each class comes with its own dependencies (langchain-classic, torch): import only what is asked for.
_HOME = {
    "ChatMemOS": "chat_models",
    "MemOSCache": "caches",
    "MemOSChatMessageHistory": "history",
    "MemOSEmbeddings": "embeddings",
    "MemOSMemory": "memory",
    "MemOSMiddleware": "middleware",
    "MemOSRetriever": "retriever",
    "MemOSSemanticCache": "caches",
    "MemOSVectorStore": "vectorstores",
    "memory_tools": "tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'langchain_memos' has no attribute {name!r}")
    return getattr(import_module(f"langchain_memos.{_HOME[name]}"), name)
