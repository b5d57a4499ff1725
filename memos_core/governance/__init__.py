"""Who may do what. Every call of every adapter passes through `effective_scope`."""

from memos_core.governance.access import effective_scope

__all__ = ["effective_scope"]
