"""What `benchmarks.vault` compares: one small interface over our vault, mem0 and LangGraph's SqliteStore."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import create_engine, make_url

from benchmarks.corpus import DIMS, InstantEmbedder
from memos_core import MemOS
from memos_core.errors import MemOSError

USER = "ada"
K = 10  # how many results a search or a listing asks for


class Side(Protocol):
    """One store of one user's memories."""

    name: str

    def write(self, text: str, topic: str) -> str:
        """Store one memory; its id. When this returns, it is durable."""
        ...

    def write_batch(self, texts: Sequence[str], topic: str) -> list[str]:
        """Store many in the one call that the library has for it."""
        ...

    def read(self, id_: str) -> None:
        """One memory by its id."""
        ...

    def search(self, query: str, topic: str) -> int:
        """The library's search in the user's scope for `K` results; how many came."""
        ...

    def listing(self, topic: str) -> int:
        """`K` memories of one topic, without a query; how many came."""
        ...

    def settle(self) -> None:
        """Wait until nothing of this side runs in the background, so that it costs the others no time."""
        ...

    def size(self) -> int:
        """Bytes on the disk, all files."""
        ...

    def durability(self) -> str:
        """What makes a write durable, as the store itself says."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Ours:
    """Our vault, on SQLite in a folder or on PostgreSQL.

    Args:
        where: a folder, or a `postgresql://` URL of a scratch database: a tenant of its own is written there.
        index: see `MemOS.open`.
    """

    def __init__(self, where: Path | str, index: str = "auto") -> None:
        self._where, self._index = where, index
        self._tenant = f"benchmark-{uuid.uuid4().hex[:8]}"
        self.name = "ours" if isinstance(where, Path) else "ours, PostgreSQL"
        self._memos = self._open()
        self._before = 0 if isinstance(where, Path) else database_size(where)

    def _open(self) -> MemOS:
        url, index = str(self._where), self._index
        return MemOS.open(url, tenant=self._tenant, user=USER, embedder=InstantEmbedder(), index=index)  # type: ignore[arg-type]

    def write(self, text: str, topic: str) -> str:
        return self._memos.write(text, semantic_type=topic).id

    def write_batch(self, texts: Sequence[str], topic: str) -> list[str]:
        cubes = [self._memos.cube(text, semantic_type=topic) for text in texts]
        return [cube.id for cube in self._memos.put(cubes)]

    def read(self, id_: str) -> None:
        self._memos.read(id_)

    def search(self, query: str, topic: str) -> int:
        return len(self._memos.search(query, k=K))

    def listing(self, topic: str) -> int:
        return len(self._memos.find(types=[topic], order="-updated", limit=K))

    def settle(self) -> None:
        self._memos.search("settle")
        self._memos.scheduler.wait_idle()

    def size(self) -> int:
        if not isinstance(self._where, Path):
            return database_size(self._where) - self._before
        self._memos.close()  # the write-ahead log goes into the database, as it does sooner or later
        try:
            return folder_size(self._where)
        finally:
            self._memos = self._open()
            self.settle()

    def durability(self) -> str:
        with self._memos.vault.db.read() as conn:
            if conn.dialect.name == "sqlite":
                asked = {name: f"PRAGMA {name}" for name in ("journal_mode", "synchronous")}
            else:
                asked = {name: f"SHOW {name}" for name in ("fsync", "synchronous_commit")}
            return _said({n: conn.exec_driver_sql(q).scalar_one() for n, q in asked.items()})

    def close(self) -> None:
        if not isinstance(self._where, Path):
            self._memos.delete_where()
        self._memos.close()


def open_mem0(folder: Path, store: str) -> Any:
    """mem0ai's own Memory over a local vector store, with an embedder that costs nothing and no language model.

    Args:
        store: "qdrant" or "chroma".
    """
    folder.mkdir(parents=True)
    os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=str(folder / "home"))  # read when it is imported
    from langchain_core.embeddings import Embeddings
    from mem0 import Memory  # type: ignore[import-untyped]

    logging.getLogger("mem0").setLevel(logging.ERROR)  # it says once that its extras are not installed
    instant = InstantEmbedder()

    class Instant(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            found: list[list[float]] = instant.embed_documents(texts).tolist()
            return found

        def embed_query(self, text: str) -> list[float]:
            found: list[float] = instant.embed_query(text).tolist()
            return found

    where: dict[str, Any] = {"path": str(folder / store)}
    if store == "qdrant":
        where["embedding_model_dims"] = DIMS
    return Memory.from_config(
        {
            "vector_store": {"provider": store, "config": where},
            "embedder": {"provider": "langchain", "config": {"model": Instant()}},
            "llm": {"provider": "openai", "config": {"api_key": "none"}},
            "history_db_path": str(folder / "history.db"),
        }
    )


class Mem0:
    """mem0ai's own Memory over its local stores: Qdrant in a folder, history in SQLite. No language model."""

    name = "mem0"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = open_mem0(folder, "qdrant")

    def write(self, text: str, topic: str) -> str:
        return self.write_batch([text], topic)[0]

    def write_batch(self, texts: Sequence[str], topic: str) -> list[str]:
        said = [{"role": "user", "content": text} for text in texts]
        added = self._memory.add(said, user_id=USER, metadata={"topic": topic}, infer=False)
        return [made["id"] for made in added["results"]]

    def read(self, id_: str) -> None:
        if self._memory.get(id_) is None:
            raise LookupError(id_)

    def search(self, query: str, topic: str) -> int:
        found = self._memory.search(query, filters={"user_id": USER}, top_k=K, threshold=0.0)
        return len(found["results"])

    def listing(self, topic: str) -> int:
        return len(self._memory.get_all(filters={"user_id": USER, "topic": topic}, top_k=K)["results"])

    def settle(self) -> None:
        """It does everything in the call."""

    def size(self) -> int:
        return folder_size(self._folder)

    def durability(self) -> str:
        [collection] = self._memory.vector_store.client._client.collections.values()
        history = _pragmas(self._memory.db.connection)
        return f"vectors and payload {_pragmas(collection.storage.storage)}; history {history}"

    def close(self) -> None:
        self._memory.vector_store.client.close()
        self._memory.close()


class LangGraphStore:
    """LangGraph's SqliteStore, opened as its documentation does. Without `index=`: sqlite-vec is an extension of
    SQLite, and this Python may be built without extensions."""

    name = "SqliteStore"
    _namespace = ("memories", USER)

    def __init__(self, folder: Path) -> None:
        from langgraph.store.base import PutOp
        from langgraph.store.sqlite import SqliteStore

        folder.mkdir(parents=True)
        self._folder, self._op = folder, PutOp
        self._stack = ExitStack()
        self._store = self._stack.enter_context(SqliteStore.from_conn_string(str(folder / "store.db")))
        self._store.setup()

    def write(self, text: str, topic: str) -> str:
        key = uuid.uuid4().hex
        self._store.put(self._namespace, key, {"text": text, "topic": topic})
        return key

    def write_batch(self, texts: Sequence[str], topic: str) -> list[str]:
        keys = [uuid.uuid4().hex for _ in texts]
        values = [{"text": text, "topic": topic} for text in texts]
        self._store.batch([self._op(self._namespace, k, v) for k, v in zip(keys, values, strict=True)])
        return keys

    def read(self, id_: str) -> None:
        if self._store.get(self._namespace, id_) is None:
            raise LookupError(id_)

    def search(self, query: str, topic: str) -> int:
        return self.listing(topic)

    def listing(self, topic: str) -> int:
        return len(self._store.search(self._namespace, filter={"topic": topic}, limit=K))

    def settle(self) -> None:
        """It does everything in the call."""

    def size(self) -> int:
        return folder_size(self._folder)

    def durability(self) -> str:
        return _pragmas(self._store.conn)

    def close(self) -> None:
        self._stack.close()


def sides(folder: Path, url: str | None, index: str) -> tuple[list[Side], list[str]]:
    """All sides that can be opened here, ours first, and a sentence for each that cannot."""
    made: list[Side] = [Ours(folder / "ours", index)]
    missing: list[str] = []
    makers: list[tuple[str, Callable[[], Side]]] = [
        ("mem0", lambda: Mem0(folder / "mem0")),
        ("SqliteStore", lambda: LangGraphStore(folder / "sqlitestore")),
    ]
    if url is not None:
        makers.insert(0, ("ours on PostgreSQL", lambda: Ours(url, index)))
    for name, maker in makers:
        try:
            made.append(maker())
        except (ImportError, MemOSError) as err:
            missing.append(f"{name}: {err}")
    return made, missing


def versions() -> str:
    """What was compared, by version."""
    names = ("mem0ai", "qdrant-client", "langgraph-checkpoint-sqlite")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([*found, f"SQLite {sqlite3.sqlite_version}"])


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def database_size(url: str) -> int:
    """Bytes of a PostgreSQL database, in all its tables and indexes."""
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed)
    try:
        with engine.connect() as conn:
            return int(conn.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    finally:
        engine.dispose()


def _pragmas(conn: sqlite3.Connection) -> str:
    return _said({n: conn.execute(f"PRAGMA {n}").fetchone()[0] for n in ("journal_mode", "synchronous")})


def _said(settings: dict[str, Any]) -> str:
    levels = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
    return ", ".join(
        f"{name}={levels.get(v, v) if name == 'synchronous' else v}" for name, v in settings.items()
    )
