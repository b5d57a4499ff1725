"""LangGraph checkpoints as rows of bytes."""

from __future__ import annotations

from memos_core.vault.connect import Database


class CheckpointTable:
    def __init__(self, db: Database) -> None:
        self._db = db
