"""The schema of a vault. One `MetaData`; times are microseconds since the epoch, UTC; JSON is text.

A part of a scope that is not set is stored as "" so that it takes part in unique keys. A namespace is
stored as its labels joined and ended by `SEP`, so that a prefix search is one range of the index.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 1
SEP = "\x1f"

metadata = MetaData()
_Seq = BigInteger().with_variant(Integer, "sqlite")

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

cubes = Table(
    "cubes",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("tenant", String, nullable=False),
    Column("user", String, nullable=False),
    Column("agent", String, nullable=False),
    Column("session", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("key", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("payload", Text, nullable=False),  # JSON: the payload without `kind` and `text`
    Column("semantic_type", String, nullable=False),
    Column("state", String, nullable=False),
    Column("frozen", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("header", Text, nullable=False),  # JSON: the rest of descriptive and governance
    Column("derived_from", Text, nullable=False),  # JSON: [[id, version], …]
    UniqueConstraint("tenant", "user", "namespace", "key", name="uq_cubes_address"),
    Index("ix_cubes_scope", "tenant", "user", "semantic_type", "id"),
    Index("ix_cubes_expiry", "expires_at"),
    Index("ix_cubes_session", "tenant", "session", "semantic_type", "id"),
    sqlite_autoincrement=True,
)

# Superseded versions only: the current one is the row in `cubes`.
versions = Table(
    "versions",
    metadata,
    Column("cube_id", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("cube", Text, nullable=False),  # JSON of its row in `cubes`, and its behaviour
    Column("replaced_at", BigInteger, nullable=False),
)

# derived cube → its sources, so that deleting a source finds what must go with it.
sources = Table(
    "sources",
    metadata,
    Column("source_id", String, primary_key=True),
    Column("cube_id", String, primary_key=True),
)

behaviour = Table(
    "behaviour",
    metadata,
    Column("cube_id", String, primary_key=True),
    Column("reads", Integer, nullable=False),
    Column("last_read", BigInteger, nullable=False),
    Column("frequency", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("principal", String, nullable=False),
    Column("adapter", String, nullable=False),
    Column("action", String, nullable=False),
    Column("cube_id", String, nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("tenant", String, nullable=False),
    Column("user", String, nullable=False),
    Column("detail", String, nullable=False),
    sqlite_autoincrement=True,
)

# Cubes whose vector is missing or stale. Written in the cube's transaction, cleared when the vector is in.
index_queue = Table(
    "index_queue",
    metadata,
    Column("cube_id", String, primary_key=True),
    Column("version", Integer, nullable=False),
)

# Derived: can be dropped and rebuilt from `cubes`. `in_index` says whether the ANN index holds it too.
vectors = Table(
    "vectors",
    metadata,
    Column("cube_id", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("embedder", String, nullable=False),
    Column("vector", LargeBinary, nullable=False),  # float32, little-endian, unit length
    Column("in_index", Boolean, nullable=False, index=True),
)

# Which memories stand resident in front of a user's prompts (MemScheduler). Rows are never changed.
plans = Table(
    "plans",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("user", String, nullable=False),
    Column("agent", String, nullable=False),
    Column("system", Text, nullable=False),
    Column("cube_ids", Text, nullable=False),  # JSON list, in prompt order
    Column("reason", Text, nullable=False),
    Column("planned_at", BigInteger, nullable=False),
    Index("ix_plans_scope", "tenant", "user", "agent", "id"),
)

# The plan a session started with: it keeps it, so that its prompts keep their prefix.
session_plans = Table(
    "session_plans",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("user", String, primary_key=True),
    Column("agent", String, primary_key=True),
    Column("session", String, primary_key=True),
    Column("plan_id", String, nullable=False),
)

# LangGraph checkpoints. Values are the serializer's (type, bytes) pairs; nothing here reads them.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("checkpoint_ns", String, primary_key=True),
    Column("checkpoint_id", String, primary_key=True),
    Column("parent_id", String),
    Column("run_id", String),
    Column("type", String, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),  # without channel_values
    Column("refs", Text, nullable=False),  # JSON: {channel: version of its row in checkpoint_blobs}
    Column("metadata", Text, nullable=False),  # JSON
    Index("ix_checkpoints_run", "tenant", "run_id", sqlite_where=text("run_id IS NOT NULL")),
)

# Channel values by (channel, version): a value that did not change between steps is stored once.
checkpoint_blobs = Table(
    "checkpoint_blobs",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("checkpoint_ns", String, primary_key=True),
    Column("channel", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("type", String, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

checkpoint_writes = Table(
    "checkpoint_writes",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("checkpoint_ns", String, primary_key=True),
    Column("checkpoint_id", String, primary_key=True),
    Column("task_id", String, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("task_path", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("type", String, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

# External-content FTS5 over cubes.text (SQLite only): holds no second copy of the text.
FTS_DDL = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS cube_fts USING fts5("
    "text, content='cubes', content_rowid='seq', tokenize='porter unicode61 remove_diacritics 2')"
)
