"""Search by vectors is exact: the matrices in memory follow the vault, whoever writes it, and say what a comparison
with every vector says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bag_of_words, run_script

from memos_core import MemOS
from memos_core.cube import ANY_USER, State
from memos_core.retrieval import ObjectEmbedder, Retriever, retriever
from memos_core.retrieval.matrix import MatrixCache
from memos_core.vault import CubeFilter

WORDS = ["heron", "pond", "rye", "bicycle", "bell", "opera", "tenor", "bees", "otter", "badger"]


def open_(folder: Path, **how: Any) -> MemOS:
    return MemOS.open(folder, **{"embedder": bag_of_words, "index": "exact", "lifecycle": None, **how})


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[MemOS]:
    """On SQLite, which alone needs matrices: pgvector compares on PostgreSQL."""
    with open_(tmp_path / "lite") as opened:
        yield opened


def compared(memos: MemOS, query: str, which: CubeFilter, pool: int) -> dict[str, float]:
    """What a comparison with every cube that matches says."""
    question = _unit(bag_of_words([query]))[0]
    cubes = [c for c in memos.vault.find(which) if c.text.strip()]
    scores = _unit(bag_of_words([c.text for c in cubes])) @ question if cubes else []
    every = sorted(((float(s), c.id) for s, c in zip(scores, cubes, strict=True)), reverse=True)
    return {id_: s for s, id_ in every[:pool]}


def searched(memos: MemOS, query: str, which: CubeFilter, pool: int) -> dict[str, float]:
    """What the retriever's vector side says."""
    used = memos._core.retriever
    used.apply_pending(which)
    return used._semantic(used._question(query), which, pool)


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    """The same scores, and the same cubes but for those that are as near as the last."""
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), abs=1e-5)
    last = min(expected.values(), default=0.0) + 1e-5
    assert {i for i, s in expected.items() if s > last} <= set(found)


def _unit(vectors: Any) -> Any:
    matrix = np.asarray(vectors, np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "write", "write", "update", "delete", "archive", "activate", "grant", "search"]
        ),
        st.integers(0, 1),  # which of the two processes
        st.integers(0, 2),  # which user
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
        st.integers(0, 30),  # which cube
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_two_openings_of_a_vault_search_as_if_they_compared_everything(
    tmp_path_factory: pytest.TempPathFactory, steps: Any, pool: int
) -> None:
    folder = tmp_path_factory.mktemp("v")
    with open_(folder) as one, open_(folder) as two:
        users = [[m.scoped(user=f"u{i}") for i in range(3)] for m in (one, two)]
        ids: list[list[str]] = [[], [], []]
        for what, process, user, text, n in steps:
            view = users[process][user]
            mine = ids[user]
            id_ = mine[n % len(mine)] if mine else ""
            if what == "write":
                mine.append(view.write(text, namespace=("a",) if n % 2 else ("b",)).id)
            elif what == "search" or not id_:
                which = CubeFilter(view.scope, granted="read", namespace=("a",) if n % 3 == 0 else ())
                same(searched(view, text, which, pool), compared(view, text, which, pool))
            elif what == "delete":
                view.delete(id_)
                mine.remove(id_)
            elif what == "update":
                view.update(id_, text)
            elif what == "grant":
                view.grant([id_], f"user:u{n % 3}")
            elif view._core.vault.get(CubeFilter(view.scope), [id_]):
                if what == "archive":
                    view.archive([id_])
            elif what == "activate":
                view.activate([id_])
        for views in users:
            for view in [*views, one.all_users(), two.all_users()]:
                which = CubeFilter(view.scope, granted="read")
                same(
                    searched(view, "heron pond rye", which, pool),
                    compared(view, "heron pond rye", which, pool),
                )


def test_a_filter_that_few_match_is_answered_in_full(lite: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    view = lite.scoped(user="u")
    view.put(
        [view.cube(f"heron pond {i}", semantic_type="rare" if i % 50 == 7 else "fact") for i in range(400)]
    )
    which = CubeFilter(view.scope, types=["rare"])
    expected = compared(view, "heron", which, 5)
    same(searched(view, "heron", which, 5), expected)
    monkeypatch.setattr(retriever, "_LOOKED_UP", 10)  # the vault is asked which match instead
    same(searched(view, "heron", which, 5), expected)
    assert searched(view, "heron", CubeFilter(view.scope, types=["none"]), 5) == {}


def test_shared_cubes_are_found_and_no_others(memos: MemOS) -> None:
    ann, bob = memos.scoped(user="ann"), memos.scoped(user="bob")
    shared, private = ann.write("the heron fishes"), ann.write("the heron sleeps")
    own = bob.write("a bell rings")
    assert {h.cube.id for h in bob.search("heron")} == {own.id}
    ann.grant([shared.id], "user:bob")
    found = bob.search("heron", k=10)
    assert {h.cube.id for h in found} == {own.id, shared.id}
    assert found[0].cube.id == shared.id
    assert found[0].lexical is not None
    assert found[0].similarity is not None
    ann.revoke([shared.id], "user:bob")
    assert {h.cube.id for h in bob.search("heron")} == {own.id}
    memos.add_to_group("team", ["bob"])
    ann.grant([shared.id], "group:team")
    assert {h.cube.id for h in bob.search("heron")} == {own.id, shared.id}
    assert {h.cube.id for h in bob.search("heron", shared=False)} == {own.id}
    assert private.id in {h.cube.id for h in ann.search("heron")}


def test_archived_cubes_leave_the_search_and_come_back(memos: MemOS) -> None:
    view = memos.scoped(user="u")
    cube, other = view.write("the heron fishes"), view.write("a bell rings")
    view.search("heron")
    view.archive([cube.id])
    assert {h.cube.id for h in view.search("heron")} == {other.id}
    assert {h.cube.id for h in view.search("heron", states=[State.ARCHIVED])} == {cube.id}
    view.activate([cube.id])
    assert view.search("heron", k=1)[0].cube.id == cube.id


def filled(memos: MemOS, users: int, each: int) -> Retriever:
    for n in range(users):
        view = memos.scoped(user=f"u{n}")
        view.put([view.cube(f"{WORDS[i % len(WORDS)]} {i} of {n}") for i in range(each)])
    used = memos._core.retriever
    used.apply_pending()
    return used


def test_matrices_stay_within_their_budget_and_the_oldest_goes(lite: MemOS) -> None:
    filled(lite, 6, 20)
    one_matrix = 20 * (256 * 4 + 300)
    cache = MatrixCache(lite.vault.vectors, lite._core.retriever.embedder.name, 3 * one_matrix + 100)
    question = _unit(bag_of_words(["heron"]))[0]
    for n in (0, 1, 2, 3, 1, 4):
        assert cache.compare(("default", f"u{n}"), question) is not None
        assert cache.nbytes <= 3 * one_matrix + 100
    assert cache.owners == [("default", "u3"), ("default", "u1"), ("default", "u4")]
    assert cache.compare(("default", None), question) is None, "all users are more than the budget"
    assert cache.nbytes <= 3 * one_matrix + 100
    cache.clear()
    assert cache.nbytes == 0


@pytest.mark.parametrize("budget", [0, 1000, 100_000])
def test_a_scope_beyond_the_budget_is_searched_exactly(lite: MemOS, budget: int) -> None:
    filled(lite, 2, 60)
    embedder = ObjectEmbedder(bag_of_words)
    small = Retriever(lite.vault, embedder, index="exact", matrix_bytes=budget)
    for user in ("u0", "u1", ANY_USER):
        view = lite.all_users() if user == ANY_USER else lite.scoped(user=user)
        which = CubeFilter(view.scope)
        for pool in (3, 50, 500):
            found = small._semantic(small._question("heron of 1"), which, pool)
            same(found, compared(view, "heron of 1", which, pool))
    assert small._matrices.nbytes <= budget


def test_a_matrix_is_rebuilt_when_much_of_it_is_dead(lite: MemOS) -> None:
    used = filled(lite, 1, 200)
    view = lite.scoped(user="u0")
    question = used._question("heron")
    scope = ("default", "u0")
    assert len(used._matrices.compare(scope, question).scores) == 200
    view.delete([c.id for c in view.find()][:150])
    for _ in range(70):
        view.search("heron")
    assert len(used._matrices.compare(scope, question).scores) == 50
    for cube in view.find():
        view.update(cube.id, cube.text + " again")
    same(
        searched(view, "heron again", CubeFilter(view.scope), 9),
        compared(view, "heron again", CubeFilter(view.scope), 9),
    )


def test_many_threads_write_and_search(tmp_path: Path) -> None:
    with open_(tmp_path / "v") as one, open_(tmp_path / "v") as two:
        wrong: list[str] = []

        def work(memos: MemOS, n: int) -> None:
            view = memos.scoped(user=f"u{n % 2}")
            for i in range(25):
                word = f"{WORDS[i % len(WORDS)]}{n}x{i}"
                cube = view.write(word)
                if view.search(word, k=1)[0].cube.id != cube.id:
                    wrong.append(word)
                if i % 3 == 0:
                    view.delete(cube.id)

        threads = [threading.Thread(target=work, args=(m, n)) for n, m in enumerate([one, two, one, two])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        for view in (one.scoped(user="u0"), two.scoped(user="u1")):
            which = CubeFilter(view.scope)
            same(searched(view, "heron0x0 rye2x4", which, 7), compared(view, "heron0x0 rye2x4", which, 7))


OTHER = """
import sys
from support import bag_of_words
from memos_core import MemOS
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index="exact") as memos:
    if sys.argv[2] == "write":
        print(memos.write("the kingfisher dives").id)
    elif sys.argv[2] == "update":
        memos.update(sys.argv[3], "the badger digs")
    else:
        memos.delete(sys.argv[3])
"""


def test_what_another_process_does_is_seen_by_the_next_search(tmp_path: Path) -> None:
    with open_(tmp_path, user="u") as memos:
        heron = memos.write("the heron fishes")
        assert memos.search("kingfisher", k=1)[0].cube.id == heron.id
        done = run_script(OTHER, tmp_path, "write")
        new = done.stdout.strip()
        assert memos.search("kingfisher", k=1)[0].cube.id == new, done.stderr
        assert run_script(OTHER, tmp_path, "update", new).returncode == 0
        hits = {h.cube.id: h for h in memos.search("kingfisher badger", k=5)}
        assert hits[new].cube.text == "the badger digs"
        assert hits[new].similarity == pytest.approx(1 / np.sqrt(6), abs=1e-4)
        assert run_script(OTHER, tmp_path, "delete", new).returncode == 0
        assert {h.cube.id for h in memos.search("badger", k=5)} == {heron.id}


def test_vectors_of_texts_no_index_holds_are_made_once(memos: MemOS) -> None:
    asked: list[int] = []

    def counting(texts: list[str]) -> list[list[float]]:
        asked.append(len(texts))
        return bag_of_words(texts)

    used = Retriever(memos.vault, ObjectEmbedder(counting, name="counting"), index="exact")
    view = memos.scoped(user="u")
    cubes = view.put([view.cube(f"heron {i}") for i in range(30)])
    view.archive([c.id for c in cubes[:20]])
    used.apply_pending()
    every = memos.vault.find(CubeFilter(view.scope, states=None))
    asked.clear()
    first = used.rank("heron 7", every, k=3)
    assert sum(asked) == 20 + 1, "the vault has the vectors of the ten that are live"
    asked.clear()
    assert [h.cube.id for h in used.rank("heron 7", every, k=3)] == [h.cube.id for h in first]
    assert sum(asked) == 1
    used.forget([cubes[0].id])
    used.rank("heron 7", every, k=3)
    assert sum(asked) == 1 + 1 + 1
