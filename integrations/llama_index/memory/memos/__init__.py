"""MemOS under LlamaIndex: `from llama_index.memory.memos import MemOSMemory, MemOSLLM`."""

from llama_index.memory.memos.base import MemOSMemory
from llama_index.memory.memos.block import MemOSMemoryBlock
from llama_index.memory.memos.chat_store import MemOSChatStore, MemOSSimpleChatStore
from llama_index.memory.memos.llm import MemOSLLM
from llama_index.memory.memos.reopen import attach, close_reopened

__all__ = [
    "MemOSChatStore",
    "MemOSLLM",
    "MemOSMemory",
    "MemOSMemoryBlock",
    "MemOSSimpleChatStore",
    "attach",
    "close_reopened",
]
