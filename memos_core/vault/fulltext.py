"""Search by words on SQLite. FTS5 says quickly which texts hold a word, but ranks slowly: its `bm25()` goes
through every posting of every word, whoever's text it is, and reads the length of each text from another table.
So the index only nominates, inside the partitions of the users who are asked about, and what it nominates is
scored here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    TableValuedAlias,
    and_,
    bindparam,
    column,
    func,
    select,
    text,
)

from memos_core.vault import tables as t
from memos_core.vault.database import LOCAL_TEXTS, TextScope
from memos_core.vault.filter import CubeFilter
from memos_core.vault.prepared import Prepared
from memos_core.vault.rows import partition_of
from memos_core.vault.words import bm25

_MATCH = "SELECT rowid FROM cube_fts WHERE cube_fts MATCH ? ORDER BY rowid DESC LIMIT ?"
_HITS = text(_MATCH.replace("?", ":match", 1).replace("?", ":limit")).columns(rowid=Integer)
_LATEST = 4_096  # of a word that is in more texts than this, these nominate


def lexical(
    conn: Connection, prepared: Prepared, words: Sequence[str], within: TextScope, limit: int
) -> list[tuple[str, float]]:
    """See `Database.lexical`. Where at most `LOCAL_TEXTS` texts hold a word, all of them are scored by BM25.
    Of more, those whose words are rarest; of a very common word only the latest texts nominate."""
    inside = ""
    if within.owners is not None:
        inside = (
            "partition : (" + " OR ".join(partition_of(within.tenant, o) for o in within.owners) + ") AND "
        )
    match = inside + "text : (" + " OR ".join(map(_quoted, words)) + ")"
    some = {"match": match, "limit": LOCAL_TEXTS + 1}
    rows = prepared.run(conn, "holding", within.which, _of_hits, some)
    total = within.size(conn)
    if len(rows) <= LOCAL_TEXTS:
        return _scored(words, rows, total, {})[:limit]
    nominated, held = _nominated(conn, words, inside, total)
    size, start = max(LOCAL_TEXTS, 4 * limit), 0
    ranked: list[tuple[str, float]] = []
    while len(ranked) < limit and start < len(nominated):
        some = {"seqs": json.dumps(nominated[start : start + size].tolist())}
        rows = prepared.run(conn, "nominated", within.which, _of_seqs, some)
        ranked += _scored(words, rows, total, held)
        start, size = start + size, size * 4
    return sorted(ranked, key=_order)[:limit]


def each(name: str, type_: Any = None) -> TableValuedAlias:
    """A table of the values in the JSON list that the parameter `name` holds."""
    return func.json_each(bindparam(name)).table_valued(column("value", type_))


def _of_hits(which: CubeFilter) -> Select[Any]:
    hits = _HITS.subquery("hits")
    return _looked_up(hits, hits.c.rowid, which)


def _of_seqs(which: CubeFilter) -> Select[Any]:
    given = each("seqs", Integer())
    return _looked_up(given, given.c.value, which)


def _holding(conn: Connection, match: str, limit: int) -> list[int]:
    return [row[0] for row in conn.exec_driver_sql(_MATCH, (match, limit)).all()]


def _nominated(conn: Connection, words: Sequence[str], inside: str, total: int) -> tuple[Any, dict[str, int]]:
    """Texts that hold any of the words, those with the rarest words first, and how many hold each word."""
    found, weights, held = [], [], {}
    for word in words:
        seqs = np.asarray(_holding(conn, f"{inside}text : {_quoted(word)}", _LATEST), np.int64)
        held[word] = len(seqs)
        if len(seqs) == _LATEST:  # as dense before as in the latest
            held[word] = int(len(seqs) * max(1.0, seqs[0] / max(1, seqs[0] - seqs[-1])))
        n = max(total, held[word])
        found.append(seqs)
        weights.append(np.full(len(seqs), math.log(1 + (n - held[word] + 0.5) / (held[word] + 0.5))))
    seqs, places = np.unique(np.concatenate(found), return_inverse=True)
    scores = np.bincount(places, np.concatenate(weights))
    return seqs[np.lexsort((-seqs, -scores))], held


def _looked_up(given: FromClause, seq: ColumnElement[int], which: CubeFilter) -> Select[Any]:
    """The ids and texts of the cubes in `given` that may be found, and NULL for the others: an outer join, so that
    SQLite looks up each instead of going through all cubes of the user."""
    c = t.cubes.c
    return select(c.id, c.text).select_from(given.outerjoin(t.cubes, and_(c.seq == seq, which.where())))


def _scored(
    words: Sequence[str], rows: Sequence[Row[Any]], total: int, held: dict[str, int]
) -> list[tuple[str, float]]:
    found = [(row.id, row.text) for row in rows if row.id is not None]
    scores = bm25(words, [text for _, text in found], total=total, holding=held)
    return sorted(zip((id_ for id_, _ in found), scores, strict=True), key=_order)


def _order(found: tuple[str, float]) -> tuple[float, str]:
    return -found[1], found[0]


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
