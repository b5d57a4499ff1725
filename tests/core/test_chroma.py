"""Chroma may die: whatever happens to its files or its server, search finds what the vault holds."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import bag_of_words, environment, run_script

from memos_core import MemOS
from memos_core.errors import InvalidArgument
from memos_core.retrieval import ann, retriever
from memos_core.retrieval.chroma import ChromaIndex

pytest.importorskip("chromadb")

FACTS = [
    f"{animal} {verb} at {when}"
    for animal in ("heron", "otter", "badger")
    for verb in ("eats", "sleeps")
    for when in ("dawn", "noon", "dusk")
]


def open_(place: Path, index: str = "chroma", **how: Any) -> MemOS:
    return MemOS.open(
        place, **{"user": "u", "embedder": bag_of_words, "index": index, "lifecycle": None, **how}
    )


def finds_everything(memos: MemOS) -> None:
    for fact in FACTS:
        assert memos.search(fact, k=1)[0].cube.text == fact


def fed(memos: MemOS) -> list[str]:
    """What Chroma holds once it is fed."""
    assert memos.scheduler.wait_idle()
    memos._core.retriever.feed_index()
    index = memos._core.retriever._index()
    assert index is not None
    return sorted(index.ids())


def filled(memos: MemOS) -> MemOS:
    memos.put([memos.cube(fact) for fact in FACTS])
    finds_everything(memos)
    assert fed(memos) == sorted(c.id for c in memos.find())
    return memos


def cut(folder: Path) -> None:
    file = folder / "chroma.sqlite3"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def empty(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def replace(folder: Path) -> None:
    (folder / "chroma.sqlite3").unlink()
    (folder / "chroma.sqlite3").write_bytes(b"no database at all" * 500)


def garble(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            size = file.stat().st_size
            with file.open("r+b") as opened:
                opened.write(b"\xff" * size)


@pytest.mark.parametrize("damage", [shutil.rmtree, cut, empty, replace, garble])
def test_files_damaged_while_they_are_open_change_no_answer(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with filled(open_(tmp_path)) as memos:
        damage(tmp_path / "chroma")
        finds_everything(memos)
        new = memos.write("a kingfisher dives")
        assert memos.search("kingfisher", k=1)[0].cube.id == new.id
        finds_everything(memos)
    with open_(tmp_path) as memos:
        finds_everything(memos)
        assert fed(memos) == sorted(c.id for c in memos.find())


FEED = """
import sys
from support import bag_of_words
from memos_core import MemOS
from memos_core.retrieval import ann
ann._BATCH = 20
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index="chroma", lifecycle=None) as memos:
    for i in range(200):
        memos.put([memos.cube(f"fact{i} number{j}") for j in range(20)])
        memos._core.retriever.apply_pending()
        memos._core.retriever.feed_index()
        print("fed", i, flush=True)
"""


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_process_killed_while_it_feeds_leaves_nothing_wrong(tmp_path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FEED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for _ in range(after + 1):
            process.stdout.readline()
        time.sleep(0.01 * after)
        process.send_signal(signal.SIGKILL)
    with open_(tmp_path) as memos:
        every = memos.find()
        for cube in every[:: max(1, len(every) // 20)]:
            assert memos.search(cube.text, k=1)[0].cube.id == cube.id
        assert fed(memos) == sorted(c.id for c in every)


def test_a_copy_of_another_time_is_not_believed(tmp_path: Path) -> None:
    vault = tmp_path / "v"
    with open_(vault) as memos:
        cube = memos.write("the heron fishes")
        other = memos.write("the otter swims")
        fed(memos)
    shutil.copytree(vault / "chroma", tmp_path / "old")
    with open_(vault) as memos:
        memos.update(cube.id, "a bell rings")
        memos.update(other.id, "the heron fishes")
        fed(memos)
    shutil.rmtree(vault / "chroma")
    shutil.copytree(tmp_path / "old", vault / "chroma")  # as many vectors, of other texts
    with open_(vault) as memos:
        hits = memos.search("heron fishes", k=2)
        assert hits[0].cube.id == other.id
        assert hits[0].similarity == pytest.approx(np.sqrt(2 / 3), abs=1e-4)
        fed(memos)
        assert memos._core.retriever._index().query(_unit("bell rings a"), memos.scope, 1) == [cube.id]


def _unit(text: str) -> Any:
    vector = np.asarray(bag_of_words([text])[0], np.float32)
    return vector / np.linalg.norm(vector)


def test_what_is_deleted_or_changed_while_a_batch_is_fed_is_not_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_(tmp_path) as memos:
        gone, changed, kept = (memos.write(f"heron {i}") for i in range(3))
        assert memos.scheduler.wait_idle()
        index = memos._core.retriever._index()
        cubes = memos.put([memos.cube(f"otter {i}") for i in range(3)])
        memos._core.retriever.apply_pending()
        add = index.add

        def slow(ids: Any, scopes: Any, vectors: Any) -> None:
            add(ids, scopes, vectors)
            if cubes[0].id in ids:
                monkeypatch.setattr(index, "add", add)
                with open_(tmp_path) as other:
                    other.delete(cubes[0].id)
                    other.update(cubes[1].id, "a bell rings")

        monkeypatch.setattr(index, "add", slow)
        fed(memos)
        memos.search("bell")
        assert fed(memos) == sorted([gone.id, changed.id, kept.id, cubes[1].id, cubes[2].id])
        assert memos.search("bell", k=1)[0].cube.id == cubes[1].id


def test_erasure_drops_the_whole_folder(tmp_path: Path) -> None:
    with filled(open_(tmp_path)) as memos:
        mark = tmp_path / "chroma" / "from-before"
        mark.touch()
        memos._core.retriever.reset_index_files()
        assert not mark.exists()
        finds_everything(memos)
        assert fed(memos) == sorted(c.id for c in memos.find())


def test_erasure_without_chroma_open_drops_the_folder_too(tmp_path: Path) -> None:
    with filled(open_(tmp_path)):
        pass
    with open_(tmp_path, "exact", embedder=None) as memos:
        memos._core.retriever.reset_index_files()
        assert not (tmp_path / "chroma").exists()
    with open_(tmp_path) as memos:
        finds_everything(memos)


ERASE = """
import sys
from support import bag_of_words
from memos_core import MemOS
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index="chroma", lifecycle=None) as memos:
    assert memos._core.retriever._index() is None
    memos._core.retriever.reset_index_files()
"""


def test_the_owner_starts_over_when_another_process_erased(tmp_path: Path) -> None:
    with filled(open_(tmp_path)) as memos:
        mark = tmp_path / "chroma" / "from-before"
        mark.touch()
        done = run_script(ERASE, tmp_path)
        assert done.returncode == 0, done.stderr
        finds_everything(memos)
        assert fed(memos) == sorted(c.id for c in memos.find())
        assert not mark.exists()


def test_auto_asks_chroma_only_about_large_scopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "EXACT_BELOW", len(FACTS) - 1)
    with open_(tmp_path, "auto") as memos:
        small = memos._core
        view = MemOS(small, memos.scope.model_copy(update={"user": "v"}), memos.principal, "memos")
        view.write("a bell rings")
        assert view.search("bell")
        assert small.retriever.feed_index() == 0
        memos.put([memos.cube(fact) for fact in FACTS])
        finds_everything(memos)
        assert len(fed(memos)) == len(FACTS) + 1
        finds_everything(memos)


def test_more_is_asked_for_where_few_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_(tmp_path) as memos:
        memos.put(
            [memos.cube(f"heron {i}", semantic_type="rare" if i % 100 == 3 else "fact") for i in range(500)]
        )
        fed(memos)
        for nearby in (4_000, 10):
            monkeypatch.setattr(retriever, "_NEARBY", nearby)
            assert len(memos.search("nothing of the words", k=5, types=["rare"])) == 5


# -- a server ----------------------------------------------------------------------------------------------


class Server:
    """A Chroma server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(sys.executable).with_name("chroma")
        if not program.exists():
            pytest.skip("no chroma command")
        self._process = subprocess.Popen(
            [program, "run", "--path", self._folder, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise AssertionError("the Chroma server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server."""
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.stop()


WITH_SERVER = """
import sys
from support import bag_of_words
from memos_core import MemOS
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index=sys.argv[2], lifecycle=None) as memos:
    print(memos.search("heron eats at dawn", k=1)[0].cube.text)
    memos.write("the kingfisher dives")
    memos.delete(memos.search("badger sleeps at dusk", k=1)[0].cube.id)
    memos._core.retriever.feed_index()
"""


def test_a_server_serves_several_processes(tmp_path: Path, server: Server) -> None:
    with filled(open_(tmp_path / "v", server.url)) as memos:
        done = run_script(WITH_SERVER, tmp_path / "v", server.url)
        assert done.stdout == "heron eats at dawn\n", done.stderr
        assert memos.search("kingfisher", k=1)[0].cube.text == "the kingfisher dives"
        assert fed(memos) == sorted(c.id for c in memos.find())
        assert not (tmp_path / "v" / "chroma").exists()
        before = memos._core.retriever._index()
        memos._core.retriever.reset_index_files()
        assert memos._core.retriever._index().count() == 0
        assert before is memos._core.retriever._index()
        assert fed(memos) == sorted(c.id for c in memos.find())
    with open_(tmp_path / "other", server.url) as other:
        assert other.search("heron") == []
        assert fed(other) == []


def test_a_server_that_goes_away_and_comes_back(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "_RETRY_S", 0.0)
    with filled(open_(tmp_path / "v", server.url)) as memos:
        server.stop()
        finds_everything(memos)
        memos.write("the kingfisher dives")
        assert memos.search("kingfisher", k=1)[0].cube.text == "the kingfisher dives"
        server.start()
        finds_everything(memos)
        assert fed(memos) == sorted(c.id for c in memos.find())
        server.stop()
        shutil.rmtree(tmp_path / "server")
        server.start()  # an empty one
        finds_everything(memos)
        assert fed(memos) == sorted(c.id for c in memos.find())


@pytest.mark.parametrize(
    "url", ["http://", "ftp://host", "http://host:nonsense", "http://host/a/path", "faiss", ""]
)
def test_what_is_no_server_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidArgument, match="index must be"):
        open_(tmp_path, url)


def test_the_room_for_vectors_to_come_holds_nothing_of_what_was_in_memory(tmp_path: Path) -> None:
    for n in range(30):
        dims = 128
        junk = [np.full(size, 7, np.uint8) for size in range(30_000, 120_000, 2_000)]
        del junk  # freed, and as likely as not what the next one is given
        index = ChromaIndex(tmp_path / f"c{n}", "e", "v")
        index.add(["one"], [("t", "u")], np.ones((1, dims), np.float32))
        files = [*(tmp_path / f"c{n}").glob("*/data_level0.bin"), *(tmp_path / f"c{n}").glob("*/length.bin")]
        assert files
        assert not any(any(file.read_bytes()) for file in files)  # the vector itself is in Chroma's log
        index.close()
        assert not any(any(file.read_bytes()) for file in files)
