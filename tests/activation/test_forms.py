"""KV in fewer bits, and KV files that are encrypted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the [encryption] extra is not installed")

import torch

from memos_core import MemOS
from memos_core.activation import (
    ActivationEngine,
    GenerateOptions,
    LoadedModel,
    all_files,
    read_header,
    verify_file,
)
from memos_core.activation.forms import form_of
from memos_core.cube import Scope
from memos_core.errors import InvalidArgument, KVCorrupt

from .tiny import make_kv

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"
ALICE = Scope(user="alice")
SHORT = GenerateOptions(max_new_tokens=8)


def prompt(n: int, start: int = 3) -> list[int]:
    return [start + i % 300 for i in range(n)]


def reply(engine: ActivationEngine, tokens: list[int]) -> tuple[str, int, str]:
    text, usage = engine.generate(tokens, ALICE, SHORT)
    return text, usage.cached_tokens, usage.tier


@pytest.mark.parametrize(("name", "worst"), [("int8", 0.005), ("fp8", 0.07)])
def test_what_is_packed_comes_back_nearly_as_it_was(name: str, worst: float) -> None:
    form = form_of(name)  # type: ignore[arg-type]
    keys, values = torch.randn(1, 3, 50, 16), torch.randn(1, 3, 50, 16) * 1e-3
    values[0, 0, 7] = 0.0
    stored = form.pack(keys, values)
    assert sum(t.nbytes for t in stored) == 2 * 3 * 50 * (16 + 4)
    assert len(stored) == len(form.parts)
    for whole, back in zip((keys, values), form.unpack(stored, torch.float32), strict=True):
        largest = whole.abs().amax(dim=-1, keepdim=True)
        assert bool(((whole - back).abs() <= worst * largest).all())
    again = form.pack(*form.unpack(stored, torch.float32))
    for once, twice in zip(
        form.unpack(stored, torch.float32), form.unpack(again, torch.float32), strict=True
    ):
        assert torch.allclose(once, twice, rtol=1e-5, atol=0)  # reading a file changes nothing more


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_kv_in_8_bits_is_held_saved_and_kept_from_exact_engines(
    loaded: LoadedModel, tmp_path: Path, name: str
) -> None:
    small = ActivationEngine(loaded, kv_dir=tmp_path, quantization=name)  # type: ignore[arg-type]
    exact = ActivationEngine(loaded, kv_dir=tmp_path)
    small.prefill(prompt(60), ALICE, save=True)
    assert small.stats()["memory_bytes"] == 60 * small.store.token_bytes
    assert (
        small.store.token_bytes < 0.7 * exact.store.token_bytes
    )  # of 8 dimensions a head: 8 + 4 bytes, not 32
    first = reply(small, prompt(80))
    assert first[1:] == (60, "memory")
    assert reply(exact, prompt(80))[1:] == (0, "none")
    again = ActivationEngine(loaded, kv_dir=tmp_path, quantization=name)  # type: ignore[arg-type]
    assert reply(again, prompt(80)) == (first[0], 60, "disk")
    assert [verify_file(path).dtype for path in all_files(tmp_path)] == [f"float32 {name}"]


def test_another_quantization_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(InvalidArgument, match="quantization='int4'"):
        ActivationEngine(loaded, quantization="int4")  # type: ignore[arg-type]


def test_an_encrypted_file_shows_no_tokens_and_serves_who_has_the_key(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    engine = ActivationEngine(loaded, kv_dir=tmp_path, encryption=KEY)
    plain = ActivationEngine(loaded, kv_dir=tmp_path / "plain")
    expected, _, _ = reply(plain, prompt(80))
    engine.prefill(prompt(60), ALICE, save=True, derived_from=[("cube-1", 1)])
    plain.prefill(prompt(60), ALICE, save=True)
    [path], [open_] = list(all_files(tmp_path)), list(all_files(tmp_path / "plain"))
    ids = torch.tensor(prompt(60)).numpy().tobytes()
    assert ids in open_.read_bytes()
    assert ids not in path.read_bytes()
    assert path.name != open_.name  # whoever guesses the tokens cannot tell from the name
    assert KEY not in path.read_bytes()
    assert verify_file(path).derived_from == (("cube-1", 1),)
    again = ActivationEngine(loaded, kv_dir=tmp_path, encryption=KEY)
    assert reply(again, prompt(80)) == (expected, 60, "disk")
    assert plain.store.drop(cube_ids=["cube-1"]) == 0
    keyless = ActivationEngine(loaded, kv_dir=tmp_path)
    assert keyless.store.drop(cube_ids=["cube-1"]) == 1  # erasing needs no key
    assert not path.exists()


def test_files_of_another_key_or_of_none_are_left_alone(
    loaded: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for encryption in (False, KEY, OTHER):
        engine = ActivationEngine(loaded, kv_dir=tmp_path, encryption=encryption)
        assert reply(engine, prompt(80))[1:] == (0, "none")
        engine.prefill(prompt(60), ALICE, save=True)
        assert engine.stats()["disk_files"] == 1
        assert engine.stats()["damaged"] == 0
    assert len(list(all_files(tmp_path))) == 3
    assert "another key" in caplog.text


def test_an_encrypted_file_that_was_changed_or_moved_is_a_miss(loaded: LoadedModel, tmp_path: Path) -> None:
    engine = ActivationEngine(loaded, kv_dir=tmp_path, encryption=KEY)
    first = engine.prefill(prompt(60), ALICE, save=True)
    second = engine.prefill(prompt(60, 50), ALICE, save=True)
    paths = {kv.key: engine.store.disk.path(kv.key) for kv in (first, second)}  # type: ignore[union-attr]
    whole = paths[first.key].read_bytes()
    paths[second.key].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    paths[first.key].unlink()
    again = ActivationEngine(loaded, kv_dir=tmp_path, encryption=KEY)
    assert reply(again, prompt(80))[1] == 0
    assert again.stats()["damaged"] == 1
    with pytest.raises(KVCorrupt):
        verify_file(paths[second.key])


def test_the_vault_passes_its_key_on(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY.decode())
    with MemOS.open(tmp_path / "v", user="alice", embedder=None, model=loaded, encryption=True) as memos:
        memos.engine  # noqa: B018 - loads it
        memos.write("keeps the spare key of the boathouse under the third flowerpot from the left")
        memos.turn_finished()
        assert memos.scheduler.wait_idle()
    [path] = all_files(tmp_path / "v" / "kv")
    assert read_header(path).sealed
    for bad in (b"short", "a text"):
        with pytest.raises(InvalidArgument, match="encryption"):
            MemOS.open(tmp_path / "v", embedder=None, model=loaded, encryption=bad)  # type: ignore[arg-type]


def test_what_is_stored_of_a_prefix_has_the_tokens_at_dimension_2() -> None:
    kv = make_kv(20)
    for name in (None, "int8", "fp8"):
        for keys, values in kv.layers:
            assert {t.shape[2] for t in form_of(name).pack(keys, values)} == {20}  # type: ignore[arg-type]
