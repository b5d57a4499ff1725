"""Chroma as an approximate index of vectors, embedded or on a server. It is derived data: it holds vectors, ids and
scope fields, never text; one process at a time owns an embedded one's folder."""

from __future__ import annotations

import contextlib
import logging
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from memos_core.cube import ANY_USER, Scope
from memos_core.errors import InvalidArgument, MemOSError, missing_extra

Matrix = npt.NDArray[np.float32]
log = logging.getLogger("memos_core.retrieval")

MAX_BATCH = 5_000  # Chroma refuses more than 5,461 at once
_COLLECTION = "cubes"
_FILE = "chroma.sqlite3"
_STAMP = "memos-stamp"


class IndexDamaged(MemOSError):
    """Chroma failed: its files are not what they should be. What it held can be had from the vault."""


class IndexUnreachable(MemOSError):
    """The Chroma server does not answer. What it holds is still there."""


def server_of(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is used, of a Chroma server's URL.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.path.strip("/")
        or parts.query
        or parts.username
    ):
        raise InvalidArgument(f"index must be 'auto', 'chroma', 'exact' or http://HOST:PORT, got {url!r}")
    return host, port or (443 if parts.scheme == "https" else 8000), parts.scheme == "https"


class ChromaIndex:
    """One collection, for one embedder: in a folder, or on a server that several processes share.

    Opening takes a folder's lock. A second process that asks gets `owned == False` and must search exactly: two
    processes on one embedded Chroma corrupt it silently.

    Args:
        place: the folder where Chroma keeps its files, made anew if it is damaged; or a server's URL.
        embedder: name of the embedder. vault_id: the vault's. epoch: see `VectorTable.epoch`. A collection made for
            others of these is dropped.

    Raises:
        MissingExtra: chromadb or filelock is not installed. IndexUnreachable: the server does not answer.
    """

    def __init__(self, place: Path | str, embedder: str, vault_id: str, epoch: str = "") -> None:
        try:
            import chromadb
            import filelock
        except ImportError:
            raise missing_extra("chromadb", "chroma") from None
        self._chromadb = chromadb
        self._place = place
        self._tag = {"memos_embedder": embedder, "memos_vault": vault_id, "memos_epoch": epoch}
        self._client: Any = None
        self._collection: Any = None
        self._files: tuple[int, int] | None = (
            None  # inode and size of the main file when it was last looked at
        )
        self._lock: Any = None
        self.owned = True
        if isinstance(place, str):
            # On a server collections of several vaults and embedders lie side by side.
            self._name = "memos-" + blake2b(f"{vault_id}\n{embedder}".encode(), digest_size=16).hexdigest()
            self._connect()
            return
        self._name = _COLLECTION
        place.parent.mkdir(parents=True, exist_ok=True)
        # Taken in one thread and given back in another.
        self._lock = filelock.FileLock(str(place) + ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            self.owned = False
            return
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    @property
    def epoch(self) -> str:
        """The epoch it was opened for."""
        return self._tag["memos_epoch"]

    def _open(self) -> None:
        try:
            self._connect()
        except Exception as err:  # noqa: BLE001 - Chroma raises its own and Rust errors; the index can be rebuilt
            self._anew(err)

    def recover(self, why: Exception, emptied: Callable[[], None]) -> None:
        """Make it usable again after a failure.

        Args:
            emptied: called before all it holds is dropped, where that has to be.

        Raises:
            IndexUnreachable: the server does not answer.
        """
        if isinstance(self._place, Path):
            emptied()
            self._anew(why)
            return
        before = str(getattr(self._collection, "id", ""))
        self._connect()
        if (
            str(self._collection.id) == before
        ):  # else another process, or the server's loss, has started it over
            emptied()
            self.start_over(self.epoch)

    def start_over(self, epoch: str) -> None:
        """Drop all it holds, files included, and go on empty.

        Raises:
            IndexUnreachable: the server does not answer.
        """
        self._tag = {**self._tag, "memos_epoch": epoch}
        if isinstance(self._place, Path):
            self._anew(None)
            return
        with self._reaching():
            with contextlib.suppress(self._chromadb.errors.NotFoundError, ValueError):
                self._client.delete_collection(self._name)
            self._collection = self._made()

    def _anew(self, why: Exception | None) -> None:
        assert isinstance(self._place, Path)
        if why is not None:
            log.warning("the Chroma folder %s is damaged and is made anew: %s", self._place, why)
        with contextlib.suppress(Exception):
            self._client.close()
        shutil.rmtree(self._place, ignore_errors=True)
        try:
            self._connect()
        except Exception:  # noqa: BLE001 - a client that failed stays in Chroma's cache for this path once more
            self._connect()

    def _connect(self) -> None:
        settings = self._chromadb.Settings(anonymized_telemetry=False, allow_reset=True)
        if isinstance(self._place, Path):
            self._client = self._chromadb.PersistentClient(path=str(self._place), settings=settings)
            self._collection = self._found()
            self._files = self._look()
            return
        with self._reaching():
            if self._client is None:
                host, port, tls = server_of(self._place)
                self._client = self._chromadb.HttpClient(
                    host=host,
                    port=port,
                    ssl=tls,
                    settings=self._chromadb.Settings(anonymized_telemetry=False),
                )
            self._collection = self._found()

    def _found(self) -> Any:
        if self._name in [c.name for c in self._client.list_collections()]:
            found = self._client.get_collection(self._name, embedding_function=None)
            if {k: (found.metadata or {}).get(k, "") for k in self._tag} == self._tag:
                return found
            self._client.delete_collection(self._name)
        return self._made()

    def _made(self) -> Any:
        return self._client.get_or_create_collection(
            self._name, metadata=self._tag, embedding_function=None, configuration={"hnsw": {"space": "ip"}}
        )

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except Exception as err:
            raise IndexUnreachable(f"the Chroma server {self._place} does not answer: {err}") from err

    def check(self) -> None:
        """Notice files that were taken away or cut while they are open, which Chroma itself does not.

        Raises:
            IndexDamaged: they were.
        """
        if not isinstance(self._place, Path):
            return
        found = self._look()
        if found is None or (self._files and (found[0] != self._files[0] or found[1] < self._files[1])):
            raise IndexDamaged(f"the files in {self._place} were removed, replaced or cut")
        self._files = found

    def _look(self) -> tuple[int, int] | None:
        assert isinstance(self._place, Path)
        try:
            found = (self._place / _FILE).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size

    @property
    def stamp(self) -> str:
        """What was last set; "" where nothing was. It tells this folder from an older or newer copy of it."""
        try:
            return (self._folder / _STAMP).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def set_stamp(self, stamp: str) -> None:
        """Write it beside Chroma's files.

        Raises:
            IndexDamaged: it cannot be written.
        """
        try:
            (self._folder / _STAMP).write_text(stamp, encoding="utf-8")
        except OSError as err:
            raise IndexDamaged(f"{self._folder} cannot be written: {err.strerror or err}") from err

    @property
    def remote(self) -> bool:
        """Whether it is on a server."""
        return isinstance(self._place, str)

    @property
    def _folder(self) -> Path:
        assert isinstance(self._place, Path)
        return self._place

    def add(self, ids: Sequence[str], scopes: Sequence[tuple[str, str]], vectors: Matrix) -> None:
        """Add or replace vectors, at most `MAX_BATCH` at a time. `scopes` are (tenant, user) pairs."""
        fields = [{"tenant": tenant, "user": user} for tenant, user in scopes]
        with _failures():
            self._collection.upsert(ids=list(ids), embeddings=vectors, metadatas=fields)
            if isinstance(self._place, Path):
                _clear_unused(self._place)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        with _failures():
            for i in range(0, len(ids), MAX_BATCH):
                self._collection.delete(ids=list(ids[i : i + MAX_BATCH]))

    def query(self, vector: Matrix, scope: Scope, k: int) -> list[str]:
        """The ids of the vectors that it takes for the nearest in a scope's tenant and user, nearest first."""
        where: dict[str, Any] = {"tenant": scope.tenant}
        if scope.user != ANY_USER:
            where = {"$and": [where, {"user": scope.user or ""}]}
        size = min(k, self.count())
        if not size:
            return []
        with _failures():
            found = self._collection.query(
                query_embeddings=vector[None], n_results=size, where=where, include=["distances"]
            )
        return list(found["ids"][0])

    def ids(self) -> list[str]:
        """All it holds."""
        with _failures():
            return list(self._collection.get(include=[])["ids"])

    def count(self) -> int:
        """How many vectors it holds."""
        with _failures():
            return int(self._collection.count())

    def close(self) -> None:
        """Give a folder back to other processes."""
        if self.owned:
            self.owned = False
            try:
                with contextlib.suppress(
                    AttributeError
                ):  # a server's client has nothing to close in some releases
                    self._client.close()
                if isinstance(self._place, Path):
                    _clear_unused(self._place)
            finally:
                if self._lock is not None:
                    self._lock.release()


def _clear_unused(folder: Path) -> None:
    """Overwrite the room for vectors to come in Chroma's files. It writes that as it finds it in memory, with what was
    there before: vectors that were erased, for instance. Only while Chroma does nothing; it writes within its calls.

    Raises:
        OSError: a file cannot be read or written.
    """
    for header in folder.glob("*/header.bin"):
        about = header.read_bytes()
        if len(about) < _HEADER.size or (found := _HEADER.unpack_from(about))[0] != 1:
            continue
        _, _, _, count, size = found
        for name, each in (("data_level0.bin", size), ("length.bin", 4)):
            file = header.with_name(name)
            if file.exists() and file.stat().st_size > count * each:
                with file.open("r+b") as stream:
                    stream.seek(count * each)
                    rest = stream.read()
                    if any(rest):
                        stream.seek(count * each)
                        stream.write(bytes(len(rest)))


# Of hnswlib's files: version, offset, room for elements, elements, bytes of each.
_HEADER = struct.Struct("<iQQQQ")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except Exception as err:
        raise IndexDamaged(f"Chroma failed: {err}") from err
