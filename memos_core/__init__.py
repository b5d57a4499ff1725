"""A memory operating system for AI agents: typed MemCubes in one durable vault, their KV cache preloaded.

Nothing is imported before it is used, so `import memos_core` is quick and pulls in no torch, transformers,
chromadb or agent framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos_core.cube import (
        Activation,
        Fact,
        MemCube,
        Message,
        Parametric,
        Plaintext,
        Preference,
        Principal,
        Scope,
        State,
    )
    from memos_core.doctor import Finding, Report
    from memos_core.erasure import Erasure, Trace
    from memos_core.errors import MemOSError
    from memos_core.governance import DecayPolicy, DuplicatePolicy, LifecyclePolicy, Step
    from memos_core.memos import MemOS, Prompt
    from memos_core.retrieval import Hit

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "DecayPolicy",
    "DuplicatePolicy",
    "Erasure",
    "Fact",
    "Finding",
    "Hit",
    "LifecyclePolicy",
    "MemCube",
    "MemOS",
    "MemOSError",
    "Message",
    "Parametric",
    "Plaintext",
    "Preference",
    "Principal",
    "Prompt",
    "Report",
    "Scope",
    "State",
    "Step",
    "Trace",
    "__version__",
]

_HOME = {
    "MemOS": "memos",
    "Prompt": "memos",
    "Hit": "retrieval",
    "Erasure": "erasure",
    "Trace": "erasure",
    "Finding": "doctor",
    "Report": "doctor",
    "MemOSError": "errors",
    **dict.fromkeys(("DecayPolicy", "DuplicatePolicy", "LifecyclePolicy", "Step"), "governance"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'memos_core' has no attribute {name!r}")
    value = getattr(import_module(f"memos_core.{_HOME.get(name, 'cube')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
