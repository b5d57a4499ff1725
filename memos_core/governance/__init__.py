"""Who may do what, for how long a cube lives, and what happens to duplicates. Every call of every adapter passes
through `effective_scope`."""

from memos_core.governance.access import effective_scope
from memos_core.governance.duplicates import DuplicatePolicy, merge_content
from memos_core.governance.lifecycle import DecayPolicy, LifecyclePolicy, Step

__all__ = [
    "DecayPolicy",
    "DuplicatePolicy",
    "LifecyclePolicy",
    "Step",
    "effective_scope",
    "merge_content",
]
