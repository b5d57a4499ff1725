"""What tests of several folders need: an embedder without a model, and scripts in fresh interpreters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from memos_core import MemOS

TESTS = Path(__file__).parent
DIMS = 256


def bag_of_words(texts: Sequence[str]) -> list[list[float]]:
    """Vectors that are near where texts share words: each word adds 1 at a place that its hash chooses."""
    vectors = np.zeros((len(texts), DIMS), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            digest = blake2b(word.encode(errors="replace"), digest_size=4).digest()
            row[int.from_bytes(digest, "big") % DIMS] += 1.0
    return vectors.tolist()


def environment() -> dict[str, str]:
    """The environment of a fresh interpreter that can import `memos_core` and this file, and nothing else new."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def run_script(code: str, *args: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter; `args` are its `sys.argv[1:]`. The timeout only ends a hang."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )


def findings(memos: MemOS) -> list[str]:
    """What `memos.doctor()` finds wrong, a line each."""
    return [str(finding) for finding in memos.doctor().findings]


def flip(file: Path, content: bytes, mask: int) -> int:
    """Damage a file: wherever it holds `content`, the bits of `mask` change in the last byte of that. Returns how
    often."""
    whole = file.read_bytes()
    damaged = content[:-1] + bytes([content[-1] ^ mask])
    file.write_bytes(whole.replace(content, damaged))
    return whole.count(content)
