"""Search finds what was written a moment ago, by words and by vectors, exactly or through Chroma."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bag_of_words, run_script

from memos_core import MemOS
from memos_core.errors import InvalidArgument
from memos_core.retrieval import ObjectEmbedder, retriever

FACTS = [
    "the heron fishes in the shallow pond at dawn",
    "a lighthouse keeper paints watercolours of ships",
    "the bakery on the corner sells rye bread on fridays",
    "my bicycle has a green frame and a broken bell",
    "the opera was postponed because the tenor had a cold",
    "we keep bees behind the old greenhouse",
]


def top(memos: MemOS, query: str) -> str:
    return memos.search(query, k=1)[0].cube.text


@pytest.fixture(params=["words", "exact", "chroma", "memory"])
def searcher(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Every way there is to search."""
    url = ":memory:" if request.param == "memory" else tmp_path / "v"
    embedder = None if request.param == "words" else bag_of_words
    index: Any = "chroma" if request.param == "chroma" else "exact"
    with MemOS.open(url, user="u", embedder=embedder, index=index) as memos:
        yield memos


def test_every_write_is_found_by_the_next_search(searcher: MemOS) -> None:
    for i, fact in enumerate(FACTS):
        searcher.write(fact)
        assert top(searcher, fact) == fact
        assert len(searcher.search(fact, k=100)) <= i + 1
    assert top(searcher, "where are the bees?") == FACTS[5]


def test_an_update_replaces_the_old_text_in_every_index(searcher: MemOS) -> None:
    cube = searcher.write("the heron fishes in the pond")
    searcher.write("a dog sleeps on the porch")
    assert top(searcher, "heron pond") == cube.text
    searcher.update(cube.id, "an egret stands by the river")
    for hit in searcher.search("heron pond", k=10):
        assert "heron" not in hit.cube.text
        assert hit.lexical is None
        assert hit.similarity is None or hit.similarity < 0.5
    assert top(searcher, "egret river") == "an egret stands by the river"
    searcher.write("the heron is back", key=cube.key)
    assert top(searcher, "heron") == "the heron is back"


def test_a_deleted_cube_is_found_no_more(searcher: MemOS) -> None:
    cube, other = searcher.write("the heron fishes"), searcher.write("a dog sleeps")
    assert top(searcher, "heron") == cube.text
    searcher.delete(cube.id)
    assert cube.id not in {h.cube.id for h in searcher.search("heron fishes", k=10)}
    searcher.delete_where()
    assert searcher.search("dog") == []
    assert other.id not in {c.id for c in searcher.find()}


def test_filters_hold_in_search(searcher: MemOS) -> None:
    searcher.write("red apple", namespace=("a",), semantic_type="fruit")
    searcher.write("red brick", namespace=("a", "b"), semantic_type="thing")
    searcher.write("red rose", namespace=("ab",), semantic_type="flower")
    searcher.remember([{"role": "assistant", "content": "red herring"}])
    found = lambda **how: {h.cube.text for h in searcher.search("red", k=10, **how)}  # noqa: E731
    assert found() == {"red apple", "red brick", "red rose"}
    assert found(namespace=("a",)) == {"red apple", "red brick"}
    assert found(types=["message"]) == {"red herring"}
    assert found(not_types=["fruit", "message"]) == {"red brick", "red rose"}
    assert found(accept=lambda cube: "rose" in cube.text) == {"red rose"}


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=60)
    | st.sampled_from(['"', "* OR *", "NEAR(a b)", "a AND", "_", "' OR 1=1", "\ud800 heron", "\x00"])
)
def test_any_question_is_a_question(query: str) -> None:
    with MemOS.open(":memory:", user="u", embedder=bag_of_words) as memos:
        memos.write("the heron")
        memos.write(query.encode(errors="ignore").decode() + " .")
        assert {h.cube.scope.user for h in memos.search(query)} <= {"u"}
        memos.recall(query)


def test_k_is_kept_when_an_extra_condition_drops_most(memos: MemOS) -> None:
    for i in range(150):
        memos.write(f"red thing {i}")
    hits = memos.search("red thing", k=3, accept=lambda cube: cube.text.endswith(("7", "149")))
    assert len(hits) == 3
    assert memos.search("red thing", k=500, accept=lambda cube: False) == []
    with pytest.raises(InvalidArgument):
        memos.search("red", k=0)


def test_scores_are_0_to_1_and_fall(memos: MemOS) -> None:
    for fact in FACTS:
        memos.write(fact)
    hits = memos.search("the heron in the pond", k=6)
    scores = [h.score for h in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= s <= 1 for s in scores)
    assert hits[0].similarity is not None
    assert hits[0].lexical is not None
    close = memos.search("the heron in the pond", k=6, min_similarity=0.99)
    assert all(h.lexical is not None or (h.similarity or 0) >= 0.99 for h in close)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(FACTS), min_size=1, max_size=3))
def test_exact_and_chroma_agree_on_the_best(questions: list[str]) -> None:
    exact, chroma = _PAIR.open()
    for question in questions:
        words = " ".join(question.split()[1:5])
        assert top(exact, words) == top(chroma, words)


class _Pair:
    """One vault of each kind for all examples."""

    def __init__(self) -> None:
        self.both: tuple[MemOS, MemOS] | None = None

    def open(self) -> tuple[MemOS, MemOS]:
        assert self.both is not None
        return self.both


_PAIR = _Pair()


@pytest.fixture(autouse=True, scope="module")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pair")
    with (
        MemOS.open(folder / "exact", user="u", embedder=bag_of_words, index="exact") as exact,
        MemOS.open(folder / "chroma", user="u", embedder=bag_of_words, index="chroma") as chroma,
    ):
        for memos in (exact, chroma):
            for fact in FACTS:
                memos.write(fact)
        _PAIR.both = exact, chroma
        yield


# -- Chroma is derived -------------------------------------------------------------------------------------


def held(memos: MemOS) -> list[str]:
    """What Chroma holds once it is fed, which is done behind the searches."""
    memos._core.retriever.apply_pending()
    memos._core.retriever.feed_index()
    index = memos._core.retriever._index()
    assert index is not None
    return sorted(index.ids())


def fill(folder: Path) -> list[str]:
    with MemOS.open(folder, user="u", embedder=bag_of_words, index="chroma") as memos:
        ids = [memos.write(fact).id for fact in FACTS]
        assert held(memos) == sorted(ids)
    return ids


def truncate(chroma: Path) -> None:
    file = chroma / "chroma.sqlite3"
    file.write_bytes(file.read_bytes()[:5000])


def garble(chroma: Path) -> None:
    (chroma / "chroma.sqlite3").write_bytes(b"no database at all" * 500)


def lose_segments(chroma: Path) -> None:
    for folder in chroma.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def garble_segments(chroma: Path) -> None:
    for file in chroma.rglob("*.bin"):
        file.write_bytes(b"\xff" * 50)


@pytest.mark.parametrize("damage", [shutil.rmtree, truncate, garble, lose_segments, garble_segments])
def test_a_damaged_chroma_folder_is_rebuilt(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    fill(tmp_path)
    damage(tmp_path / "chroma")
    for _ in range(2):
        with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="chroma") as memos:
            for fact in FACTS:
                assert top(memos, fact) == fact
            memos.search("once more, after a repair")
            assert held(memos) == sorted(c.id for c in memos.find())


def test_an_older_copy_of_the_chroma_folder_is_brought_up_to_date(tmp_path: Path) -> None:
    ids = fill(tmp_path / "v")
    shutil.copytree(tmp_path / "v" / "chroma", tmp_path / "old")
    with MemOS.open(tmp_path / "v", user="u", embedder=bag_of_words, index="chroma") as memos:
        memos.write("a new fact about otters")
        memos.write("a newer fact about badgers")
        memos.search("otters")
    shutil.rmtree(tmp_path / "v" / "chroma")
    shutil.copytree(tmp_path / "old", tmp_path / "v" / "chroma")
    with MemOS.open(tmp_path / "v", user="u", embedder=bag_of_words, index="chroma") as memos:
        assert top(memos, "otters") == "a new fact about otters"
        assert len(held(memos)) == len(ids) + 2


def test_what_was_deleted_while_chroma_was_closed_leaves_it(tmp_path: Path) -> None:
    ids = fill(tmp_path)
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
        memos.delete(ids[:2])
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="chroma") as memos:
        memos.search("heron")
        assert held(memos) == sorted(ids[2:])


def test_chroma_holds_no_text(tmp_path: Path) -> None:
    fill(tmp_path)
    disk = b"".join(p.read_bytes() for p in (tmp_path / "chroma").rglob("*") if p.is_file())
    assert b"heron" not in disk
    assert b"lighthouse" not in disk


SECOND = """
import sys
from support import bag_of_words
from memos_core import MemOS
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index="chroma") as memos:
    assert memos._core.retriever._index() is None, "the first process owns Chroma"
    print(memos.search("heron", k=1)[0].cube.text)
    memos.write("the kingfisher dives")
    print(memos.search("kingfisher", k=1)[0].cube.text)
"""


def test_a_process_that_does_not_own_chroma_finds_everything(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="chroma") as memos:
        for fact in FACTS:
            memos.write(fact)
        memos.search("heron")
        done = run_script(SECOND, tmp_path)
        assert done.stdout.splitlines() == [FACTS[0], "the kingfisher dives"], done.stderr
        assert top(memos, "kingfisher") == "the kingfisher dives"
        assert len(held(memos)) == len(FACTS) + 1


def test_two_openings_in_one_process_share_the_vault_and_chroma_is_given_back(tmp_path: Path) -> None:
    def open_() -> MemOS:
        return MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="chroma")

    with open_() as one, open_() as two:
        one.write("the heron")
        assert one.scheduler.wait_idle()  # Chroma is opened by the scheduler's thread here
        two.write("the otter")
        for memos in (one, two):
            assert top(memos, "heron") == "the heron"
            assert top(memos, "otter") == "the otter"
    with open_() as three:
        assert three._core.retriever._index() is not None
        assert top(three, "otter") == "the otter"


def test_auto_leaves_chroma_alone_until_a_vault_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words) as memos:
        for fact in FACTS:
            memos.write(fact)
        assert top(memos, "heron") == FACTS[0]
        assert memos.scheduler.wait_idle()
        assert not (tmp_path / "chroma").exists()
        monkeypatch.setattr(retriever, "EXACT_BELOW", 3)
        assert top(memos, "heron") == FACTS[0]
        assert len(held(memos)) == len(FACTS)
        assert top(memos, "heron") == FACTS[0]


def test_a_broken_chroma_during_a_session_does_not_break_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="chroma") as memos:
        for fact in FACTS:
            memos.write(fact)
        assert top(memos, "heron") == FACTS[0]
        assert memos.scheduler.wait_idle()
        index = memos._core.retriever._index()

        class Broken:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("hnsw segment reader: Nothing found on disk")

        monkeypatch.setattr(index, "_collection", Broken())
        with caplog.at_level(logging.WARNING):
            assert top(memos, "heron") == FACTS[0]
        assert "made anew" in caplog.text
        assert top(memos, "bees") == FACTS[5]
        assert len(held(memos)) == len(FACTS)


# -- embedders ---------------------------------------------------------------------------------------------


def other_embedder(texts: list[str]) -> list[list[float]]:
    """Another model, with vectors of another length."""
    return [[float(len(text)), 1.0, float(text.count("e"))] for text in texts]


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_a_change_of_embedder_embeds_again(tmp_path: Path, index: Any) -> None:
    for embedder in (bag_of_words, other_embedder, None, bag_of_words):
        with MemOS.open(tmp_path, user="u", embedder=embedder, index=index) as memos:
            fact = FACTS[0] if embedder is bag_of_words else f"one more for {embedder}"
            memos.write(fact, key=fact)
            for hit in memos.search(fact, k=50):
                assert (hit.similarity is None) == (embedder is None)
            assert top(memos, fact) == fact
            if embedder is not None:
                name = memos._core.retriever.embedder.name
                with memos.vault.db.read() as conn:
                    names = conn.exec_driver_sql("SELECT DISTINCT embedder FROM vectors").scalars().all()
                assert names == [name]


def test_a_model_of_the_same_name_with_longer_vectors_is_noticed(tmp_path: Path) -> None:
    short = ObjectEmbedder(other_embedder, name="mine")
    long = ObjectEmbedder(bag_of_words, name="mine")
    with MemOS.open(tmp_path, user="u", embedder=short, index="exact") as memos:
        memos.write(FACTS[0])
        memos.search("heron")
    with MemOS.open(tmp_path, user="u", embedder=long, index="exact") as memos:
        memos.write(FACTS[1])
        assert {h.cube.text for h in memos.search("anything at all")} == set(FACTS[:2])


def test_two_open_vaults_with_different_embedders_both_find(tmp_path: Path) -> None:
    with (
        MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as one,
        MemOS.open(tmp_path, user="u", embedder=other_embedder, index="exact") as two,
    ):
        one.write(FACTS[0])
        two.write(FACTS[1])
        for memos in (one, two, one):
            assert FACTS[0] in {h.cube.text for h in memos.search("heron pond")}
            assert FACTS[1] in {h.cube.text for h in memos.search("lighthouse ships")}


class LangChainStyle:
    model = "langchain-style"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return bag_of_words(texts)

    def embed_query(self, text: str) -> list[float]:
        return bag_of_words([text])[0]


class Own:
    name = "own"

    def embed_documents(self, texts: Any) -> Any:
        return np.asarray([[1.0, 0.0]] * len(texts), np.float32)

    def embed_query(self, text: str) -> Any:
        return np.asarray([1.0, 0.0], np.float32)


@pytest.mark.parametrize("embedder", [LangChainStyle(), Own(), lambda texts: bag_of_words(texts)])
def test_any_kind_of_embedder_works(embedder: Any) -> None:
    with MemOS.open(":memory:", user="u", embedder=embedder) as memos:
        memos.write("the heron")
        assert memos.search("heron")[0].similarity == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize(
    "bad",
    [
        lambda texts: [[float("nan")] * 3] * len(texts),
        lambda texts: [[1.0, 2.0]],
        lambda texts: [[1.0] * (i + 1) for i in range(len(texts))],
        lambda texts: "nonsense",
    ],
)
def test_an_embedder_that_returns_nonsense_is_refused_and_the_write_is_kept(bad: Any) -> None:
    with MemOS.open(":memory:", user="u", embedder=bad) as memos:
        memos.put([memos.cube("the heron"), memos.cube("the otter")])
        with pytest.raises(InvalidArgument, match="embedder"):
            memos.search("heron")
        assert len(memos.find()) == 2


def test_what_is_no_embedder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        MemOS.open(tmp_path, embedder=42)
    with pytest.raises(InvalidArgument):
        MemOS.open(tmp_path, embedder=None, index="faiss")  # type: ignore[arg-type]


def test_a_cube_whose_text_goes_is_no_longer_found_by_it(memos: MemOS) -> None:
    view = memos.scoped(user="u")
    cube = view.write({"text": "the heron stands in the reeds"}, key="heron")
    assert [h.cube.id for h in view.search("heron in the reeds")] == [cube.id]
    view.update(cube.id, {"silent": True}, text="")
    assert view.search("heron in the reeds") == []
    memos.scheduler.wait_idle()
    view.turn_finished()
    memos.scheduler.wait_idle()
    assert memos.scheduler.resident(view.scope) == []
    assert view.read(cube.id).data == {"silent": True}
