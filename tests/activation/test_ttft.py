"""The benchmark of time to first token, run on a tiny model, and how it talks to its child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.lines import ROOT, Child, ChildFailed


def test_the_benchmark_runs_and_every_way_gives_the_same_first_token(tmp_path: Path) -> None:
    """In float32 it ends with an error where a first token differs."""
    figures = tmp_path / "figures.json"
    line = [
        sys.executable,
        "-m",
        "benchmarks.ttft",
        "--model",
        "random-tiny",
        "--quick",
        "--json",
        str(figures),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(figures.read_text())
    assert [(row["context"], row["query"], row["paper"]) for row in found["rows"]] == [
        (583, 167, 0.713),
        (2773, 167, 0.897),
    ]
    for row in found["rows"]:
        assert row["saved"] == pytest.approx(1 - row["memory"] / row["full"])
        assert row["floor saves"] == pytest.approx(1 - row["floor"] / row["full"])
        assert (row["saved"] >= row["paper"]) == (row["reached"] == "yes")
    assert [line.partition(":")[0] for line in found["skipped"]] == ["upstream", "llama.cpp"]


def test_what_a_child_raises_is_told() -> None:
    with pytest.raises(ChildFailed, match="ModuleNotFoundError: No module named 'xllamacpp'"):
        Child(
            sys.executable,
            "benchmarks.peers.llama_cpp",
            gguf="",
            unpacked="",
            scratch="",
            threads=1,
            context_length=8,
        )


def test_a_child_that_ends_is_told_with_its_last_words() -> None:
    with pytest.raises(ChildFailed, match=r"ended with code 1: .*No module named benchmarks\.peers\.nothing"):
        Child(sys.executable, "benchmarks.peers.nothing")
