"""mem0's `Memory` and `AsyncMemory` over a MemOS vault: `from mem0_memos import Memory`. `MemoryClient` and
`AsyncMemoryClient` talk to a server of mem0's hosted API; `install()` makes `import mem0` this package.

Signatures, results and errors are those of mem0ai 2.2.1; the call forms of 0.1 and 1.x (ids and `limit=` as
arguments of `search` and `get_all`, `data=` in `update`) work as well. mem0 itself is not imported; nothing
is sent anywhere. What differs, and why:

- A memory is a cube that every adapter shares. `get_all` and `search` also show what others wrote, typed
  facts and LangGraph items included, but not the verbatim messages of conversations.
- `add(infer=True)` needs no language model: it keeps the first-person statements of the user's messages, each
  once within the same ids. The messages themselves are not kept.
- `user_id="alice"` is that user's memory alone. A read or deletion that names an agent or run and no user is
  about all users who have memories with it, as in mem0, if the MemOS is the operator's; a MemOS that belongs
  to one user never leaves that user, whatever ids are passed. "*" as the only id is refused.
- `delete` and `delete_all` remove the text everywhere; `history` of a deleted memory has its events, no text.
- `delete_all` and `reset` remove all that match, in one transaction; concurrent updates are all kept.
- Filters: every operator works, in `get_all` too and nested to any depth; `icontains` ignores case; `"*"`
  means that the field is there.
- `score` is the cosine to the query. Errors are `MemOSError`s that are also `ValueError`s.
"""

from mem0_memos.aio import AsyncMemory
from mem0_memos.client import AsyncMemoryClient, MemoryClient
from mem0_memos.errors import LLMError, MemoryNotFound, ValidationError
from mem0_memos.memory import Memory
from mem0_memos.modules import install, uninstall

__all__ = [
    "AsyncMemory",
    "AsyncMemoryClient",
    "LLMError",
    "Memory",
    "MemoryClient",
    "MemoryNotFound",
    "ValidationError",
    "install",
    "uninstall",
]
