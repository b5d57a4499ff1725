"""The peers' environments: which packages, where, and making them."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.lines import spoken
from memos_core.localfiles import cache_folder


@dataclass(frozen=True)
class Venv:
    """A virtual environment for one peer, under the cache folder.

    Args:
        name: of the peer, as the tables call it.
        packages: what it holds, pinned; another pin is another environment.
        module: what runs in it.
        about: how to read its figures.
    """

    name: str
    packages: tuple[str, ...]
    module: str
    about: str

    @property
    def folder(self) -> Path:
        """Where it is, once it has been made."""
        pins = " ".join((sys.version, *self.packages))
        return cache_folder() / "peers" / f"{self.name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        windows = sys.platform == "win32"
        return self.folder / ("Scripts/python.exe" if windows else "bin/python")

    @property
    def made(self) -> bool:
        """Whether it is there, whole."""
        return (self.folder / ".installed").is_file()

    def make(self) -> None:
        """Make it where it is not there. An interrupted one is made again.

        Raises:
            ChildFailed: the packages cannot be installed.
        """
        if self.made:
            return
        print(f"installing {', '.join(self.packages)} in {self.folder} …", file=sys.stderr)
        spoken([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        spoken([*pip, *self.packages])
        (self.folder / ".installed").touch()


UPSTREAM = Venv(
    "upstream",
    # MemoryOS needs transformers < 5, and accelerate for the device_map that it passes without depending on it.
    ("MemoryOS==2.0.33", "transformers==4.57.6", "torch==2.13.0", "accelerate==1.15.0"),
    "benchmarks.peers.upstream",
    "KVCacheMemory and HFLLM.generate, the same weights; again: the same question once more, to the cache as the first "
    "left it, which is longer by that question, so that a right first token is luck; file: load of the dump and the "
    "first question, in a new process; saved: against full of ours",
)
LLAMA = Venv(
    "llama.cpp",
    ("xllamacpp==2026.10.11549", "gguf==0.19.0"),
    "benchmarks.peers.llama_cpp",
    "the same weights unpacked to a float32 GGUF, float32 KV; file: a saved slot restored in a new process; saved: "
    "against its own full",
)
