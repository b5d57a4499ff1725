"""KV caches of memories that are gone are gone: in memory and on disk, whichever process deleted the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.activation import LoadedModel, all_files, read_header

SAID = "I keep the spare key of the boathouse under the third flowerpot from the left."


@pytest.fixture
def open_memos(loaded: LoadedModel, tmp_path: Path) -> Iterator[Callable[[], MemOS]]:
    """Opens this test's vault with the tiny model, as another process would."""
    opened: list[MemOS] = []

    def open_() -> MemOS:
        opened.append(MemOS.open(tmp_path / "v", user="alice", embedder=None, model=loaded))
        return opened[-1]

    yield open_
    for memos in opened:
        memos.close()


def files(tmp_path: Path) -> list[Path]:
    return list(all_files(tmp_path / "v" / "kv"))


def resident(memos: MemOS) -> int:
    return memos.engine.store.stats["entries"]


def with_kv(memos: MemOS, tmp_path: Path) -> str:
    """A memory whose KV is on disk; its id."""
    cube = memos.write(SAID)
    assert memos.engine
    memos.turn_finished()
    assert memos.scheduler.wait_idle()
    assert [i for i, _ in read_header(files(tmp_path)[0]).derived_from] == [cube.id]
    assert resident(memos) == 1
    return cube.id


@pytest.mark.parametrize("by_id", [True, False])
def test_erasing_removes_the_kv_files(open_memos: Callable[[], MemOS], tmp_path: Path, by_id: bool) -> None:
    memos = open_memos()
    id_ = with_kv(memos, tmp_path)
    done = memos.erase(id_ if by_id else None)
    assert id_ in done.ids
    assert len(done.ids) == 2  # with the record of its KV
    assert done.clean
    assert files(tmp_path) == []
    assert resident(memos) == 0


def test_kv_that_cannot_be_removed_is_a_trace(
    open_memos: Callable[[], MemOS], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memos = open_memos()
    id_ = with_kv(memos, tmp_path)
    [file] = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _refuse)
        done = memos.erase(id_)
    assert "could not be removed" in done.note
    assert [(t.file, t.what, t.cube_id) for t in done.traces] == [(str(file), "KV cache", id_)]
    assert memos.doctor(repair=True).clean
    assert files(tmp_path) == []


def _refuse(self: Path, missing_ok: bool = False) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("action", ["delete", "erase"])
def test_kv_goes_when_another_process_deletes(
    open_memos: Callable[[], MemOS], tmp_path: Path, action: str
) -> None:
    here, there = open_memos(), open_memos()
    id_ = with_kv(here, tmp_path)
    there.engine.store.find  # noqa: B018 - the other process has the model loaded too
    getattr(there, action)(id_)
    assert files(tmp_path) == []
    here.turn_finished()
    assert here.scheduler.wait_idle()
    assert resident(here) == 0


def test_a_process_without_the_model_removes_the_files_too(
    open_memos: Callable[[], MemOS], tmp_path: Path
) -> None:
    id_ = with_kv(open_memos(), tmp_path)
    with MemOS.open(tmp_path / "v", user="alice", embedder=None) as other:
        assert other.erase(id_).clean
    assert files(tmp_path) == []


def test_kv_saved_but_of_cubes_that_are_gone_goes_at_the_next_loading(
    open_memos: Callable[[], MemOS], tmp_path: Path
) -> None:
    """As after a crash between the file and the record of it, and a deletion since."""
    memos = open_memos()
    id_ = with_kv(memos, tmp_path)
    [file] = files(tmp_path)
    kept = file.read_bytes()
    memos.delete(id_)
    memos.close()
    file.write_bytes(kept)
    with MemOS.open(tmp_path / "v", user="alice", embedder=None) as other:
        assert ["KV" in str(finding) for finding in other.doctor().findings] == [True]
    again = open_memos()
    assert again.engine
    assert files(tmp_path) == []
    assert again.doctor().findings == ()


def test_the_doctor_removes_damaged_kv(open_memos: Callable[[], MemOS], tmp_path: Path) -> None:
    memos = open_memos()
    with_kv(memos, tmp_path)
    [file] = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    report = memos.doctor()
    assert [f.kind for f in report.findings] == ["KV"]
    assert not report.clean
    assert memos.doctor(repair=True).clean
    assert files(tmp_path) == []
    assert memos.doctor().findings == ()
