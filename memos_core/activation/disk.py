"""The disk tier: a folder of KV files for many models, within a budget, safe to share between processes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from memos_core.activation.header import (
    SUFFIX,
    TEMPORARY,
    KVFile,
    all_files,
    delete_file,
    drop_files,
    model_files,
    read_header,
)
from memos_core.activation.keys import Identity, merge_sources, shared_length
from memos_core.activation.kv import KVPrefix
from memos_core.activation.kvfile import PLAIN, Writing, publish_file, read_file, settle_folder, stage_file
from memos_core.errors import KVCorrupt, KVError, KVMismatch

logger = logging.getLogger("memos_core.activation")

_ABANDONED_S = 3600.0


class DiskTier:
    """KV files under ``<folder>/<first 16 digits of the model's fingerprint>/<key>.safetensors``.

    Files are written beside their place and renamed, so a reader sees a whole file or none. Every process
    sees what the others wrote; what it has read of a header stays in memory until the file changes.

    Args:
        folder: the root, shared by all models; only files named as ours are ever read or deleted.
        identity: the model to serve.
        budget: bytes for all files under `folder`; the least recently used go first.
        device: where loaded tensors should be.
        how: in which form files are written, encrypted or not. Files written otherwise are not looked at.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        budget: int,
        device: str | torch.device,
        how: Writing = PLAIN,
    ) -> None:
        self.how = how
        self.folder = folder
        self.home = folder / identity.model[:16]
        self.identity = identity
        self.budget = budget
        self.device = device
        self.damaged = 0
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int], KVFile | None, NDArray[np.int64]]] = {}
        self._remove_abandoned()

    def files(self) -> list[KVFile]:
        """Every file of this model, tokenizer and dtype; a header is read once, until its file changes."""
        return [about for about, _ in self._mine()]

    def chains(self) -> list[tuple[str, NDArray[np.int64]]]:
        """The salt and the token ids of each of them."""
        return [(about.salt, ids) for about, ids in self._mine()]

    def _mine(self) -> list[tuple[KVFile, NDArray[np.int64]]]:
        ours = self.identity, self.how.sealed
        return [(about, ids) for about, ids in self._refresh() if (about.identity, about.sealed) == ours]

    def _refresh(self) -> list[tuple[KVFile, NDArray[np.int64]]]:
        """Bring what is known of the folder up to date: headers and token ids of what can be read."""
        with self._lock:
            known = {}
            for path, stat in _stats(model_files(self.home)):
                mark = (stat.st_ino, stat.st_size)
                entry = self._known.get(path)
                known[path] = entry if entry and entry[0] == mark else (mark, *self._read(path))
            self._known = known
            return [(about, ids) for _, about, ids in known.values() if about]

    def _read(self, path: Path) -> tuple[KVFile | None, NDArray[np.int64]]:
        """A file's header and token ids, or (None, nothing) with a warning when it is damaged."""
        try:
            about = read_header(path)
            if about.model != self.identity.model:
                raise KVMismatch(f"{path} belongs to another model")
            if about.sealed != self.how.sealed:
                logger.info("KV file of another key, or of none, is left alone: %s", path)
                return about, np.empty(0, np.int64)
            return about, about.tokens(self.how.seal)
        except (KVError, OSError) as err:
            self.report(err)
            return None, np.empty(0, np.int64)

    def report(self, err: Exception) -> None:
        """Log that a file could not be used and, unless it is merely gone, count it as damaged."""
        logger.warning("KV file not used: %s", err)
        self.damaged += isinstance(err, (KVCorrupt, KVMismatch))

    def candidates(self, salt: str, tokens: Sequence[int], at_least: int) -> list[tuple[int, KVFile]]:
        """Files of this salt that share at least so many leading tokens, with how many: best first, then shortest."""
        ids = np.asarray(tokens)
        shared = [(shared_length(stored, ids), about) for about, stored in self._mine() if about.salt == salt]
        found = [(n, about) for n, about in shared if n >= max(at_least, 1)]
        return sorted(found, key=lambda item: (-item[0], item[1].n_tokens))

    def ignore(self, about: KVFile) -> None:
        """Stop offering a file that turned out damaged, until it is written again."""
        with self._lock:
            if about.path in self._known:
                mark = self._known[about.path][0]
                self._known[about.path] = (mark, None, np.empty(0, np.int64))

    def path(self, key: str) -> Path:
        """Where the file with this key is or would be."""
        return self.home / f"{key}{SUFFIX}"

    def load(self, path: Path) -> KVPrefix:
        """Read and verify a file.

        Raises:
            KVMismatch: made by another model, tokenizer, dtype or format.
            KVCorrupt: truncated, or the checksum does not match.
            KVError: it cannot be opened.
        """
        about = read_header(path)
        for part in ("model", "tokenizer", "dtype"):
            theirs, ours = getattr(about, part), getattr(self.identity, part)
            if theirs != ours:
                raise KVMismatch(f"{path} was made with {part} {theirs[:16]}; this is {part} {ours[:16]}")
        _, prefix = read_file(path, device=self.device, how=self.how)
        _touch(path)
        return prefix

    def save(self, prefix: KVPrefix, allowed: Callable[[], contextlib.AbstractContextManager[None]]) -> Path:
        """Write a prefix, deleting the least recently used files when the budget asks for it. A file that
        is there already and says the same is only marked as used.

        Args:
            prefix: what to write.
            allowed: a context entered around the last step; raising in it undoes the save.

        Raises:
            KVError: larger than the budget, or not writable; nothing is left behind.
        """
        path = self.path(prefix.key)
        present = next((f for f in self.files() if f.path == path), None)
        if present is not None:
            known = merge_sources(prefix.derived_from, present.derived_from)
            if known == present.derived_from:
                _touch(path)
                return path
            prefix = replace(prefix, derived_from=known)
        if prefix.nbytes > self.budget:
            raise KVError(f"a prefix of {prefix.nbytes} bytes is over disk_budget={self.budget}; raise it")
        temporary = stage_file(self.home, prefix, self.identity, self.how)
        try:
            self._make_room(temporary.stat().st_size, path)
            with allowed():
                publish_file(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        settle_folder(self.home)
        return path

    def _make_room(self, nbytes: int, replaced: Path) -> None:
        """Delete least recently used files of any model until `nbytes` more fit into the budget."""
        stats = [(path, stat) for path, stat in _stats(all_files(self.folder)) if path != replaced]
        total = nbytes + sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda item: item[1].st_mtime_ns):
            if total <= self.budget:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def drop(self, keys: Collection[str], cube_ids: Collection[str]) -> set[str]:
        """Delete this model's files with these keys, and every model's files derived from these cubes.

        Returns:
            The keys of the files that were deleted.

        Raises:
            KVError: a file cannot be deleted.
        """
        gone = {key for key in keys if self.path(key).exists()}
        for key in gone:
            delete_file(self.path(key))
        return gone | (drop_files(self.folder, cube_ids) if cube_ids else set())

    def nbytes(self) -> int:
        """Bytes of all files of all models."""
        return sum(stat.st_size for _, stat in _stats(all_files(self.folder)))

    def _remove_abandoned(self) -> None:
        """Delete temporary files that a killed process left more than an hour ago."""
        for path, stat in list(_stats(all_files(self.folder, TEMPORARY))):
            if time.time() - stat.st_mtime > _ABANDONED_S:
                with contextlib.suppress(OSError):  # gone already, or a read-only folder
                    path.unlink()


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Each path with its size and times, without those that another process has just removed."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _touch(path: Path) -> None:
    """Mark a file as used now. In a read-only folder the order of use is not kept."""
    with contextlib.suppress(OSError):
        os.utime(path)
