"""The disk tier: whole files or none, damaged and foreign ones never used, and nothing past the budget."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memos_core.activation import (
    ActivationEngine,
    GenerateOptions,
    Identity,
    KVStore,
    LoadedModel,
    all_files,
    drop_files,
    read_header,
    verify_file,
)
from memos_core.activation.header import TEMPORARY
from memos_core.cube.scope import Scope
from memos_core.errors import KVCorrupt, KVError, KVMismatch

from .tiny import IDENTITY, kv_digest, make_kv, make_model, make_tokenizer

PROMPT = list(range(10, 90))
FEW = GenerateOptions(max_new_tokens=4)


@pytest.fixture
def store(kv_dir: Path) -> KVStore:
    return KVStore(IDENTITY, disk_dir=kv_dir)


def flip(path: Path, at: int) -> None:
    """Change one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# Round trip


def test_a_saved_prefix_comes_back_bit_by_bit(store: KVStore, kv_dir: Path) -> None:
    kv = make_kv(50, sources=[("a", 1), ("b", 7)])
    path = store.save(kv)
    assert path == kv_dir / IDENTITY.model[:16] / f"{kv.key}.safetensors"
    back = store.load(path)
    assert (back.tokens, back.salt, back.derived_from, back.key) == (
        kv.tokens,
        kv.salt,
        kv.derived_from,
        kv.key,
    )
    assert kv_digest(back) == kv_digest(kv)

    about = verify_file(path)
    assert about == read_header(path)
    assert (about.n_tokens, about.nbytes, about.identity) == (50, path.stat().st_size, IDENTITY)
    assert about.tokens().tolist() == list(range(50))
    assert store.scan() == store.scan("salt") == [about]
    assert store.scan("other") == []
    if os.name == "posix":
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_bfloat16_comes_back(kv_dir: Path) -> None:
    identity = Identity("c" * 64, "d" * 64, "bfloat16")
    kept = KVStore(identity, disk_dir=kv_dir)
    kv = make_kv(40, identity=identity)
    halves = type(kv).of(identity, "salt", kv.tokens, [(k.bfloat16(), v.bfloat16()) for k, v in kv.layers])
    back = kept.load(kept.save(halves))
    assert all(
        torch.equal(a, b)
        for x, y in zip(back.layers, halves.layers, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_fetch_makes_resident(store: KVStore, kv_dir: Path) -> None:
    kv = make_kv(50)
    store.save(kv)
    other = KVStore(IDENTITY, disk_dir=kv_dir)
    assert other.fetch(kv.key).key == kv.key
    assert other.match("salt", range(50)) is not None
    with pytest.raises(KVError):
        other.fetch("0" * 32)


def test_saving_again_writes_only_when_there_is_something_new(store: KVStore) -> None:
    path = store.save(make_kv(50, sources=[("a", 1)]))
    first = path.stat().st_ino
    assert store.save(make_kv(50)).stat().st_ino == first
    store.save(make_kv(50, sources=[("b", 1)]))
    assert read_header(path).derived_from == (("a", 1), ("b", 1))
    assert verify_file(path).key == path.stem


def test_the_longest_file_is_found_and_short_gains_are_left(store: KVStore, kv_dir: Path) -> None:
    for n in (40, 100, 160):
        store.save(make_kv(n))
    other = KVStore(IDENTITY, disk_dir=kv_dir)
    hit = other.find("salt", range(120))
    assert hit is not None
    assert (hit.n_tokens, hit.tier) == (120, "disk")
    hit = other.find("salt", range(160))
    assert hit is not None
    assert (hit.n_tokens, hit.tier) == (160, "disk")
    few = KVStore(IDENTITY, disk_dir=kv_dir)
    assert few.find("salt", range(31)) is None  # less than a block: computing it is quicker
    assert few.find("other", range(120)) is None


# Another model


@pytest.mark.parametrize("part", ["model", "tokenizer", "dtype"])
def test_a_file_of_another_model_is_refused(store: KVStore, kv_dir: Path, part: str) -> None:
    fields = {"model": IDENTITY.model, "tokenizer": IDENTITY.tokenizer, "dtype": "float32"}
    other = KVStore(Identity(**(fields | {part: "f" * 64})), disk_dir=kv_dir)
    path = store.save(make_kv(50))
    copied = other.disk.path(path.stem)  # type: ignore[union-attr]
    copied.parent.mkdir(exist_ok=True)
    if copied != path:
        shutil.copy(path, copied)
    with pytest.raises(KVMismatch, match=part):
        other.load(copied)
    assert other.find("salt", range(50)) is None
    assert other.scan() == []


def test_another_models_engine_never_attaches(
    engine: ActivationEngine, kv_dir: Path, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    kv = engine.prefill(PROMPT, scope, save=True)
    tokenizer = engine.tokenizer
    others = {
        "weights": ActivationEngine(
            LoadedModel(make_model(len(tokenizer), seed=5), tokenizer, "x"), kv_dir=kv_dir
        ),
        "dtype": ActivationEngine(
            LoadedModel(make_model(len(tokenizer)).to(torch.bfloat16), tokenizer, "x"), kv_dir=kv_dir
        ),
        "tokenizer": ActivationEngine(
            LoadedModel(engine.model, make_tokenizer(size=300), "x"), kv_dir=kv_dir
        ),
    }
    source = next(all_files(kv_dir))
    for other in others.values():
        target = other.store.disk.path(kv.key)  # type: ignore[union-attr]
        target.parent.mkdir(exist_ok=True)
        if target != source:
            shutil.copy(source, target)
        assert other.generate(PROMPT, scope, FEW)[1].cached_tokens == 0
        with pytest.raises(KVMismatch):
            other.store.load(target)
    assert "belongs to another model" in caplog.text


def test_a_newer_format_is_refused(store: KVStore) -> None:
    path = store.save(make_kv(50))
    path.write_bytes(path.read_bytes().replace(b"memos-kv/1", b"memos-kv/2"))
    with pytest.raises(KVMismatch, match="memos-kv/2"):
        read_header(path)


# Damage


def test_truncation_is_noticed_at_every_length(store: KVStore) -> None:
    path = store.save(make_kv(40))
    data = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, 1000, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(KVCorrupt):
            store.load(path)
        with pytest.raises(KVCorrupt):
            verify_file(path)


def test_any_flipped_bit_is_noticed(store: KVStore) -> None:
    path = store.save(make_kv(33, sources=[("a", 1)]))
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    padding = len(data[8:header]) - len(data[8:header].rstrip(b" "))
    places = [*range(8, header - padding), *range(header, len(data), 211), len(data) - 1]
    for at in places:
        flip(path, at)
        with pytest.raises((KVCorrupt, KVMismatch)):
            store.load(path)
        path.write_bytes(data)
    assert store.load(path).key == path.stem


def test_a_header_that_is_no_kv_file(store: KVStore, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    for content in (path.read_bytes(), b"\x05\0\0\0\0\0\0\0[1,2]", b"\x02\0\0\0\0\0\0\0{}", os.urandom(200)):
        path.write_bytes(content)
        with pytest.raises(KVCorrupt):
            read_header(path)
    with pytest.raises(KVError, match="cannot be read"):
        read_header(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header"])
def test_on_the_request_path_a_damaged_file_is_a_miss(
    engine: ActivationEngine,
    loaded: LoadedModel,
    scope: Scope,
    kv_dir: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine.prefill(PROMPT, scope, save=True)
    expected = engine.generate(PROMPT, scope, FEW)[0]
    (path,) = all_files(kv_dir)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        flip(path, 20 if damage == "header" else path.stat().st_size - 300)
    other = ActivationEngine(loaded, kv_dir=kv_dir)
    with caplog.at_level(logging.WARNING, "memos_core.activation"):
        text, usage = other.generate(PROMPT, scope, GenerateOptions(max_new_tokens=4, keep=False))
        other.generate(PROMPT, scope, GenerateOptions(max_new_tokens=4, keep=False))
    assert (text, usage.cached_tokens, usage.tier) == (expected, 0, "none")
    assert other.stats()["damaged"] == len(caplog.records) == 1  # said once, not at every request
    assert str(path) in caplog.text

    other.prefill(PROMPT, scope, save=True)  # writing it again mends it
    third = ActivationEngine(loaded, kv_dir=kv_dir)
    assert third.generate(PROMPT, scope, FEW)[1].tier == "disk"


def test_with_one_file_damaged_the_next_best_is_used(store: KVStore, kv_dir: Path) -> None:
    long = store.save(make_kv(160))
    store.save(make_kv(100))
    flip(long, long.stat().st_size - 1)
    hit = KVStore(IDENTITY, disk_dir=kv_dir).find("salt", range(160))
    assert hit is not None
    assert (hit.n_tokens, hit.tier) == (100, "disk")


# Budget and erasure


def test_the_oldest_used_files_go_first(kv_dir: Path) -> None:
    size = KVStore(IDENTITY, disk_dir=kv_dir).save(make_kv(100)).stat().st_size
    kept = KVStore(IDENTITY, disk_dir=kv_dir, disk_budget=3 * size)
    paths = [kept.save(make_kv(100, start=start)) for start in (0, 1000, 2000)]
    for age, path in enumerate(paths):
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    kept.load(paths[0])  # used now
    fourth = kept.save(make_kv(100, start=3000))
    assert sorted(all_files(kv_dir)) == sorted([paths[0], paths[2], fourth])
    assert kept.stats["disk_bytes"] == 3 * size
    with pytest.raises(KVError, match="disk_budget"):
        kept.save(make_kv(1000))
    assert len(list(all_files(kv_dir))) == 3


def test_a_budget_covers_all_models(kv_dir: Path) -> None:
    old = KVStore(Identity("c" * 64, "b" * 64, "float32"), disk_dir=kv_dir)
    path = old.save(make_kv(100, identity=old.identity))
    kept = KVStore(IDENTITY, disk_dir=kv_dir, disk_budget=path.stat().st_size + 10)
    kept.save(make_kv(100))
    assert not path.exists()


def test_dropping_a_cube_reaches_every_model_and_unreadable_files(kv_dir: Path) -> None:
    stores = [KVStore(Identity(c * 64, "b" * 64, "float32"), disk_dir=kv_dir) for c in "abc"]
    for kept in stores:
        kept.save(make_kv(40, identity=kept.identity, sources=[("cube-1", 3)]))
        kept.save(make_kv(40, start=100, identity=kept.identity, sources=[("cube-2", 1)]))
    damaged = next(all_files(kv_dir))
    damaged.write_bytes(damaged.read_bytes()[:50])
    foreign = kv_dir / IDENTITY.model[:16] / "model.safetensors"
    foreign.write_bytes(b"not ours")
    stores[0].drop(cube_ids=["cube-1"])
    left = list(all_files(kv_dir))
    assert damaged not in left
    assert all(read_header(path).derived_from == (("cube-2", 1),) for path in left)
    assert len(left) in (2, 3)  # the damaged one may have been any
    assert foreign.exists()
    assert len(drop_files(kv_dir, ["cube-2"])) in (1, 2, 3)
    assert list(all_files(kv_dir)) == []


def test_dropping_a_cube_takes_half_written_files(store: KVStore) -> None:
    path = store.save(make_kv(40, sources=[("cube-1", 1)]))
    half = path.with_name(f".{path.stem}.abc{TEMPORARY}")
    half.write_bytes(path.read_bytes()[:-100])
    other = path.with_name(f".{path.stem}.abd{TEMPORARY}")
    other.write_bytes(path.read_bytes()[:20])
    assert store.drop(cube_ids=["cube-1"]) == 1
    assert not half.exists()
    assert other.exists()  # its header is not written yet, so it holds no KV


# Crashes, other processes, a full disk

CHILD = """
import sys
from pathlib import Path
from memos_core.activation import ActivationEngine, GenerateOptions, load_model
from memos_core.cube.scope import Scope
engine = ActivationEngine(load_model(sys.argv[1]), kv_dir=Path(sys.argv[2]))
scope = Scope(tenant="acme", user="alice")
prompt = list(range(10, 90))
"""


def child(code: str, *args: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_one_process_saved_another_one_uses(
    saved_model: Path, loaded: LoadedModel, kv_dir: Path, scope: Scope
) -> None:
    done = child(
        "engine.prefill(prompt, scope, save=True, derived_from=[('cube-1', 1)])", saved_model, kv_dir
    )
    assert done.returncode == 0, done.stderr
    engine = ActivationEngine(loaded, kv_dir=kv_dir)
    cold, _ = ActivationEngine(loaded).generate([*PROMPT, 7], scope, FEW)
    text, usage = engine.generate([*PROMPT, 7], scope, FEW)
    assert (text, usage.tier, usage.cached_tokens) == (cold, "disk", 80)

    engine.prefill([*PROMPT, *range(100, 200)], scope, save=True)
    code = (
        "print(engine.generate([*prompt, *range(100, 200), 7], scope, GenerateOptions(max_new_tokens=1))[1])"
    )
    done = child(code, saved_model, kv_dir)
    assert "cached_tokens=180" in done.stdout, done.stderr


KILL_MID_WRITE = """
import os, signal
from memos_core.activation import kvfile
def half(tensors, path, metadata, save=kvfile.save_file):
    save(tensors, path, metadata=metadata)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
kvfile.save_file = half
engine.prefill(prompt, scope, save=True)
"""
KILL_BEFORE_RENAME = """
import os, signal
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
engine.prefill(prompt, scope, save=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("code", [KILL_MID_WRITE, KILL_BEFORE_RENAME], ids=["mid-write", "before-rename"])
def test_a_kill_during_save_leaves_no_visible_file(
    saved_model: Path, loaded: LoadedModel, kv_dir: Path, scope: Scope, code: str
) -> None:
    done = child(code, saved_model, kv_dir)
    assert done.returncode == -signal.SIGKILL, done.stderr
    engine = ActivationEngine(loaded, kv_dir=kv_dir)
    assert list(all_files(kv_dir)) == engine.store.scan() == []
    assert engine.generate(PROMPT, scope, FEW)[1].tier == "none"
    (left,) = all_files(kv_dir, TEMPORARY)
    os.utime(left, (1_000_000, 1_000_000))
    ActivationEngine(loaded, kv_dir=kv_dir)  # opening removes what is old
    assert list(all_files(kv_dir, TEMPORARY)) == []


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kills_at_any_moment_leave_whole_files(saved_model: Path, kv_dir: Path) -> None:
    code = """
for i in range(1000):
    print("saving", flush=True)
    engine.prefill([10 + i % 300] + list(range(10, 380)) * 5, scope, save=True)
"""
    command = [sys.executable, "-c", CHILD + code, str(saved_model), str(kv_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "saving\n"
        process.kill()
    for path in all_files(kv_dir):
        assert verify_file(path).n_tokens == 1851


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_leaves_no_file(small_disk: Path) -> None:
    kept = KVStore(IDENTITY, disk_dir=small_disk)
    kept.save(make_kv(40))
    with pytest.raises(KVError, match="cannot be written"):
        kept.save(make_kv(8000, start=100))
    files = [p for p in small_disk.rglob("*") if p.is_file()]
    assert len(files) == 1
    assert verify_file(files[0]).n_tokens == 40
    kept.save(make_kv(40, start=50_000))  # and there is room again


def test_a_request_goes_on_when_the_disk_is_full(small_disk: Path, loaded: LoadedModel, scope: Scope) -> None:
    (small_disk / "filler").write_bytes(bytes(900_000))
    engine = ActivationEngine(loaded, kv_dir=small_disk)
    with pytest.raises(KVError, match="cannot be written"):
        engine.prefill(PROMPT * 20, scope, save=True)
    assert engine.generate([*PROMPT * 20, 5], scope, FEW)[1].cached_tokens == 1600  # it is in memory


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KVError, match="cannot be written"):
        KVStore(IDENTITY, disk_dir=tmp_path / "file").save(make_kv(10))


def test_the_header_is_readable_by_anything_that_reads_safetensors(store: KVStore) -> None:
    path = store.save(make_kv(40, sources=[("a", 1)]))
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    assert header["tokens"]["dtype"] == "I64"
    assert header["__metadata__"]["derived_from"] == '[["a", 1]]'
    assert header["layers.1.value"]["shape"] == [1, 2, 40, 8]


def test_a_file_that_takes_longer_to_read_than_to_compute_is_left_and_tried_again(
    store: KVStore, kv_dir: Path
) -> None:
    store.save(make_kv(160))
    other = KVStore(IDENTITY, disk_dir=kv_dir, memory_budget=0)
    assert other.find("salt", range(160), token_s=0.0) is not None  # how long it takes is not known yet
    assert other.find("salt", range(160), token_s=1e-12) is None
    assert other.find("salt", range(160), token_s=1.0) is not None
    assert other.find("salt", range(160)) is not None
    tries = [other.find("salt", range(160), token_s=1e-7) for _ in range(200)]
    assert any(tries)
