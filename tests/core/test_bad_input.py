"""Bad input of every kind, to every public method: one error of ours that names the argument, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select
from support import bag_of_words

from memos_core import MemOS, Principal
from memos_core.errors import MemOSError, NotFound
from memos_core.governance import DuplicatePolicy
from memos_core.vault import tables as t

NAIVE = datetime(2026, 5, 3)
AWARE = datetime(2026, 5, 3, tzinfo=UTC)
NAN, INFINITY = float("nan"), float("inf")
SURROGATE, NUL = "\ud800", "a\x00b"
THING = object()

NO_TEXTS = [1, 1.5, b"x", ["a"], {"a": 1}, THING, True, SURROGATE]
NO_NAMES = [*NO_TEXTS, NUL]
NO_LISTS = ["abc", b"abc", 1, THING, [1], [None], [["a"]], [b"a"], [SURROGATE], [NUL]]
NO_MOMENTS = [NAIVE, "2026-05-03", "", 1, True, THING, timedelta(1), NAN]
NO_COUNTS = ["1", 1.5, NAN, INFINITY, -1, True, THING, [], -(2**70)]
NO_IDS = [None, *NO_NAMES, "", "unknown", "x" * 100_000, "FOREIGN"]
NO_ID_LISTS = [None, 1, THING, b"x", [1], [None], [["a"]], SURROGATE, NUL, [SURROGATE], [NUL]]
NOT_THERE = ["", "unknown", ["unknown"], "FOREIGN", ["FIRST", "FOREIGN"]]

Call = Callable[["Bad", Any], object]


class Bad:
    """A vault with something in it, that nothing here may change."""

    def __init__(self, url: str) -> None:
        self.memos = MemOS.open(url, embedder=bag_of_words, index="exact")
        self.memos.scheduler.stop()  # what it does between turns is no effect of a call
        self.view = self.memos.scoped(user="ann")
        self.first = self.view.write("The heron nests.", key="k", ttl=timedelta(days=3)).id
        self.second = self.view.write("The otter swims.").id
        self.view.update(self.first, "The heron has left.")
        self.view.grant(self.second, "group:crew")
        self.memos.add_to_group("crew", ["bob"])
        self.foreign = self.memos.scoped(user="bob").write("The owl is awake.").id
        self.cube = self.view.cube("The hare is fast.")

    def named(self, value: Any) -> Any:
        """A value with the placeholders replaced by ids of this vault."""
        if isinstance(value, list):
            return [self.named(one) for one in value]
        known = {"FOREIGN": self.foreign, "FIRST": self.first}
        return known.get(value, value) if isinstance(value, str) else value

    def rows(self) -> list[Any]:
        tables = (t.cubes, t.versions, t.audit, t.audit_heads, t.grants, t.members, t.labels, t.sources)
        with self.memos.vault.db.read() as conn:
            return [sorted(map(repr, conn.execute(select(table)))) for table in (*tables, t.tombstones)]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def bad(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    if request.param == "sqlite":
        made = Bad(str(tmp_path_factory.mktemp("bad") / "vault"))
        yield made
        made.memos.close()
        return
    server = request.getfixturevalue("postgres_server")
    url = server.new_database()
    made = Bad(url)
    yield made
    made.memos.close()
    server.take_back(url)


def write(name: str) -> Call:
    return lambda b, value: b.view.write("The hare is fast.", **{name: value})


def update(name: str) -> Call:
    return lambda b, value: b.view.update(b.second, **{name: value})


def changed(name: str) -> Call:
    return lambda b, value: b.view.put([b.cube.model_copy(update={name: value})])


def find(name: str, **more: Any) -> Call:
    return lambda b, value: b.view.find(**{name: value, **more})


def search(name: str) -> Call:
    return lambda b, value: b.view.search("heron", **{name: value})


def log(name: str) -> Call:
    return lambda b, value: b.view.audit_log(**{name: value})


def scoped(name: str) -> Call:
    return lambda b, value: b.memos.scoped(**{name: value})


def opened(name: str) -> Call:
    def call(_: Bad, value: Any) -> None:
        MemOS.open(":memory:", **{"embedder": None, name: value}).close()

    return call


class Unregistered(BaseModel):
    text: str = "x"


CASES: dict[str, tuple[str, Call, list[Any]]] = {
    # -- write ---------------------------------------------------------------------------------------------
    "write content": (
        "content|structure",
        lambda b, value: b.view.write(value),
        [b"x", THING, {1}, NAN, INFINITY, {"a": NAN}, {1: 2}, "", " ", {"a": SURROGATE}, Unregistered()],
    ),
    "write text": ("text|content", write("text"), [*NO_TEXTS, "", " "]),
    "write a lone surrogate": ("text", lambda b, value: b.view.write(value), [SURROGATE]),
    "write namespace": ("namespace", write("namespace"), [None, *NO_LISTS, [""], ["a\n"]]),
    "write key": ("key", write("key"), NO_NAMES),
    "write semantic_type": ("semantic_type", write("semantic_type"), NO_NAMES),
    "write tags": ("tags", write("tags"), [None, *NO_LISTS]),
    "write sensitivity": ("sensitivity", write("sensitivity"), [None, *NO_LISTS]),
    "write origin": ("origin", write("origin"), ["nobody", None, 1, ["user"]]),
    "write ttl": ("ttl", write("ttl"), [1, "1h", timedelta(0), timedelta(-1), timedelta.max, NAIVE]),
    "write priority": ("priority", write("priority"), [None, "high", 1.5, NAN, INFINITY, THING]),
    "write spoken_at": ("spoken_at", write("spoken_at"), NO_MOMENTS),
    "write valid_from": ("valid_from", write("valid_from"), NO_MOMENTS),
    "write valid_to": ("valid_to", write("valid_to"), NO_MOMENTS),
    "write a validity that ends before it begins": (
        "valid_to",
        lambda b, value: b.view.write("x", valid_from=AWARE, valid_to=value),
        [AWARE - timedelta(seconds=1)],
    ),
    "write derived_from": ("derived_from", write("derived_from"), [None, "abc", 1, [1], [None], ["FIRST"]]),
    "put cubes": ("cubes", lambda b, value: b.view.put(value), [None, 1, "abc", [1], [None], ["FIRST"]]),
    "put one good and one bad": (
        "namespace",
        lambda b, value: b.view.put([b.cube, b.view.cube("x").model_copy(update={"namespace": value})]),
        [("",), ("a\x01",), (1,), None],
    ),
    "put expected_version": (
        "expected_version",
        lambda b, value: b.view.put([b.cube], expected_version=value),
        NO_COUNTS,
    ),
    "put expected_version of two": (
        "expected_version",
        lambda b, value: b.view.put([b.cube, b.view.cube("x")], expected_version=value),
        [1],
    ),
    "put duplicates": (
        "duplicates",
        lambda b, value: b.view.put([b.cube], duplicates=value),
        ["merge", 1, THING, DuplicatePolicy],
    ),
    "put a cube's id": ("id", changed("id"), ["", " ", NUL, SURROGATE, "a\n", 1, None, "FOREIGN", "FIRST"]),
    "put a cube's version": ("version", changed("version"), [0, -1, "1", None, 1.5]),
    "put a cube's key": ("key", changed("key"), [1, None, NUL, SURROGATE]),
    "put a cube's state": ("state", changed("state"), ["dead", None, 1]),
    "put a cube's parts": ("header", changed("header"), [None, {}, 1]),
    "put a cube's payload": ("payload", changed("payload"), [None, {}, "text"]),
    "put a cube's scope": ("scope", changed("scope"), [None, {}, "ann"]),
    "put a cube's sources": ("derived_from", changed("derived_from"), [None, (1,), ("x",)]),
    # -- update, versions ----------------------------------------------------------------------------------
    "update cube_id": ("cube", lambda b, value: b.view.update(value, "x"), NO_IDS),
    "update content": (
        "content|text|structure",
        lambda b, value: b.view.update(b.second, value),
        [b"x", THING, {1}, NAN, "", " ", SURROGATE, Unregistered()],
    ),
    "update expected_version": (
        "expected_version",
        lambda b, value: b.view.update(b.second, "x", expected_version=value),
        [*NO_COUNTS, 0, 7, 2**70],
    ),
    "update something unknown": (
        "owner",
        lambda b, value: b.view.update(b.second, **value),
        [{"owner": "bob"}],
    ),
    "update text": ("text", update("text"), [None, *NO_TEXTS, "", " "]),
    "update tags": ("tags", update("tags"), [None, *NO_LISTS]),
    "update sensitivity": ("sensitivity", update("sensitivity"), [None, *NO_LISTS]),
    "update ttl": ("ttl", update("ttl"), [1, timedelta(0), timedelta.max]),
    "update priority": ("priority", update("priority"), [None, "high", NAN]),
    "update semantic_type": ("semantic_type", update("semantic_type"), [None, *NO_NAMES]),
    "update spoken_at": ("spoken_at", update("spoken_at"), NO_MOMENTS),
    "update valid_to": ("valid_to", update("valid_to"), NO_MOMENTS),
    "read cube_id": ("cube", lambda b, value: b.view.read(value), NO_IDS),
    "read as_of": ("as_of", lambda b, value: b.view.read(b.first, as_of=value), NO_MOMENTS),
    "history cube_id": ("cube", lambda b, value: b.view.history(value), NO_IDS),
    "diff cube_id": ("cube", lambda b, value: b.view.diff(value, 1), NO_IDS),
    "diff old": ("old", lambda b, value: b.view.diff(b.first, value), [None, *NO_COUNTS]),
    "diff new": ("new", lambda b, value: b.view.diff(b.first, 1, value), NO_COUNTS),
    "diff a version that is not there": ("version", lambda b, v: b.view.diff(b.first, v), [0, 3, 2**62]),
    "rollback cube_id": ("cube", lambda b, value: b.view.rollback(value, 1), NO_IDS),
    "rollback version": (
        "version",
        lambda b, value: b.view.rollback(b.first, value),
        [None, *NO_COUNTS, 0, 3, 2**70],
    ),
    "merge ids": (
        "ids|cube",
        lambda b, value: b.view.merge(value),
        [*NO_ID_LISTS, [], ["FIRST"], ["FIRST", "FIRST"], ["FIRST", "unknown"], ["FIRST", "FOREIGN"]],
    ),
    "merge content": (
        "content|text|structure",
        lambda b, value: b.view.merge([b.first, b.second], value),
        [b"x", THING, NAN, "", " ", SURROGATE, Unregistered()],
    ),
    "merge text": (
        "text",
        lambda b, value: b.view.merge([b.first, b.second], "both", text=value),
        NO_TEXTS,
    ),
    # -- life, governance ----------------------------------------------------------------------------------
    **{
        f"{method} ids": (
            "ids|cube",
            lambda b, value, method=method: getattr(b.view, method)(value),
            [*NO_ID_LISTS, *NOT_THERE],
        )
        for method in ("archive", "activate", "freeze", "unfreeze")
    },
    "delete ids": ("ids", lambda b, value: b.view.delete(value), NO_ID_LISTS),
    "delete_where namespace": (
        "namespace",
        lambda b, value: b.view.delete_where(namespace=value),
        [None, *NO_LISTS, [""]],
    ),
    "delete_where types": ("types", lambda b, value: b.view.delete_where(types=value), NO_LISTS),
    "delete_where not_types": ("not_types", lambda b, value: b.view.delete_where(not_types=value), NO_LISTS),
    **{
        f"{method} {argument}": (word, call, values)
        for method in ("grant", "revoke")
        for argument, word, call, values in (
            (
                "ids",
                "ids|cube",
                lambda b, value, method=method: getattr(b.view, method)(value, "user:bob"),
                [*NO_ID_LISTS, *NOT_THERE],
            ),
            (
                "to",
                "to",
                lambda b, value, method=method: getattr(b.view, method)(b.first, value),
                [
                    None,
                    *NO_NAMES,
                    "",
                    "bob",
                    "user:",
                    "user: ",
                    "user:*",
                    f"user:{NUL}",
                    f"group:{SURROGATE}",
                ],
            ),
            (
                "rights",
                "rights",
                lambda b, value, method=method: getattr(b.view, method)(b.first, "user:bob", value),
                [None, 1, THING, [], "all", ["delete"], [1], [None], [["read"]], ["read", "delete"]],
            ),
        )
    },
    "grants cube_id": ("cube", lambda b, value: b.view.grants(value), NO_IDS),
    "add_to_group group": (
        "group",
        lambda b, value: b.memos.add_to_group(value, ["cyd"]),
        [None, *NO_NAMES, "", " ", "*", "a\n"],
    ),
    "add_to_group users": (
        "users",
        lambda b, value: b.memos.add_to_group("crew", value),
        [None, *NO_LISTS, [""], ["*"], ["cyd", ""], ["a\n"]],
    ),
    "remove_from_group users": (
        "users",
        lambda b, value: b.memos.remove_from_group("crew", value),
        [None, *NO_LISTS, [""], ["bob", "*"]],
    ),
    **{
        f"audit_log {name}": (name, log(name), NO_NAMES)
        for name in ("cube_id", "action", "principal", "adapter")
    },
    "audit_log since": ("since", log("since"), NO_MOMENTS),
    "audit_log until": ("until", log("until"), NO_MOMENTS),
    "audit_log limit": ("limit|too large", log("limit"), [*NO_COUNTS, 2**70]),
    # -- look ----------------------------------------------------------------------------------------------
    "at namespace": ("namespace", lambda b, value: b.view.at(value, "k"), [None, *NO_LISTS, [""]]),
    "at key": ("key", lambda b, value: b.view.at(("memories",), value), [None, *NO_NAMES]),
    "find namespace": ("namespace", find("namespace"), [None, *NO_LISTS, [""]]),
    "find types": ("types", find("types"), NO_LISTS),
    "find not_types": ("not_types", find("not_types"), NO_LISTS),
    "find kinds": ("kinds", find("kinds"), NO_LISTS),
    "find states": ("states", find("states"), ["archived", 1, THING, [1], [None], ["dead"], [["archived"]]]),
    "find valid_at": ("valid_at|valid at", find("valid_at"), NO_MOMENTS),
    "find as_of": ("as_of", find("as_of"), NO_MOMENTS),
    "find limit": ("limit|too large", find("limit"), [*NO_COUNTS, 2**70]),
    "find offset": ("offset|too large", find("offset"), [None, *NO_COUNTS, 2**70]),
    "find limit in the past": ("limit", find("limit", as_of=AWARE), NO_COUNTS),
    "find order": ("order", find("order"), [None, 1, "random", ["created"], {}]),
    "namespaces prefix": ("prefix|namespace", lambda b, v: b.view.namespaces(v), [None, *NO_LISTS, [""]]),
    "ids_ending part": ("part", lambda b, value: b.view.ids_ending(value), [None, *NO_NAMES]),
    "search query": ("query", lambda b, v: b.view.search(v), [None, 1, b"x", ["a"], THING, True]),
    "search k": ("k must", search("k"), [None, *NO_COUNTS, 0]),
    "search types": ("types", search("types"), NO_LISTS),
    "search not_types": ("not_types", search("not_types"), NO_LISTS),
    "search namespace": ("namespace", search("namespace"), [None, *NO_LISTS]),
    "search states": ("states", search("states"), ["archived", 1, [1], ["dead"], [["archived"]]]),
    "search min_similarity": ("min_similarity", search("min_similarity"), ["x", NAN, INFINITY, THING, True]),
    "search accept": ("accept", search("accept"), [1, "x", THING]),
    "search valid_at": ("valid_at", search("valid_at"), NO_MOMENTS),
    "search as_of": ("as_of", search("as_of"), NO_MOMENTS),
    # -- memos.py ------------------------------------------------------------------------------------------
    "recall query": ("query", lambda b, v: b.view.recall(v), [None, 1, b"x", ["a"], THING, True]),
    "recall k": ("k must", lambda b, v: b.view.recall("heron", k=v), [None, *NO_COUNTS, 0]),
    "remember keys": (
        "keys",
        lambda b, v: b.view.remember([{"role": "user", "content": "x"}], keys=v),
        [[], ["a", "b"], "ab", 1, [1], [b"a"], [SURROGATE], [NUL]],
    ),
    "insert index": (
        "index",
        lambda b, v: b.view.insert(v, {"role": "user", "content": "x"}),
        [None, "1", 1.5, True, THING],
    ),
    "remember messages": (
        "messages|text",
        lambda b, value: b.view.remember(value),
        [
            None,
            1,
            "abc",
            {"role": "user", "content": "x"},
            [1],
            [None],
            [{}],
            [{"role": "user"}],
            [{"role": 1, "content": "x"}],
            [{"role": "user", "content": "fine"}, {"role": "user", "content": SURROGATE}],
        ],
    ),
    "prompt messages": (
        "messages",
        lambda b, value: b.view.prompt(value),
        [None, 1, "abc", [1], [{}], [{"role": "user", "content": None}]],
    ),
    "prompt k": ("k must", lambda b, v: b.view.prompt([], k=v), [None, *NO_COUNTS]),
    "prompt room_for": ("room_for", lambda b, v: b.view.prompt([], room_for=v), [None, *NO_COUNTS]),
    "turn_finished system": ("system", lambda b, v: b.view.turn_finished(system=v), [1, THING, SURROGATE]),
    "scoped user": ("user", scoped("user"), [*NO_NAMES, "", " ", "a\n", "*"]),
    "scoped agent": ("agent", scoped("agent"), [*NO_NAMES, "", " ", "a\n"]),
    "scoped session": ("session", scoped("session"), [*NO_NAMES, "", " ", "a\n"]),
    "scoped adapter": ("adapter", scoped("adapter"), NO_NAMES),
    "scoped clearance": ("clearance", scoped("clearance"), NO_LISTS),
    "register": ("structure", lambda b, value: b.view.register(value), [None, 1, "x", object]),
    "open url": ("url", lambda _, v: MemOS.open(v, embedder=None), ["", " ", NUL, SURROGATE, 1, b"x", ["a"]]),
    "open tenant": ("tenant", opened("tenant"), [*NO_NAMES, "", " "]),
    "open user": ("user", opened("user"), [*NO_NAMES, "", " "]),
    "open agent": ("agent", opened("agent"), [*NO_NAMES, "", " "]),
    "open session": ("session", opened("session"), [*NO_NAMES, "", " "]),
    "open principal": ("principal", opened("principal"), ["bob", 1, {}, THING, Principal]),
    "open embedder": ("embedder", opened("embedder"), [1, [], THING, b"x", True]),
    "open index": ("index", opened("index"), [None, 1, "best", []]),
    "open extractor": ("extractor", opened("extractor"), [1, "x", []]),
    "open structures": ("structure", opened("structures"), [1, "abc", [1], [object], object]),
    "open duplicates": ("duplicates", opened("duplicates"), ["merge", 1, THING, {}]),
    "open lifecycle": ("lifecycle", opened("lifecycle"), ["never", 1, THING, []]),
    # -- policies ------------------------------------------------------------------------------------------
    "DuplicatePolicy exact": ("exact", lambda _, v: DuplicatePolicy(exact=v), [None, "drop", 1, []]),
    "DuplicatePolicy similarity": (
        "similarity",
        lambda _, v: DuplicatePolicy(similarity=v),
        [None, 0, -1, 2, NAN, "0.9", True],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_error_that_names_it_and_changes_nothing(bad: Bad, name: str) -> None:
    word, call, values = CASES[name]
    before = bad.rows()
    for value in values:
        given = tuple(bad.named([*value])) if isinstance(value, tuple) else bad.named(value)
        try:
            call(bad, given)
        except MemOSError as err:
            message = str(err)
        else:
            pytest.fail(f"{given!r:.80} was taken")
        assert any(part in message for part in word.split("|")), (given, message)
        assert "\n" not in message
        assert len(message) < 400, message
    assert bad.rows() == before


def test_what_postgresql_cannot_store_is_refused_there_by_name(bad: Bad) -> None:
    before = bad.rows()
    if bad.memos.vault.location.server is None:
        return  # SQLite keeps it: see test_roundtrip
    for call in (
        lambda: bad.view.write(NUL),
        lambda: bad.view.write("x", text=NUL),
        lambda: bad.view.update(bad.first, NUL),
        lambda: bad.view.remember([{"role": "user", "content": NUL}]),
        lambda: bad.view.remember([{"role": "user", "content": "I like \x00 tea."}]),
    ):
        with pytest.raises(MemOSError, match="text holds a NUL"):
            call()
    assert bad.rows() == before


def test_somebody_elses_cube_is_not_there_rather_than_forbidden(bad: Bad) -> None:
    with pytest.raises(NotFound):
        bad.view.read(bad.foreign)
    assert bad.view.delete(bad.foreign) == []
    assert bad.memos.scoped(user="bob").read(bad.foreign).text == "The owl is awake."
