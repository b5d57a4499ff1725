"""A flipped bit in a stored checkpoint: one clear error that names the thread, and the other threads go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint
from support import findings, flip

from langgraph.checkpoint.memos import MemOSSaver
from memos_core.errors import VaultError
from memos_core.memos import MemOS

Make = Callable[..., Checkpoint]
THREADS = ("trip-one", "trip-two", "trip-three")


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name, "checkpoint_ns": ""}}


def filled(vault: Path, make: Make) -> dict[str, RunnableConfig]:
    """Three threads of two checkpoints each, the second with a pending write. Returns the second's configs."""
    latest: dict[str, RunnableConfig] = {}
    with MemOS.open(vault, embedder=None) as memos:
        saver = MemOSSaver(memos)
        for name in THREADS:
            config = thread(name)
            for step in (1, 2):
                checkpoint = make({"a": str(step)}, a=f"value {step} of {name} " + "x" * 50)
                checkpoint["versions_seen"] = {"node": {f"seen {step} by {name}": "1"}}
                config = saver.put(
                    config,
                    checkpoint,
                    {"source": "loop", "step": step, "run": f"run {step} of {name}"},
                    {"a": str(step)},
                )
            saver.put_writes(config, [("b", f"pending in {name} " + "x" * 50)], "task")
            latest[name] = config
        assert findings(memos) == []
    return latest


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("what", ["value 2 of", "seen 2 by", "pending in", "run 2 of"])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(vault: Path, make: Make, what: str, mask: int) -> None:
    filled(vault, make)
    assert flip(vault / "vault.db", f"{what} trip-two".encode(), mask) > 0
    with MemOS.open(vault, embedder=None) as memos:
        saver = MemOSSaver(memos)
        with pytest.raises(VaultError, match="trip-two") as err:
            saver.get_tuple(thread("trip-two"))
        assert "\n" not in str(err.value)
        with pytest.raises(VaultError, match="trip-two"):
            list(saver.list(thread("trip-two")))
        for name in ("trip-one", "trip-three"):
            latest = saver.get_tuple(thread(name))
            assert latest is not None
            assert latest.checkpoint["channel_values"]["a"].startswith(f"value 2 of {name} ")
            assert len(list(saver.list(thread(name)))) == 2
        assert any("trip-two" in finding for finding in findings(memos))
        saver.delete_thread("trip-two")
        assert findings(memos) == []


def test_the_checkpoint_before_a_damaged_one_can_be_continued(vault: Path, make: Make) -> None:
    latest = filled(vault, make)
    flip(vault / "vault.db", b"value 2 of trip-two", 0x01)
    with MemOS.open(vault, embedder=None) as memos:
        saver = MemOSSaver(memos)
        with pytest.raises(VaultError, match="trip-two"):
            saver.get_tuple(thread("trip-two"))
        [earlier] = saver.list(thread("trip-two"), before=latest["trip-two"])
        assert earlier.checkpoint["channel_values"]["a"].startswith("value 1 of trip-two ")
