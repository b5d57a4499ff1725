"""Statements that run often, compiled once and handed to SQLite's driver: to build one with SQLAlchemy and to take its
result apart takes several times as long as SQLite takes to answer it. On PostgreSQL SQLAlchemy runs them.

`execute` and `execute_many` take a statement that is always the same. `run` takes one for each form of `CubeFilter`: a
filter of the same form is built with a marker in each place; where the markers end up in the finished statement says
which value goes where."""

from __future__ import annotations

import sqlite3
import threading
from collections import namedtuple
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, TextClause, Update
from sqlalchemy.sql.compiler import SQLCompiler

from memos_core.cube import ANY_USER, Scope, now
from memos_core.vault import tables as t
from memos_core.vault.filter import CubeFilter
from memos_core.vault.rows import micros, pack_namespace

_MARK = "\x7f"  # begins no value that the statements themselves hold
_MOMENT = datetime(1, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
_LISTS = ("types", "not_types", "kinds", "ids", "keys")
_MAX_KEPT = 500

Statement = Select[Any] | Insert | Update | Delete | TextClause
Make = Callable[[CubeFilter], Select[Any]]
_Get = Callable[[CubeFilter], Any]


class Prepared:
    """The statements of one database. Safe from many threads."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[str, list[_Get | str | tuple[Any]]]] = {}
        self._fixed: dict[Hashable, tuple[str, list[str | tuple[Any]]]] = {}
        self._lock = threading.Lock()

    def execute(self, conn: Connection, statement: Statement, values: Mapping[str, Any]) -> list[Any]:
        """The rows of a statement that is made once, a constant of its module. Of an INSERT without RETURNING, none."""
        if conn.dialect.name != "sqlite":
            result = conn.execute(statement, dict(values))
            return list(result.all()) if result.returns_rows else []
        sql, places = self._compiled(conn, statement, values)
        given = [values[p] if isinstance(p, str) else p[0] for p in places]
        return _rows(conn, sql, given)

    def execute_many(
        self, conn: Connection, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Run a statement that is made once for each of many rows, which all name the same values."""
        if not rows:
            return
        if conn.dialect.name != "sqlite":
            conn.execute(statement, [dict(row) for row in rows])
            return
        sql, places = self._compiled(conn, statement, rows[0])
        _begin(conn)
        driver(conn).executemany(
            sql, [[row[p] if isinstance(p, str) else p[0] for p in places] for row in rows]
        )

    def _compiled(
        self, conn: Connection, statement: Statement, values: Mapping[str, Any]
    ) -> tuple[str, list[str | tuple[Any]]]:
        key = (statement, tuple(values)) if isinstance(statement, Insert) else statement
        found = self._fixed.get(key)
        if found is None:
            compiled = statement.compile(
                dialect=conn.dialect, column_keys=list(values) if isinstance(statement, Insert) else None
            )
            assert isinstance(compiled, SQLCompiler)
            assert compiled.positiontup is not None
            places: list[str | tuple[Any]] = [
                p if p in values else (compiled.params[p],) for p in compiled.positiontup
            ]
            found = self._fixed[key] = (compiled.string, places)
        return found

    def run(
        self,
        conn: Connection,
        name: str,
        which: CubeFilter,
        make: Make,
        values: Mapping[str, Any],
        *,
        alone: bool = False,
    ) -> list[Any]:
        """The rows of a statement.

        Args:
            name: which statement; the same name is always the same `make`.
            make: builds it, with `which.where()` in it.
            values: of the parameters it names itself.
            alone: nothing else is read in its transaction, so that none is needed.
        """
        if conn.dialect.name != "sqlite":
            return list(conn.execute(make(which), dict(values)).all())
        key = (name, _form(which))
        found = self._kept.get(key)
        if found is None:
            found = _prepare(conn, make, which, values)
            with self._lock:
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()
                self._kept[key] = found
        sql, places = found
        given = [
            values[p] if isinstance(p, str) else p[0] if isinstance(p, tuple) else p(which) for p in places
        ]
        return _rows(conn, sql, given, alone=alone)


# A damaged text is found by its checksum; that it is no UTF-8 must not spoil the rows beside it.
any_text = partial(str, encoding="utf-8", errors="surrogateescape")


def driver(conn: Connection) -> Any:
    """The driver's own connection."""
    found = conn.connection.dbapi_connection
    assert found is not None
    return found


_as = tuple.__new__


def _begin(conn: Connection) -> None:
    if not conn.in_transaction():
        conn.begin()


def _rows(conn: Connection, sql: str, given: Sequence[Any], *, alone: bool = False) -> list[Any]:
    if not alone:
        _begin(conn)
    raw = driver(conn)
    try:
        raw.text_factory = str  # ours is called for every text
        cursor = raw.execute(sql, given)
        rows = cursor.fetchall()
    except sqlite3.OperationalError as err:
        if "decode" not in str(err):
            raise
        raw.text_factory = any_text
        cursor = raw.execute(sql, given)
        rows = cursor.fetchall()
    finally:
        raw.text_factory = any_text
    if not rows:
        return []
    kind = _row(tuple([column[0] for column in cursor.description]))
    return [_as(kind, row) for row in rows]  # `_make` takes four times as long


@lru_cache(maxsize=200)
def _row(names: tuple[str, ...]) -> Any:
    """A kind of row: a tuple with the columns as attributes, and as SQLAlchemy's rows have it, `_mapping`."""
    made = namedtuple("Row", names, rename=True)  # type: ignore[misc]
    return type("Row", (made,), {"__slots__": (), "_mapping": property(made._asdict)})


def _form(which: CubeFilter) -> Hashable:
    """Everything about a filter that changes the text of its SQL."""
    s = which.scope
    return (
        s.user if s.user in (None, ANY_USER) else "",
        s.agent is None,
        s.session is None,
        None if which.clearance is None else len(which.clearance),
        which.granted,
        bool(which.namespace),
        which.exact_namespace,
        tuple(None if (x := getattr(which, name)) is None else len(x) for name in _LISTS),
        None if which.states is None else tuple(which.states),
        which.expired,
        which.valid_at is None,
        which.sessionless,
    )


def _prepare(
    conn: Connection, make: Make, which: CubeFilter, values: Mapping[str, Any]
) -> tuple[str, list[_Get | str | tuple[Any]]]:
    marked, getters = _marked(which)
    compiled = make(marked).compile(dialect=conn.dialect)
    assert isinstance(compiled, SQLCompiler)
    state = compiled.construct_expanded_state(dict(values))
    assert state.positiontup is not None
    places: list[_Get | str | tuple[Any]] = []
    for param, value in zip(state.positiontup, state.positional_parameters, strict=True):
        if param in values:
            places.append(param)
        elif param.startswith("alive_at"):
            places.append(lambda _: micros(now()))
        elif isinstance(value, str | int) and value in getters:
            places.append(getters[value])
        else:
            assert not (isinstance(value, str) and value.startswith(_MARK)), f"no value for {value!r}"
            places.append((value,))
    return state.statement, places


@lru_cache(maxsize=100)
def _sorted(labels: frozenset[str]) -> list[str]:
    return sorted(labels)


def _marked(which: CubeFilter) -> tuple[CubeFilter, dict[str | int, _Get]]:
    """A filter of the same form with a marker in each place, and what each marker stands for."""
    getters: dict[str | int, _Get] = {}
    parts: dict[str, str] = {"tenant": _MARK + "tenant"}
    for part in ("user", "agent", "session"):
        value = getattr(which.scope, part)
        if value is not None and (part != "user" or value != ANY_USER):  # only of users is "*" every one
            parts[part] = _MARK + part
        elif part == "user" and which.scope.user == ANY_USER:
            parts[part] = ANY_USER
    for part, mark in parts.items():
        if mark != ANY_USER:
            getters[mark] = lambda w, part=part: getattr(w.scope, part)  # type: ignore[misc]
    changes: dict[str, Any] = {"scope": Scope(**parts)}
    for name in _LISTS:
        given = getattr(which, name)
        if given is not None:
            changes[name] = [f"{_MARK}{name}{i}" for i in range(len(given))]
            for i, mark in enumerate(changes[name]):
                getters[mark] = lambda w, name=name, i=i: getattr(w, name)[i]  # type: ignore[misc]
    if which.clearance is not None:
        marks = [f"{_MARK}label{i}" for i in range(len(which.clearance))]
        changes["clearance"] = frozenset(marks)
        for i, mark in enumerate(marks):
            getters[mark] = lambda w, i=i: _sorted(w.clearance)[i]  # type: ignore[misc]
    if which.namespace:
        changes["namespace"] = (_MARK + "namespace",)
        prefix = pack_namespace(changes["namespace"])
        getters[prefix] = lambda w: pack_namespace(w.namespace)
        getters[prefix[:-1] + chr(ord(t.SEP) + 1)] = lambda w: (
            pack_namespace(w.namespace)[:-1] + chr(ord(t.SEP) + 1)
        )
    if which.valid_at is not None:
        changes["valid_at"] = _MOMENT
        getters[micros(_MOMENT)] = lambda w: micros(w.valid_at or _MOMENT)
    return replace(which, **changes), getters
