"""The peers of `benchmarks.ttft` that need an environment of their own, and how one is asked."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.peers.lines import Child, ChildFailed
from benchmarks.venvs import LLAMA, UPSTREAM, Venv
from memos_core.activation import LOCAL_MODELS, ActivationEngine
from memos_core.localfiles import cache_folder


class Answer(NamedTuple):
    """A first token.

    Args:
        seconds: until it was known.
        token: its id; a peer says its text.
        problem: why there is none.
        cached: tokens that a peer's cache held before it was asked, where it says so.
    """

    seconds: float
    token: int | str | None
    problem: str = ""
    cached: int | None = None


class Peer:
    """One peer. A process of its own answers all cells; each question to a file gets a new one.

    Args:
        venv: where it runs.
        ways: its methods that answer, in the order in which they are asked; ``"file"`` is the new process's.
        settings: of the class that its module serves.
    """

    def __init__(self, venv: Venv, ways: tuple[str, ...], **settings: Any) -> None:
        self.name, self.about, self.ways = venv.name, f"{venv.about}; {', '.join(venv.packages)}", ways
        self._venv = venv
        self._scratch = tempfile.TemporaryDirectory()
        self._settings = settings | {"scratch": self._scratch.name, "threads": torch.get_num_threads()}
        self._child: Child | None = None
        self._cell: dict[str, list[int]] = {}
        self._problem = ""

    def prepare(self, context: list[int], query: list[int]) -> None:
        """Let it compute and save a cell's context."""
        self._cell = {"context": context, "query": query}
        try:
            self._child = self._child or self._open()
            self._child.ask("prepare", **self._cell)
            self._problem = ""
        except ChildFailed as err:
            self._problem = str(err)
            self.close()

    def ask(self, way: str) -> Answer:
        """The first token of the cell that was prepared last."""
        if self._child is None:
            return Answer(0, None, self._problem)
        try:
            if way == "file":
                second = self._open()
                try:
                    answer = second.ask(way, **self._cell)
                finally:
                    second.close()
            else:
                answer = self._child.ask(way)
        except ChildFailed as err:
            return Answer(0, None, str(err))
        return Answer(answer["seconds"], answer["text"], cached=answer.get("cached"))

    def _open(self) -> Child:
        return Child(self._venv.python, self._venv.module, **self._settings)

    def close(self) -> None:
        """End its process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def open_peers(engine: ActivationEngine, make: bool, keep: ExitStack) -> tuple[list[Peer], list[str]]:
    """The peers that can run beside this engine.

    Args:
        engine: ours; the peers get its weights and its threads.
        make: make the environments that are not there.
        keep: closes the peers.

    Returns:
        The peers, and a line for each that is left out.
    """
    model = LOCAL_MODELS.get(engine.name)
    if model is None or engine.model.device.type != "cpu" or engine.model.dtype != torch.float32:
        why = f"measured on the CPU with smollm2-135m in float32, not with {engine.name} here"
        return [], [f"{venv.name}: {why}" for venv in (UPSTREAM, LLAMA)]
    unpacked = cache_folder() / "peers" / f"{model.sha256[:12]}-f32.gguf"
    settings: dict[Venv, dict[str, Any]] = {
        UPSTREAM: {
            "ways": ("memory", "again", "file"),
            "model": str(Path(engine.model.name_or_path).resolve()),
        },
        LLAMA: {
            "ways": ("full", "memory", "file"),
            "gguf": str(model.path()),
            "unpacked": str(unpacked),
            "context_length": engine.context_length,
        },
    }
    peers, skipped = [], []
    for venv, about in settings.items():
        if make:
            venv.make()
        if not venv.made:
            skipped.append(f"{venv.name}: its environment is not there; --peers makes it (some minutes)")
            continue
        peers.append(Peer(venv, **about))
        keep.callback(peers[-1].close)
    return peers, skipped
