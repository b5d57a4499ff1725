"""MemOS under LlamaIndex: `from llama_index.memory.memos import MemOSMemory`."""

from llama_index.memory.memos.base import MemOSMemory
from llama_index.memory.memos.reopen import attach, close_reopened

__all__ = ["MemOSMemory", "attach", "close_reopened"]
