"""One KV prefix in one safetensors file (`memos_core.activation.header`): written whole, read verified."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from memos_core.activation.digest import digest_tensors
from memos_core.activation.forms import EXACT, Form
from memos_core.activation.header import FORMAT, TEMPORARY, KVFile, read_header
from memos_core.activation.keys import Identity, chain_hashes
from memos_core.activation.kv import KVPrefix
from memos_core.errors import KVCorrupt, KVError
from memos_core.vault.sealing import Seal

_SECRETS = ("tokens", "layers")  # the tensors of an encrypted file


@dataclass(frozen=True)
class Writing:
    """How the files of a tier are written and read.

    Args:
        form: how KV is stored.
        seal: encrypts the tensors; None leaves them in plain.
    """

    form: Form = EXACT
    seal: Seal | None = None

    @property
    def sealed(self) -> str:
        """A name of the key that does not tell it; "" without one."""
        return "" if self.seal is None else self.seal.name(b"memos-kv").hex()

    @property
    def secret(self) -> bytes:
        """For `Identity`."""
        return b"" if self.seal is None else bytes(self.seal.name(b"memos-kv names"))


PLAIN = Writing()


def verify_file(path: Path) -> KVFile:
    """Read a whole KV file and verify its checksum, for any model, also where it is encrypted.

    Raises:
        KVCorrupt, KVMismatch, KVError: as `read_file`.
    """
    return _read(path)[0]


def read_file(
    path: Path, *, device: str | torch.device = "cpu", how: Writing = PLAIN
) -> tuple[KVFile, KVPrefix]:
    """Read and verify a KV file. On the CPU the tensors of a file in plain stay mapped: they are read once, for the
    checksum.

    A mapped file may be deleted or replaced while it is in use (this package never writes into one).

    Args:
        path: the file.
        device: where the tensors should be.
        how: as it was written.

    Raises:
        KVCorrupt: truncated, a byte changed, encrypted with another key, or the content does not have the key it
            claims.
        KVMismatch: written in a format that this release does not know.
        KVError: the file cannot be opened.
    """
    about, tensors = _read(path)
    if about.sealed:
        tensors = _opened(about, tensors, how.seal)
    ids = tuple(tensors.pop("tokens").tolist())
    identity = Identity(about.model, about.tokenizer, about.dtype, how.secret)
    if (
        len(ids) != about.n_tokens
        or not ids
        or chain_hashes(identity.seed(about.salt), ids)[-1].hex() != about.key
    ):
        raise KVCorrupt(
            f"{path} does not have the tokens that it claims; delete it, it can be computed again"
        )
    width, dtype = len(how.form.parts), getattr(torch, about.dtype.split()[0])
    flat = [tensor.to(device) for tensor in tensors.values()]
    layers = [how.form.unpack(tuple(flat[n : n + width]), dtype) for n in range(0, len(flat), width)]
    return about, KVPrefix(ids, tuple(layers), about.salt, about.derived_from, about.key)


def _read(path: Path) -> tuple[KVFile, dict[str, Tensor]]:
    """The header and the tensors, in the order of the checksum, which they have."""
    about = read_header(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in _ordered(stored.keys())}
    except (SafetensorError, ValueError, TypeError) as err:
        raise KVCorrupt(f"{path} is damaged ({err}); delete it, it can be computed again") from err
    except OSError as err:
        raise KVError(f"{path} cannot be read: {err}") from err
    if about.checksum != _checksum(_metadata(about), tensors):
        raise KVCorrupt(f"{path} does not match its checksum; delete it, it can be computed again")
    return about, tensors


def stage_file(folder: Path, prefix: KVPrefix, identity: Identity, how: Writing = PLAIN) -> Path:
    """Write a prefix to a temporary file in `folder`, on stable storage, ready to be renamed into place.

    Args:
        folder: where it will stay; made (readable by this user only) if it does not exist.
        prefix: what to write.
        identity: the model the prefix belongs to.
        how: in which form, encrypted or not.

    Raises:
        KVError: it cannot be written (disk full, read-only, …); nothing is left behind.
    """
    tensors = {"tokens": torch.tensor(prefix.tokens, dtype=torch.int64)}
    for index, (keys, values) in enumerate(prefix.layers):
        for part, tensor in zip(how.form.parts, how.form.pack(keys, values), strict=True):
            tensors[f"layers.{index}.{part}"] = tensor.cpu().contiguous()
    about = KVFile(
        path=folder,
        key=prefix.key,
        salt=prefix.salt,
        n_tokens=len(prefix.tokens),
        nbytes=0,
        derived_from=prefix.derived_from,
        model=identity.model,
        tokenizer=identity.tokenizer,
        dtype=identity.dtype,
        checksum="",
        tokens_at=(0, 0),
        sealed=how.sealed,
    )
    if how.seal is not None:
        tensors = _closed(about, tensors, how.seal)
    header = _metadata(about)
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{prefix.key}.", suffix=TEMPORARY)
        os.close(handle)
        save_file(tensors, temporary, metadata={**header, "checksum": _checksum(header, tensors)})
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
    """Rename a staged file into place, in one step. `settle_folder` makes it survive a power cut.

    Raises:
        KVError: it cannot be renamed; the staged file is removed.
    """
    try:
        os.replace(temporary, path)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise KVError(f"KV cannot be written to {path}: {err}") from err


def settle_folder(folder: Path) -> None:
    """Have the names in a folder on stable storage.

    Raises:
        KVError: it cannot be synced.
    """
    if os.name != "posix":
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as err:
        raise KVError(f"KV cannot be written to {folder}: {err}") from err


def _closed(about: KVFile, tensors: dict[str, Tensor], seal: Seal) -> dict[str, Tensor]:
    """The tensors, encrypted: the token ids by themselves, because they are looked at far more often."""
    tokens = tensors.pop("tokens").numpy().tobytes()
    return {
        name: torch.frombuffer(bytearray(seal.close(about.place, content)), dtype=torch.uint8)
        for name, content in zip(_SECRETS, (tokens, save(tensors)), strict=True)
    }


def _opened(about: KVFile, tensors: dict[str, Tensor], seal: Seal | None) -> dict[str, Tensor]:
    """The inverse of `_closed`, in the order of the checksum.

    Raises:
        KVCorrupt: not encrypted with this key.
    """
    tokens, layers = (about.opened(tensors[name].numpy().tobytes(), seal) for name in _SECRETS)
    found = load(layers)
    ids = torch.from_numpy(np.frombuffer(tokens, dtype="<i8").copy())
    return {"tokens": ids} | {name: found[name] for name in _ordered(found)}


def _ordered(names: Sequence[str] | dict[str, Tensor]) -> list[str]:
    """The tensors in the order of the checksum: the token ids, then layer by layer as they are packed."""
    order = ("key", "value", "key_scale", "value_scale")

    def place(name: str) -> tuple[int, int]:
        if name in _SECRETS:
            return -1, _SECRETS.index(name)
        _, layer, part = name.split(".")
        return int(layer), order.index(part)

    return sorted(names, key=place)


def _metadata(about: KVFile) -> dict[str, str]:
    """What is written into the header, all but the checksum."""
    header = {
        "format": FORMAT,
        "model": about.model,
        "tokenizer": about.tokenizer,
        "dtype": about.dtype,
        "salt": about.salt,
        "key": about.key,
        "n_tokens": str(about.n_tokens),
        "derived_from": json.dumps(about.derived_from),
    }
    return header | ({"sealed": about.sealed} if about.sealed else {})


def _checksum(about: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """BLAKE2b over the header's fields and all tensors."""
    return digest_tensors(tensors.items(), json.dumps(about, sort_keys=True).encode())
