"""MemOSStore against a model of it: a dictionary. And several processes on one vault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from support import bag_of_words

from langgraph.store.memos import MemOSStore
from memos_core.memos import MemOS

LABELS = st.sampled_from(["a", "b", "ab", "*", "%", "ü"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["x", "y", "z"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.5, 1.0, 2.0**60, 2**60 + 1]),
    st.sampled_from("pqr"),
)
FIELDS = st.sampled_from(["m", "n", "deep.key"])
VALUES = st.dictionaries(FIELDS, SCALARS, max_size=3)
OPERATORS = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
CONDITIONS = st.one_of(SCALARS, st.dictionaries(OPERATORS, SCALARS, min_size=1, max_size=2))
FILTERS = st.dictionaries(FIELDS, CONDITIONS, max_size=2)

PUTS = st.tuples(NAMESPACES, KEYS, st.one_of(st.none(), VALUES)).map(lambda op: PutOp(*op))
READS = st.one_of(
    st.builds(GetOp, NAMESPACES, KEYS),
    st.builds(
        SearchOp,
        st.lists(LABELS, max_size=2).map(tuple),
        filter=st.one_of(st.none(), FILTERS),
        limit=st.integers(0, 4),
        offset=st.integers(0, 3),
        query=st.none(),
    ),
    st.builds(
        ListNamespacesOp,
        st.lists(
            st.builds(
                MatchCondition, st.sampled_from(["prefix", "suffix"]), st.lists(LABELS, max_size=2).map(tuple)
            ),
            max_size=2,
        ).map(tuple),
        max_depth=st.one_of(st.none(), st.integers(1, 3)),
        limit=st.integers(0, 4),
        offset=st.integers(0, 2),
    ),
)


class Model:
    """What the store should do, in the plainest words: items in the order of their last put."""

    def __init__(self) -> None:
        self.items: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}

    def batch(self, ops: list[Any]) -> list[Any]:
        results = [self.read(op) for op in ops]
        last = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        for op in ops:
            address = op[:2] if isinstance(op, PutOp) else None
            if address is not None and last[address] is op:
                self.items.pop(address, None)
                if op.value is not None:
                    self.items[address] = op.value
        return results

    def read(self, op: Any) -> Any:
        if isinstance(op, GetOp):
            return self.items.get((op.namespace, op.key))
        if isinstance(op, SearchOp):
            depth = len(op.namespace_prefix)
            found = [
                (namespace, key)
                for (namespace, key), value in reversed(self.items.items())
                if namespace[:depth] == op.namespace_prefix
                and all(meets(value.get(name), wanted) for name, wanted in (op.filter or {}).items())
            ]
            return found[op.offset : op.offset + op.limit]
        if isinstance(op, ListNamespacesOp):
            every = {
                namespace[: op.max_depth]
                for namespace, _ in self.items
                if all(fits(namespace, condition) for condition in op.match_conditions or ())
            }
            return sorted(every)[op.offset : op.offset + op.limit]
        return None


def meets(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return equal(value, wanted)
    return all(compares(value, name, operand) for name, operand in wanted.items())


def compares(value: Any, name: str, operand: Any) -> bool:
    if name in ("$eq", "$ne"):
        return equal(value, operand) == (name == "$eq")
    numbers = all(type(x) in (int, float) for x in (value, operand))
    texts = all(isinstance(x, str) for x in (value, operand))
    if not (numbers or texts):
        return False
    return bool(
        {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand}.get(name, value <= operand)
    )


def equal(a: Any, b: Any) -> bool:
    return a is b if isinstance(a, bool) or isinstance(b, bool) else a == b


def fits(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    n = len(condition.path)
    part = namespace[:n] if condition.match_type == "prefix" else namespace[len(namespace) - n :]
    return len(namespace) >= n and all(
        want in ("*", got) for want, got in zip(condition.path, part, strict=True)
    )


def seen(result: Any, op: Any) -> Any:
    """A result of the store, as the model has it."""
    if isinstance(op, GetOp):
        return None if result is None else result.value
    if isinstance(op, SearchOp):
        return [(item.namespace, item.key) for item in result]
    return result


users = count()


@pytest.fixture(scope="module", name="vault")
def one_vault() -> Iterator[MemOS]:
    """One for all examples; each is another user."""
    with MemOS.open(":memory:", embedder=None) as memos:
        yield memos


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches=st.lists(st.lists(st.one_of(PUTS, READS), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_store_does_what_a_dictionary_would(vault: MemOS, batches: list[list[Any]]) -> None:
    store, model = MemOSStore(vault.scoped(user=f"user{next(users)}")), Model()
    for batch in batches:
        # Puts one by one: the order of updates within one transaction is not promised.
        reads = [op for op in batch if not isinstance(op, PutOp)]
        puts = [op for op in batch if isinstance(op, PutOp)]
        for ops in (reads, *([op] for op in puts), [*puts[:1], *reads]):
            found = store.batch(ops)
            assert [seen(r, op) for r, op in zip(found, ops, strict=True)] == model.batch(ops), ops


WRITER = """
import sys
from langgraph.store.base import PutOp
from langgraph.store.memos import MemOSStore
from support import bag_of_words
name, url = sys.argv[1:]
with MemOSStore.from_conn_string(url, index={"embed": bag_of_words}, ttl={"default_ttl": 60}) as store:
    for n in range(12):
        store.put(("shared", name), str(n), {"text": f"{name} wrote number{n}"})
        store.put(("shared", "counter"), "last", {"by": name, "n": n})
        store.batch([PutOp(("passing",), name, {"n": n}), PutOp(("passing",), "other" + name, None)])
        store.search(("shared",), limit=3)
    store.delete(("passing",), name)
    print(len(store.search(("shared", name), limit=100)))
"""


def test_two_processes_share_a_store(tmp_path: Path, environment: dict[str, str]) -> None:
    tests = str(Path(__file__).parents[1])
    environment = {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{tests}"}
    with MemOSStore.from_conn_string(tmp_path / "vault", index={"embed": bag_of_words}) as store:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, name, str(tmp_path / "vault")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for name in ("ada", "bob")
        ]
        for process in processes:
            out, err = process.communicate(timeout=240)
            assert (process.returncode, out.strip()) == (0, "12"), err
        assert store.list_namespaces() == [("shared", "ada"), ("shared", "bob"), ("shared", "counter")]
        last = store.get(("shared", "counter"), "last")
        assert last is not None
        assert last.value["n"] == 11
        # What others wrote is found here by its meaning.
        assert store.search(("shared",), query="bob number7")[0].value == {"text": "bob wrote number7"}
        assert not store.memos.doctor().findings
