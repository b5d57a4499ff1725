"""What is checked of search by meaning and of TTL, as decided. See `conformance_checks`."""

from __future__ import annotations

from langgraph.store.base import PutOp

from langgraph.store.memos.conformance_kit import TTL, A, Subject, check, differ, expect, same

# -- search by meaning ----------------------------------------------------------------------------------


@check("a query ranks by meaning, with scores", indexed=True)
def _(store: Subject) -> None:
    for key, text in (("tea", "green tea"), ("coffee", "black coffee"), ("juice", "orange juice")):
        store.put(A, key, {"text": text})
    found = store.search(A, query="green tea please")
    same(found[0].key, "tea", "first: ")
    expect(all(item.score is not None for item in found), "no scores")
    same(len(found), 3, "found: ")


@check("a query is embedded as a query", indexed=True)
def _(store: Subject) -> None:
    store.put(A, "k", {"text": "green tea"})
    store.search(A, query="what tea")
    assert store.embedder is not None
    same(store.embedder.queries, ["what tea"], "embed_query was asked ")


@check("the same text twice in one batch", indexed=True)
def _(store: Subject) -> None:
    try:
        store.batch([PutOp(A, key, {"text": "green tea"}) for key in ("x", "y")])
    except Exception as err:  # noqa: BLE001 - whatever a store raises
        differ(f"{type(err).__name__}: {err}")
    same(sorted(item.key for item in store.search(A, query="tea") if item.score), ["x", "y"])


@check("`fields` say what is searched", fields=["title", "parts[*].name"])
def _(store: Subject) -> None:
    store.put(A, "mine", {"title": "alpha", "parts": [{"name": "beta"}], "rest": "omega"})
    store.put(A, "other", {"title": "omega", "parts": [], "rest": "alpha beta"})
    same(store.keys(A, query="alpha")[0], "mine", "by title: ")
    same(store.keys(A, query="beta")[0], "mine", "by a part: ")
    same(store.keys(A, query="omega")[0], "other", "not by the rest: ")


@check("`index=[…]` of a put says what of it is searched, `$` being all of it", fields=["title"])
def _(store: Subject) -> None:
    store.put(A, "rest", {"title": "alpha", "rest": "omega"}, index=["rest"])
    store.put(A, "title", {"title": "alpha", "rest": "omega"})
    store.put(A, "whole", {"title": "sigma", "rest": "kappa"}, index=["$"])
    same(store.keys(A, query="omega")[0], "rest")
    same(store.keys(A, query="alpha")[0], "title")
    same(store.keys(A, query="kappa")[0], "whole")


def _score(store: Subject, query: str, key: str) -> float:
    """How near an item is to a query; 0.0 where it has no score."""
    return next((item.score or 0.0 for item in store.search(A, query=query) if item.key == key), 0.0)


@check("after an update an item is not found by its old text", indexed=True)
def _(store: Subject) -> None:
    store.put(A, "k", {"text": "green tea"})
    store.put(A, "k", {"text": "rye bread"})
    expect(_score(store, "green", "k") < 0.01, "it is found")


@check("`index=False` after an indexed put takes the item out of the index", indexed=True)
def _(store: Subject) -> None:
    store.put(A, "k", {"text": "green tea"})
    store.put(A, "k", {"text": "green tea"}, index=False)
    expect(_score(store, "green tea", "k") == 0, "it is found by its old vector")


@check("an item that was deleted and put again without an index has no vector", indexed=True)
def _(store: Subject) -> None:
    store.put(A, "k", {"text": "green tea"})
    store.delete(A, "k")
    store.put(A, "k", {"text": "green tea"}, index=False)
    expect(_score(store, "green tea", "k") == 0, "it is found by its old vector")


@check("a list that became shorter is not found by what it lost", fields=["tags[*]"])
def _(store: Subject) -> None:
    store.put(A, "k", {"tags": ["red", "green", "blue"]})
    store.put(A, "k", {"tags": ["red"]})
    expect(_score(store, "blue", "k") < 0.01, "it is found by the old element")


@check("items without a vector follow those that were found", indexed=True)
def _(store: Subject) -> None:
    store.put(A, "hidden", {"text": "green tea"}, index=False)
    store.put(A, "seen", {"text": "black coffee"})
    found = store.search(A, query="green tea")
    same([item.key for item in found], ["seen", "hidden"])
    same(found[1].score, None, "its score: ")


@check("pages of a query reach every item once", indexed=True)
def _(store: Subject) -> None:
    store.batch([PutOp(A, f"{n:02}", {"text": f"tea number {n}"}) for n in range(9)])
    store.batch([PutOp(A, f"x{n}", {"text": "tea"}, index=False) for n in range(4)])
    pages = [store.keys(A, query="tea", limit=5, offset=offset) for offset in (0, 5, 10, 15)]
    same([len(page) for page in pages], [5, 5, 3, 0], "pages of ")
    same(len({key for page in pages for key in page}), 13, "distinct: ")


@check("a filter applies before the limit of a query", indexed=True)
def _(store: Subject) -> None:
    store.batch([PutOp(A, f"{n:02}", {"text": "green tea", "n": n}) for n in range(20)])
    found = store.keys(A, query="green tea", filter={"n": {"$gte": 15}}, limit=5)
    same(sorted(found), ["15", "16", "17", "18", "19"])


# -- TTL ------------------------------------------------------------------------------------------------


def _gone(store: Subject, key: str = "k") -> bool:
    return store.get(A, key, refresh_ttl=False) is None


@check("an item that has expired is not returned, before any sweep", ttl={"omit_expired": True})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1}, ttl=TTL)
    expect(not _gone(store), "gone at once")
    store.wait(2 * TTL)
    expect(_gone(store), "`get` returns it")
    same(store.keys(A), [], "`search`: ")
    same(store.namespaces(), [], "`list_namespaces`: ")


@check("the sweep deletes what has expired, and says how much", ttl={"refresh_on_read": True})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1}, ttl=TTL)
    store.put(A, "stays", {"n": 1})
    store.wait(2 * TTL)
    same(store.sweep(), 1, "deleted: ")
    same(store.keys(A), ["stays"])


@check("`default_ttl` applies to `put`, and `ttl=None` overrides it", ttl={"default_ttl": TTL})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.put(A, "stays", {"n": 1}, ttl=None)
    store.wait(2 * TTL)
    store.sweep()
    same(store.keys(A), ["stays"])


@check("`get` extends the life of an item, if `refresh_on_read` is not given", ttl={"default_ttl": TTL})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.wait(0.7 * TTL)
    store.get(A, "k")
    store.wait(0.7 * TTL)
    store.sweep()
    expect(not _gone(store), "it expired all the same")


@check("`search` extends the lives of what it returns", ttl={"default_ttl": TTL, "refresh_on_read": True})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.wait(0.7 * TTL)
    store.search(A)
    store.wait(0.7 * TTL)
    store.sweep()
    expect(not _gone(store), "it expired all the same")


@check("`refresh_ttl=False` extends nothing", ttl={"default_ttl": TTL, "refresh_on_read": True})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.wait(0.7 * TTL)
    store.get(A, "k", refresh_ttl=False)
    store.search(A, refresh_ttl=False)
    store.wait(0.7 * TTL)
    store.sweep()
    expect(_gone(store), "its life was extended")


@check(
    "`refresh_ttl=True` extends in spite of `refresh_on_read=False`",
    ttl={"default_ttl": TTL, "refresh_on_read": False},
)
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.wait(0.7 * TTL)
    store.get(A, "k", refresh_ttl=True)
    store.wait(0.7 * TTL)
    store.sweep()
    expect(not _gone(store), "it expired all the same")


@check("a put without a TTL takes the old one away", ttl={"refresh_on_read": True})
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1}, ttl=TTL)
    store.put(A, "k", {"n": 2}, ttl=None)
    store.wait(2 * TTL)
    store.sweep()
    expect(not _gone(store), "it expired")
