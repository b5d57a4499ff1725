"""One KV prefix in one safetensors file (`memos_core.activation.header`): written whole, read verified."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memos_core.activation.digest import digest_tensors
from memos_core.activation.header import FORMAT, TEMPORARY, KVFile, read_header
from memos_core.activation.keys import Identity, Source, chain_hashes
from memos_core.activation.kv import KVPrefix
from memos_core.errors import KVCorrupt, KVError


def verify_file(path: Path) -> KVFile:
    """Read a whole KV file and verify its checksum, for any model.

    Raises:
        KVCorrupt, KVMismatch, KVError: as `read_file`.
    """
    return read_file(path)[0]


def read_file(path: Path, *, device: str | torch.device = "cpu") -> tuple[KVFile, KVPrefix]:
    """Read and verify a KV file. On the CPU its tensors stay mapped: they are read once, for the checksum.

    A mapped file may be deleted or replaced while it is in use (this package never writes into one).

    Args:
        path: the file.
        device: where the tensors should be.

    Raises:
        KVCorrupt: truncated, a byte changed, or the content does not have the key it claims.
        KVMismatch: written in a format that this release does not know.
        KVError: the file cannot be opened.
    """
    about = read_header(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in _names((len(stored.keys()) - 1) // 2)}
        ids = tuple(tensors["tokens"].tolist())
    except (SafetensorError, ValueError, TypeError) as err:
        raise KVCorrupt(f"{path} is damaged ({err}); delete it, it can be computed again") from err
    except OSError as err:
        raise KVError(f"{path} cannot be read: {err}") from err
    key = chain_hashes(about.identity.seed(about.salt), ids)[-1].hex() if ids else ""
    header = _metadata(about.identity, about.salt, key, len(ids), about.derived_from)
    if about.key != key or about.n_tokens != len(ids) or about.checksum != _checksum(header, tensors):
        raise KVCorrupt(f"{path} does not match its checksum; delete it, it can be computed again")
    pairs = [t.to(device) for name, t in tensors.items() if name != "tokens"]
    layers = tuple(zip(pairs[::2], pairs[1::2], strict=True))
    return about, KVPrefix(ids, layers, about.salt, about.derived_from, about.key)


def stage_file(folder: Path, prefix: KVPrefix, identity: Identity) -> Path:
    """Write a prefix to a temporary file in `folder`, on stable storage, ready to be renamed into place.

    Args:
        folder: where it will stay; made (readable by this user only) if it does not exist.
        prefix: what to write.
        identity: the model the prefix belongs to.

    Raises:
        KVError: it cannot be written (disk full, read-only, …); nothing is left behind.
    """
    tensors = {"tokens": torch.tensor(prefix.tokens, dtype=torch.int64)}
    for index, (keys, values) in enumerate(prefix.layers):
        tensors[f"layers.{index}.key"], tensors[f"layers.{index}.value"] = keys.cpu(), values.cpu()
    about = _metadata(identity, prefix.salt, prefix.key, len(prefix.tokens), prefix.derived_from)
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{prefix.key}.", suffix=TEMPORARY)
        os.close(handle)
        save_file(tensors, temporary, metadata={**about, "checksum": _checksum(about, tensors)})
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
    except BaseException as err:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(err, (OSError, SafetensorError)):
            raise KVError(f"KV cannot be written to {folder}: {err}") from err
        raise
    return Path(temporary)


def publish_file(temporary: Path, path: Path) -> None:
    """Rename a staged file into place, in one step that survives a power cut.

    Raises:
        KVError: it cannot be renamed; the staged file is removed.
    """
    try:
        os.replace(temporary, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise KVError(f"KV cannot be written to {path}: {err}") from err


def _names(n_layers: int) -> list[str]:
    """The tensors of a file with this many layers, in the order of the checksum."""
    return ["tokens"] + [f"layers.{i}.{part}" for i in range(n_layers) for part in ("key", "value")]


def _metadata(
    identity: Identity, salt: str, key: str, n_tokens: int, derived_from: tuple[Source, ...]
) -> dict[str, str]:
    """What is written into the header, all but the checksum."""
    return {
        "format": FORMAT,
        "model": identity.model,
        "tokenizer": identity.tokenizer,
        "dtype": identity.dtype,
        "salt": salt,
        "key": key,
        "n_tokens": str(n_tokens),
        "derived_from": json.dumps(derived_from),
    }


def _checksum(about: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """BLAKE2b over the header's fields and all tensors, in the order of `_names`."""
    return digest_tensors(tensors.items(), json.dumps(about, sort_keys=True).encode())
