"""What a KV file says about itself, and which files derive from what. Needs no torch and no model.

A KV file is a safetensors file (format: github.com/huggingface/safetensors) with the tensor ``tokens``
(int64, [n]) and per layer ``layers.<i>.key`` and ``layers.<i>.value``. Its metadata holds format, model,
tokenizer, dtype, salt, key, number of tokens, sources, and a BLAKE2b checksum over all of it. In an encrypted file
there is one tensor of bytes, ``layers``, instead of the layers', and the bytes of it and of ``tokens`` are AES-GCM's.
The sources, ids of cubes, stay readable: whoever erases a cube must find what was computed from it without the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memos_core.activation.keys import Identity, Source
from memos_core.errors import KVCorrupt, KVError, KVMismatch
from memos_core.vault.chunking import Damaged
from memos_core.vault.sealing import Seal

FORMAT = "memos-kv/1"
SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
_MAX_HEADER = 100_000_000  # the limit of the safetensors format
_FOLDER = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}|\.[0-9a-f]{{32}}\.\w+{re.escape(TEMPORARY)}")


@dataclass(frozen=True)
class KVFile:
    """What a KV file says about itself.

    Args:
        path: where it is.
        key: chain key of its tokens, as in `KVPrefix.key`.
        salt: the owner, as in `salt_for`.
        n_tokens: tokens it covers.
        nbytes: size of the file.
        derived_from: the cubes (id, version) it was computed from.
        model: fingerprint of the model.
        tokenizer: fingerprint of the tokenizer.
        dtype: dtype of the model, e.g. ``"float32"``.
        checksum: BLAKE2b over the other fields and all tensors, hex.
        tokens_at: where the token ids lie in the file: (first byte, byte after the last).
        sealed: which key the tensors are encrypted with, by a name that does not tell it; "" if they are not.
    """

    path: Path
    key: str
    salt: str
    n_tokens: int
    nbytes: int
    derived_from: tuple[Source, ...]
    model: str
    tokenizer: str
    dtype: str
    checksum: str = field(repr=False)
    tokens_at: tuple[int, int] = field(repr=False)
    sealed: str = ""

    @property
    def identity(self) -> Identity:
        """The model, tokenizer and dtype it was made with."""
        return Identity(self.model, self.tokenizer, self.dtype)

    @property
    def place(self) -> bytes:
        """What encrypted tensors are bound to: all that the header says, but the sources and the checksum."""
        named = [self.model, self.tokenizer, self.dtype, self.salt, self.key, str(self.n_tokens), self.sealed]
        return json.dumps(named).encode()

    def tokens(self, seal: Seal | None = None) -> NDArray[np.int64]:
        """The token ids as the file has them, [n_tokens] int64; not verified against the checksum.

        Raises:
            KVCorrupt: they were encrypted, and not with this key.
        """
        with self.path.open("rb") as stream:
            stream.seek(self.tokens_at[0])
            raw = stream.read(self.tokens_at[1] - self.tokens_at[0])
        return np.frombuffer(self.opened(raw, seal) if self.sealed else raw, dtype="<i8")

    def opened(self, stored: bytes, seal: Seal | None) -> bytes:
        """One encrypted tensor's content.

        Raises:
            KVCorrupt: it was not encrypted with this key, or for another file.
        """
        try:
            if seal is not None:
                return seal.open(self.place, stored)
        except Damaged:
            pass
        raise KVCorrupt(f"{self.path} cannot be decrypted with this key; delete it, it can be computed again")


def read_header(path: Path, *, whole: bool = True) -> KVFile:
    """Read what a KV file is, from its first kilobytes.

    Args:
        path: the file.
        whole: also check that no byte is missing at its end; False is for a file that is still being written.

    Raises:
        KVCorrupt: truncated, or no KV file at all.
        KVMismatch: written in a format that this release does not know.
        KVError: the file cannot be opened.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER, size - 8):
                raise KVCorrupt(f"{path} is truncated or no KV file; delete it, it can be computed again")
            header = stream.read(length)
    except OSError as err:
        raise KVError(f"{path} cannot be read: {err}") from err
    return _parse_header(path, size, header, whole)


def _parse_header(path: Path, size: int, header: bytes, whole: bool) -> KVFile:
    """The description out of the JSON header of a safetensors file of `size` bytes."""
    try:
        tensors: dict[str, Any] = json.loads(header)
        about: dict[str, str] = tensors.pop("__metadata__")
        if about["format"] != FORMAT:
            raise KVMismatch(f"{path} has format {about['format']}; this release reads {FORMAT}")
        start = 8 + len(header)
        first, last = tensors["tokens"]["data_offsets"]
        if whole and size != start + max(t["data_offsets"][1] for t in tensors.values()):
            raise KVCorrupt(f"{path} is truncated; delete it, it can be computed again")
        return KVFile(
            path=path,
            key=about["key"],
            salt=about["salt"],
            n_tokens=int(about["n_tokens"]),
            nbytes=size,
            derived_from=tuple((str(c), int(v)) for c, v in json.loads(about["derived_from"])),
            model=about["model"],
            tokenizer=about["tokenizer"],
            dtype=about["dtype"],
            checksum=about["checksum"],
            tokens_at=(start + int(first), start + int(last)),
            sealed=about.get("sealed", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise KVCorrupt(f"{path} has a damaged header; delete it, it can be computed again") from err


def model_files(home: Path, suffix: str = SUFFIX) -> Iterator[Path]:
    """The files of one model's folder that are named as ours and end so (`SUFFIX` or `TEMPORARY`)."""
    if home.is_dir():
        for path in home.iterdir():
            if path.name.endswith(suffix) and _FILE.fullmatch(path.name):
                yield path


def all_files(folder: Path, suffix: str = SUFFIX) -> Iterator[Path]:
    """The files of every model under the KV folder that are named as ours and end so."""
    if folder.is_dir():
        for home in folder.iterdir():
            if _FOLDER.fullmatch(home.name):
                yield from model_files(home, suffix)


def drop_files(folder: Path, cube_ids: Collection[str]) -> set[str]:
    """Delete every model's files derived from these cubes, those that are still being written included.

    A whole file that cannot say what it was derived from is deleted too: erasure must not depend on an intact
    header, and KV can be computed again.

    Args:
        folder: the KV folder (`kv_dir` of the engine).
        cube_ids: ids of the cubes.

    Returns:
        The keys of the deleted files.

    Raises:
        KVError: a file cannot be deleted.
    """
    whole = [path for path in all_files(folder, SUFFIX) if _derived(path, cube_ids, whole=True)]
    partial = [path for path in all_files(folder, TEMPORARY) if _derived(path, cube_ids, whole=False)]
    for path in whole + partial:
        delete_file(path)
    return {path.stem for path in whole}


def delete_file(path: Path) -> None:
    """Delete a file that may be gone already.

    Raises:
        KVError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as err:
        raise KVError(f"{path} cannot be deleted: {err}") from err


def _derived(path: Path, cube_ids: Collection[str], *, whole: bool) -> bool:
    """Whether a file is derived from one of the cubes. When it cannot say: yes for a file that should be
    whole, no for one still being written, since the header comes first."""
    try:
        sources = read_header(path, whole=whole).derived_from
    except KVError:
        return whole
    return any(cube in cube_ids for cube, _ in sources)
