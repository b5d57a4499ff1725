"""What is checked of items, batches, filters, order and namespaces: the behaviours in which the official stores differ,
as decided.

A check is a function of a `Subject`. It raises `Difference` where the store does something else."""

from __future__ import annotations

import math
from typing import Any

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from langgraph.store.memos.conformance_kit import (
    A,
    B,
    Subject,
    check,
    differ,
    expect,
    kept_or_refused,
    refused,
    same,
)

# -- items ----------------------------------------------------------------------------------------------


@check("`created_at` stays when an item is put again")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    first = store.get(A, "k")
    store.put(A, "k", {"n": 2})
    same(store.get(A, "k").created_at == first.created_at, True, "kept: ")


@check("times have a time zone")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    found = store.get(A, "k")
    expect(
        found.created_at.utcoffset() is not None and found.updated_at.utcoffset() is not None, "naive times"
    )


@check("times are finer than a second: a later put is a later update")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    first = store.get(A, "k").updated_at
    store.put(A, "k", {"n": 2})
    expect(store.get(A, "k").updated_at > first, "the same `updated_at` after a second put")


@check("changing the value that was put, or one that was read, changes nothing in the store")
def _(store: Subject) -> None:
    value = {"list": [1]}
    store.put(A, "k", value)
    value["list"].append(2)
    same(store.value(A, "k"), {"list": [1]}, "after changing what was put: ")
    store.get(A, "k").value["list"].append(3)
    same(store.value(A, "k"), {"list": [1]}, "after changing what was read: ")
    store.search(A)[0].value["new"] = 4
    same(store.value(A, "k"), {"list": [1]}, "after changing what was found: ")


@check("deleting what is not there is no error")
def _(store: Subject) -> None:
    store.delete(A, "nothing")


@check("keys may hold dots, quotes, slashes and other scripts")
def _(store: Subject) -> None:
    for key in ("a.b", "it's", 'say "x"', "a/b", "ключ", "100%", "*"):
        store.put(A, key, {"key": key})
        same(store.value(A, key), {"key": key}, f"{key}: ")


@check("a NUL character in a value is kept or refused clearly")
def _(store: Subject) -> None:
    kept_or_refused(store, {"text": "a\x00b"})


@check("half a surrogate pair in a value is kept or refused clearly")
def _(store: Subject) -> None:
    kept_or_refused(store, {"text": "\ud800"})


@check("NaN in a value is kept or refused clearly")
def _(store: Subject) -> None:
    try:
        store.put(A, "odd", {"n": math.nan})
    except (ValueError, TypeError):
        return
    found = store.value(A, "odd")["n"]
    expect(isinstance(found, float) and math.isnan(found), f"comes back as {found!r}")


@check("an integer beyond 64 bits is kept or refused clearly")
def _(store: Subject) -> None:
    kept_or_refused(store, {"n": 2**80})


@check("a key of a value that is no string is kept or refused clearly")
def _(store: Subject) -> None:
    kept_or_refused(store, {"nested": {1: "one"}})


@check("what JSON has no form for is refused")
def _(store: Subject) -> None:
    for value in ({1, 2}, b"bytes", object()):
        refused(lambda value=value: store.put(A, "k", {"x": value}), f"{type(value).__name__} is accepted")  # type: ignore[misc]


@check("a refused value leaves the other puts of its batch undone")
def _(store: Subject) -> None:
    ops = [PutOp(A, "good", {"n": 1}), PutOp(A, "bad", {"n": object()})]
    refused(lambda: store.batch(ops), "an object is accepted")
    expect(store.value(A, "good") is None, "the good one was stored")


# -- batches --------------------------------------------------------------------------------------------


@check("reads of a batch see what was there before its puts")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 0})
    found = store.batch(
        [PutOp(A, "k", {"n": 1}), GetOp(A, "k"), SearchOp(A), PutOp(B, "k", {"n": 2}), ListNamespacesOp()]
    )
    same(found[1].value, {"n": 0}, "get: ")
    same([item.value for item in found[2]], [{"n": 0}], "search: ")
    same(found[4], [A], "list_namespaces: ")


@check("of several puts to one address in a batch the last one counts")
def _(store: Subject) -> None:
    store.batch([PutOp(A, "x", {"n": 1}), PutOp(A, "x", None), PutOp(A, "y", None), PutOp(A, "y", {"n": 2})])
    same([store.value(A, "x"), store.value(A, "y")], [None, {"n": 2}])


@check("namespaces are validated inside `batch`")
def _(store: Subject) -> None:
    for bad in (("a.b",), ("",), (), ("langgraph", "x")):
        ops = [PutOp(bad, "k", {"n": 1})]
        refused(lambda ops=ops: store.batch(ops), f"{bad} is accepted", InvalidNamespaceError)  # type: ignore[misc]


@check("an operation that does not exist is refused")
def _(store: Subject) -> None:
    refused(lambda: store.batch(["get"]), "it is accepted", Exception)


# -- filters --------------------------------------------------------------------------------------------


def _filled(store: Subject) -> None:
    store.batch(
        [
            PutOp(A, "number", {"n": 1, "flag": True, "deep": {"x": 1, "y": 2}, "tags": ["p", "q"]}),
            PutOp(A, "more", {"n": 20, "flag": False, "deep": {"x": 3}, "s": "b"}),
            PutOp(A, "text", {"n": "abc", "flag": 1, "s": "a"}),
            PutOp(A, "null", {"n": None, "s": None}),
            PutOp(A, "none", {"other": 1}),
        ]
    )


def _finds(store: Subject, wanted: dict[str, Any], *keys: str) -> None:
    try:
        found = sorted(store.keys(A, filter=wanted))
    except Exception as err:  # noqa: BLE001 - whatever a store raises
        differ(f"{wanted}: {type(err).__name__}")
    same(found, sorted(keys), f"{wanted} finds ")


@check("`$gt` and its like do not match a missing key")
def _(store: Subject) -> None:
    store.batch([PutOp(A, "has", {"n": 1}), PutOp(A, "not", {"m": 1})])
    _finds(store, {"n": {"$gt": 0}}, "has")
    _finds(store, {"n": {"$lt": 5}}, "has")


@check("`$gt` and its like compare texts with texts")
def _(store: Subject) -> None:
    store.batch([PutOp(A, key, {"s": key}) for key in ("a", "b", "c")])
    _finds(store, {"s": {"$gte": "b"}}, "b", "c")


@check("`$gt` and its like are no error where values of several kinds are stored")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"n": {"$gt": 0}}, "number", "more")


@check("several operators on one key all count")
def _(store: Subject) -> None:
    store.batch([PutOp(A, str(n), {"n": n}) for n in range(5)])
    _finds(store, {"n": {"$gte": 1, "$lt": 4, "$ne": 2}}, "1", "3")


@check("`$ne` matches a missing key")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"s": {"$ne": "a"}}, "number", "more", "null", "none")


@check("`{'k': None}` matches null and a missing key")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"s": None}, "number", "null", "none")


@check("an object in a filter matches objects that have its keys, and maybe others")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"deep": {"x": 1}}, "number")


@check("operators work inside an object")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"deep": {"x": {"$gt": 1}}}, "more")


@check("`$eq` compares objects whole, whatever the order of their keys")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"deep": {"$eq": {"y": 2, "x": 1}}}, "number")
    _finds(store, {"deep": {"$eq": {"x": 1}}})


@check("a list in a filter matches an equal list")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"tags": ["p", "q"]}, "number")
    _finds(store, {"tags": ["q", "p"]})


@check("True is not 1")
def _(store: Subject) -> None:
    _filled(store)
    _finds(store, {"flag": True}, "number")
    _finds(store, {"flag": 1}, "text")


@check("1 is 1.0, and large integers are compared exactly")
def _(store: Subject) -> None:
    store.batch([PutOp(A, "one", {"n": 1}), PutOp(A, "big", {"n": 2**53 + 1})])
    _finds(store, {"n": 1.0}, "one")
    _finds(store, {"n": 2**53})
    _finds(store, {"n": 2**53 + 1}, "big")


@check("a key of a filter may have dots, spaces and quotes in it, and means itself")
def _(store: Subject) -> None:
    store.batch([PutOp(A, "odd", {"a.b": 1, "it's": 1, "c d": 1}), PutOp(A, "nested", {"a": {"b": 1}})])
    for key in ("a.b", "it's", "c d"):
        _finds(store, {key: 1}, "odd")


@check("an operator that does not exist is refused, also where nothing is stored")
def _(store: Subject) -> None:
    refused(lambda: store.search(A, filter={"n": {"$near": 1}}), "it is accepted")


# -- order and pages ------------------------------------------------------------------------------------


@check("without a query the newest update comes first")
def _(store: Subject) -> None:
    for key in ("a", "b", "c", "d"):
        store.put(A, key, {"key": key})
    store.put(A, "b", {"key": "again"})
    same(store.keys(A), ["b", "d", "c", "a"])


@check("pages reach every item once")
def _(store: Subject) -> None:
    store.batch([PutOp(A, f"{n:02}", {"n": n, "even": n % 2 == 0}) for n in range(23)])
    pages = [store.keys(A, limit=5, offset=offset) for offset in range(0, 30, 5)]
    same([len(page) for page in pages], [5, 5, 5, 5, 3, 0], "pages of ")
    same(len({key for page in pages for key in page}), 23, "distinct: ")
    pages = [store.keys(A, filter={"even": True}, limit=5, offset=offset) for offset in range(0, 15, 5)]
    same(sorted(key for page in pages for key in page), [f"{n:02}" for n in range(0, 23, 2)], "filtered: ")


@check("`limit=0` finds nothing")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    same(store.keys(A, limit=0), [])


@check("a prefix is made of whole labels, and is compared letter by letter")
def _(store: Subject) -> None:
    for namespace in (("p", "a"), ("p", "ab"), ("P", "a"), ("p_", "a"), ("px", "a")):
        store.put(namespace, "k", {"n": 1})
    same([item.namespace for item in store.search(("p", "a"))], [("p", "a")])
    same([item.namespace for item in store.search(("p_",))], [("p_", "a")])


# -- namespaces -----------------------------------------------------------------------------------------


@check("reading does not make a namespace")
def _(store: Subject) -> None:
    store.get(A, "k")
    store.search(A)
    store.delete(A, "k")
    same(store.namespaces(), [])


@check("a namespace goes with its last item")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    store.delete(A, "k")
    same(store.namespaces(), [])


@check("namespaces are listed sorted, by prefix, suffix, wildcard, depth and page")
def _(store: Subject) -> None:
    for namespace in (("u", "2", "x"), ("u", "1", "x"), ("u", "1", "y", "z"), ("ux", "1", "x")):
        store.put(namespace, "k", {"n": 1})
    same(store.namespaces(prefix=("u",)), [("u", "1", "x"), ("u", "1", "y", "z"), ("u", "2", "x")])
    same(store.namespaces(suffix=("x",)), [("u", "1", "x"), ("u", "2", "x"), ("ux", "1", "x")])
    same(store.namespaces(prefix=("u", "*", "x")), [("u", "1", "x"), ("u", "2", "x")])
    same(store.namespaces(prefix=("u",), max_depth=2), [("u", "1"), ("u", "2")])
    same(store.namespaces(max_depth=1, limit=1, offset=1), [("ux",)])


@check("a condition on namespaces that does not exist is refused")
def _(store: Subject) -> None:
    store.put(A, "k", {"n": 1})
    wrong = MatchCondition("infix", ("a",))  # type: ignore[arg-type]
    refused(lambda: store.batch([ListNamespacesOp((wrong,))]), "it is accepted")
