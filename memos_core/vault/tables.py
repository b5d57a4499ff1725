"""The schema of a vault, on SQLite and on PostgreSQL. Times are microseconds since the epoch, UTC; JSON is text.

A part of a scope that is not set is stored as "" so that it takes part in unique keys. A namespace is
stored as its labels joined and ended by `SEP`, so that a prefix search is one range of the index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

SCHEMA_VERSION = 3
SEP = "\x1f"

metadata = MetaData()
_Seq = BigInteger().with_variant(Integer, "sqlite")
# Compared byte by byte on both: a database's own collation is not the order of Python or of a prefix search.
_Chars = String().with_variant(String(collation="C"), "postgresql")


class Vector(TypeDecorator[npt.NDArray[np.float32]]):
    """Float32 numbers: bytes (little-endian) on SQLite, pgvector's `vector` on PostgreSQL."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(LargeBinary())
        from pgvector.sqlalchemy import VECTOR

        return dialect.type_descriptor(VECTOR())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """To the database."""
        if value is None or dialect.name == "postgresql":
            return value
        return np.ascontiguousarray(value, "<f4").tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """From the database."""
        if value is None or dialect.name == "postgresql":
            return value
        return np.frombuffer(value, "<f4")


meta = Table(
    "meta", metadata, Column("key", _Chars, primary_key=True), Column("value", _Chars, nullable=False)
)

cubes = Table(
    "cubes",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("id", _Chars, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("agent", _Chars, nullable=False),
    Column("session", _Chars, nullable=False),
    Column("namespace", _Chars, nullable=False),
    Column("key", _Chars, nullable=False),
    Column("kind", _Chars, nullable=False),
    Column("text", _Chars, nullable=False),
    Column("payload", _Chars, nullable=False),  # JSON: the payload without `kind` and `text`
    Column("semantic_type", _Chars, nullable=False),
    Column("state", _Chars, nullable=False),
    Column("frozen", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("written_at", BigInteger, nullable=False),  # the vault's clock, when this version was stored
    Column("expires_at", BigInteger),
    Column("valid_from", BigInteger),
    Column("valid_to", BigInteger),
    Column("header", _Chars, nullable=False),  # JSON: the rest of descriptive and governance
    Column("derived_from", _Chars, nullable=False),  # JSON: [[id, version], …]
    Column("content_hash", _Chars, nullable=False),  # equal for exact duplicates
    Column("slot", _Chars, nullable=False),  # what only one statement at a time can be true about, or ""
    Column("partition", _Chars, nullable=False),  # one word for (tenant, user), for the text index
    Column("checksum", _Chars, nullable=False),  # of all that changes only with the version
    UniqueConstraint("tenant", "user", "namespace", "key", name="uq_cubes_address"),
    Index("ix_cubes_scope", "tenant", "user", "semantic_type", "id"),
    Index("ix_cubes_updated", "tenant", "user", "updated_at"),
    Index("ix_cubes_expiry", "expires_at"),
    Index("ix_cubes_session", "tenant", "session", "semantic_type", "id"),
    Index("ix_cubes_content", "tenant", "user", "content_hash"),
    Index(
        "ix_cubes_slot",
        "tenant",
        "user",
        "slot",
        sqlite_where=text("slot <> ''"),
        postgresql_where=text("slot <> ''"),
    ),
    sqlite_autoincrement=True,
)

# Superseded versions only: the current one is the row in `cubes`.
versions = Table(
    "versions",
    metadata,
    Column("cube_id", _Chars, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("cube", _Chars, nullable=False),  # JSON of its row in `cubes`, and its behaviour
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("written_at", BigInteger, nullable=False),
    Column("replaced_at", BigInteger, nullable=False),
    Index("ix_versions_scope", "tenant", "user", "written_at"),
)

# derived cube → its sources, so that deleting a source finds what must go with it.
sources = Table(
    "sources",
    metadata,
    Column("source_id", _Chars, primary_key=True),
    Column("cube_id", _Chars, primary_key=True),
    Index("ix_sources_cube", "cube_id"),
)

# Sensitivity of a cube, one row a label, for the check against a principal's clearance.
labels = Table(
    "labels",
    metadata,
    Column("cube_id", _Chars, primary_key=True),
    Column("label", _Chars, primary_key=True),
)

# Who else may do what with a cube. `name` is a user's or a group's; "" for everyone of the tenant.
grants = Table(
    "grants",
    metadata,
    Column("cube_id", _Chars, primary_key=True),
    Column("kind", _Chars, primary_key=True),  # user, group, everyone
    Column("name", _Chars, primary_key=True),
    Column("right", _Chars, primary_key=True),  # read, write, share
    Column("tenant", _Chars, nullable=False),
    Index("ix_grants_name", "tenant", "kind", "name", "right", "cube_id"),
)

members = Table(
    "members",
    metadata,
    Column("tenant", _Chars, primary_key=True),
    Column("group", _Chars, primary_key=True),
    Column("user", _Chars, primary_key=True),
    Index("ix_members_user", "tenant", "user"),
)

behaviour = Table(
    "behaviour",
    metadata,
    Column("cube_id", _Chars, primary_key=True),
    Column("reads", Integer, nullable=False),
    Column("last_read", BigInteger, nullable=False),
    Column("frequency", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("principal", _Chars, nullable=False),
    Column("adapter", _Chars, nullable=False),
    Column("action", _Chars, nullable=False),
    Column("cube_id", _Chars, nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("detail", _Chars, nullable=False),
    Column("n", BigInteger, nullable=False),  # its place in the chain of (tenant, user), from 1
    Column("hash", _Chars, nullable=False),  # of this record and the hash before it
    Index("ix_audit_chain", "tenant", "user", "n", unique=True),
    sqlite_autoincrement=True,
)

# The end of each chain. A writer of a user's cubes holds this row: it is also the lock of that user's memory.
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("tenant", _Chars, primary_key=True),
    Column("user", _Chars, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("hash", _Chars, nullable=False),
)

# What is gone for good, without its content: other processes drop from it what they derived.
tombstones = Table(
    "tombstones",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("cube_id", _Chars, nullable=False, index=True),
    Column("kv_key", _Chars, nullable=False),  # of an activation cube, the name of its file
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("action", _Chars, nullable=False),  # delete, erase, expire
    sqlite_autoincrement=True,
)

# Cubes whose vector is missing or stale. Written in the cube's transaction, cleared when the vector is in.
index_queue = Table(
    "index_queue",
    metadata,
    Column("cube_id", _Chars, primary_key=True),
    Column("version", Integer, nullable=False),
)

# Derived: can be dropped and rebuilt from `cubes`. `in_index` says whether the ANN index holds it too. A new
# vector of a cube is a new row: `seq` tells a reader what it has not seen yet.
vectors = Table(
    "vectors",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("cube_id", _Chars, nullable=False, unique=True),
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("version", Integer, nullable=False),
    Column("embedder", _Chars, nullable=False),
    Column("dims", Integer, nullable=False),
    Column("vector", Vector, nullable=False),  # unit length
    Column("in_index", Boolean, nullable=False, index=True),
    Index("ix_vectors_scope", "tenant", "user", "seq"),
    sqlite_autoincrement=True,
)

# Which memories stand resident in front of a user's prompts (MemScheduler). Rows are never changed.
plans = Table(
    "plans",
    metadata,
    Column("id", _Chars, primary_key=True),
    Column("tenant", _Chars, nullable=False),
    Column("user", _Chars, nullable=False),
    Column("agent", _Chars, nullable=False),
    Column("system", _Chars, nullable=False),
    Column("cube_ids", _Chars, nullable=False),  # JSON list, in prompt order
    Column("reason", _Chars, nullable=False),
    Column("planned_at", BigInteger, nullable=False),
    Index("ix_plans_scope", "tenant", "user", "agent", "id"),
)

# The plan a session started with: it keeps it, so that its prompts keep their prefix.
session_plans = Table(
    "session_plans",
    metadata,
    Column("tenant", _Chars, primary_key=True),
    Column("user", _Chars, primary_key=True),
    Column("agent", _Chars, primary_key=True),
    Column("session", _Chars, primary_key=True),
    Column("plan_id", _Chars, nullable=False),
)

# LangGraph threads. What a thread stores is keyed by its number and goes with it; `seq` is never used again.
threads = Table(
    "threads",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("tenant", _Chars, nullable=False),
    Column("thread_id", _Chars, nullable=False),
    Column("generation", BigInteger, nullable=False),  # grows when blobs of it are deleted
    Column("expires_at", BigInteger),
    UniqueConstraint("tenant", "thread_id", name="uq_threads_id"),
    Index(
        "ix_threads_expiry",
        "expires_at",
        sqlite_where=text("expires_at IS NOT NULL"),
        postgresql_where=text("expires_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

# The serializer's (type, bytes) pairs; nothing here reads them. An encrypted row has its metadata and refs in
# `checkpoint`, and "aes-gcm" as its type.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("thread", BigInteger, primary_key=True, autoincrement=False),
    Column("checkpoint_ns", _Chars, primary_key=True),
    Column("checkpoint_id", _Chars, primary_key=True),
    Column("parent_id", _Chars),
    Column("run_id", _Chars),
    Column("user_id", _Chars),  # from its metadata: whose it is, where the saver's view has no user
    Column("type", _Chars, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),  # without channel_values
    Column("refs", LargeBinary, nullable=False),  # each channel's version, type and entries
    Column("metadata", _Chars, nullable=False),  # JSON
    Column("digest", LargeBinary, nullable=False),  # of all this and its address
    Index(
        "ix_checkpoints_run",
        "run_id",
        sqlite_where=text("run_id IS NOT NULL"),
        postgresql_where=text("run_id IS NOT NULL"),
    ),
    Index(
        "ix_checkpoints_user",
        "user_id",
        sqlite_where=text("user_id IS NOT NULL"),
        postgresql_where=text("user_id IS NOT NULL"),
    ),
)

# What values are made of, by hash (see vault/chunking.py): each part is stored once in a thread.
checkpoint_chunks = Table(
    "checkpoint_chunks",
    metadata,
    Column("thread", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

checkpoint_writes = Table(
    "checkpoint_writes",
    metadata,
    Column("thread", BigInteger, primary_key=True, autoincrement=False),
    Column("checkpoint_ns", _Chars, primary_key=True),
    Column("checkpoint_id", _Chars, primary_key=True),
    Column("task_id", _Chars, primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("task_path", _Chars, nullable=False),
    Column("channel", _Chars, nullable=False),
    Column("type", _Chars, nullable=False),
    Column("value", LargeBinary, nullable=False),  # entries
    Column("digest", LargeBinary, nullable=False),  # of all this and its address
    sqlite_with_rowid=False,
)

LIVE_TEXT = "kind = 'plaintext' AND state IN ('generated', 'activated')"


def _when(row: str) -> str:
    return f"{row}.kind = 'plaintext' AND {row}.state IN ('generated', 'activated')"


# SQLite: external-content FTS5 over a view of the live texts. It holds no second copy of them, and triggers keep it,
# but for new cubes: an INSERT with a trigger makes FTS5 write a segment of its own for every row (`SQLite.add_texts`).
# "BEFORE UPDATE" and "AFTER UPDATE" because FTS5 must be told of the old text before the new one.
FTS5_DDL = (
    f"CREATE VIEW cube_texts AS SELECT seq, text, partition FROM cubes WHERE {LIVE_TEXT}",
    "CREATE VIRTUAL TABLE cube_fts USING fts5(text, partition, content='cube_texts', content_rowid='seq', "
    "tokenize='porter unicode61 remove_diacritics 2', columnsize=0)",
    f"CREATE TRIGGER cube_fts_delete AFTER DELETE ON cubes WHEN {_when('old')} BEGIN "
    "INSERT INTO cube_fts(cube_fts, rowid, text, partition) "
    "VALUES ('delete', old.seq, old.text, old.partition); END",
    f"CREATE TRIGGER cube_fts_before BEFORE UPDATE OF text, state ON cubes WHEN {_when('old')} BEGIN "
    "INSERT INTO cube_fts(cube_fts, rowid, text, partition) "
    "VALUES ('delete', old.seq, old.text, old.partition); END",
    f"CREATE TRIGGER cube_fts_after AFTER UPDATE OF text, state ON cubes WHEN {_when('new')} BEGIN "
    "INSERT INTO cube_fts(rowid, text, partition) VALUES (new.seq, new.text, new.partition); END",
)
ADD_TEXTS = (
    "INSERT INTO cube_fts(rowid, text, partition) SELECT seq, text, partition FROM cubes "
    f"WHERE id IN (SELECT value FROM json_each(?)) AND {LIVE_TEXT}"
)
# PostgreSQL: an index on the expression; a text has at most a megabyte of lexemes there.
TSVECTOR = "to_tsvector('english', left(cubes.text, 200000))"
POSTGRES_DDL = (
    f"CREATE INDEX ix_cubes_text ON cubes USING gin ({TSVECTOR.replace('cubes.', '')}) WHERE {LIVE_TEXT}",
)
