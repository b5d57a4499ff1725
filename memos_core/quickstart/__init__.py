"""`memos quickstart`: an agent learns something in one process and answers from memory in another."""

from memos_core.quickstart.run import run

__all__ = ["run"]
