"""How checkpoints lie in the database: in plain with checksums, or encrypted and authenticated (AES-GCM).

Either way what is read is what was written at that place, or an error. Encryption covers values, metadata and the
checkpoint itself. Addresses stay readable, because rows are found by them: tenant, thread, namespace, the ids of
checkpoints, runs, tasks and users, and of a pending write its channel.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any, Protocol

from memos_core.errors import InvalidArgument, missing_extra
from memos_core.vault.chunking import Damaged, Ref, number, read_number

KEY_VARIABLE = "LANGGRAPH_AES_KEY"
SEALED = "aes-gcm"
_NONCE = 12


def pack(*parts: str | bytes) -> bytes:
    """Texts and bytes in one, so that two different lists never give the same."""
    raw = [p.encode(errors="surrogateescape") if isinstance(p, str) else p for p in parts]
    return b"".join([number(len(p)) + p for p in raw])


def unpack(data: bytes) -> list[bytes]:
    """The parts that `pack` was given.

    Raises:
        Damaged: it made something else.
    """
    found: list[bytes] = []
    pos, end = 0, len(data)
    try:
        while pos < end:
            n, pos = read_number(data, pos)
            found.append(data[pos : pos + n])
            pos += n
    except IndexError:
        pos = end + 1
    if pos != end:
        raise Damaged("a row ends too early")
    return found


class Seal(Protocol):
    """What stands between bytes and the rows that hold them. `place` says where the bytes belong."""

    sealed: bool

    def name(self, blob: bytes) -> Ref:
        """The hash of a blob."""

    def check(self, place: bytes, data: bytes) -> bytes:
        """What is stored beside `data` to know it again."""

    def close(self, place: bytes, data: bytes) -> bytes:
        """How `data` is stored."""

    def open(self, place: bytes, stored: bytes) -> bytes:
        """The inverse of `close`.

        Raises:
            Damaged: it was not written at this place with this key.
        """


class Plain:
    """Bytes as they are, with checksums."""

    sealed = False

    def name(self, blob: bytes) -> Ref:
        """See `Seal.name`."""
        return Ref(blake2b(blob, digest_size=16, person=b"memos.chunk").digest())

    def check(self, place: bytes, data: bytes) -> bytes:
        """See `Seal.check`."""
        return blake2b(pack(place, data), digest_size=16, person=b"memos.row").digest()

    def close(self, place: bytes, data: bytes) -> bytes:
        """See `Seal.close`."""
        return data

    def open(self, place: bytes, stored: bytes) -> bytes:
        """See `Seal.open`. What is checked is the checksum, not here."""
        return stored


class Encrypted:
    """AES-GCM with a key for each purpose, made from one. Blobs are named by a keyed hash: without the key nobody can
    tell from a name whether a guess is stored.

    Args:
        key: 16, 24 or 32 bytes.

    Raises:
        InvalidArgument: a key of another length. MissingExtra: `cryptography` is not installed.
    """

    sealed = True

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) not in (16, 24, 32):
            raise InvalidArgument("encryption must be a key of 16, 24 or 32 bytes, or True")
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise missing_extra("cryptography", "encryption") from None
        self._invalid: type[Exception] = InvalidTag
        self._aes: Any = AESGCM(blake2b(key, digest_size=len(key), person=b"memos.seal").digest())
        self._name = blake2b(key, digest_size=32, person=b"memos.name").digest()

    def name(self, blob: bytes) -> Ref:
        """See `Seal.name`."""
        return Ref(blake2b(blob, digest_size=16, key=self._name, person=b"memos.chunk").digest())

    def check(self, place: bytes, data: bytes) -> bytes:
        """See `Seal.check`. AES-GCM has a checksum of its own."""
        return b""

    def close(self, place: bytes, data: bytes) -> bytes:
        """See `Seal.close`."""
        nonce = os.urandom(_NONCE)
        return nonce + bytes(self._aes.encrypt(nonce, data, place))

    def open(self, place: bytes, stored: bytes) -> bytes:
        """See `Seal.open`."""
        try:
            return bytes(self._aes.decrypt(stored[:_NONCE], stored[_NONCE:], place))
        except (self._invalid, ValueError):
            raise Damaged("it was not encrypted with this key for this place") from None


def seal_for(encryption: bytes | bool) -> Encrypted | None:
    """What an option `encryption` asks for: a key, True for the one in the environment, False for none.

    Raises:
        InvalidArgument: a key that cannot be used. MissingExtra: `cryptography` is not installed.
    """
    if encryption is False:
        return None
    return Encrypted(key_from_environment() if encryption is True else encryption)


def key_from_environment() -> bytes:
    """The key in `LANGGRAPH_AES_KEY`, as LangGraph's own EncryptedSerializer takes it.

    Raises:
        InvalidArgument: it is not set, or not 16, 24 or 32 bytes long.
    """
    key = os.environ.get(KEY_VARIABLE, "").encode()
    if len(key) not in (16, 24, 32):
        raise InvalidArgument(f"set {KEY_VARIABLE} to 16, 24 or 32 bytes, or pass encryption=KEY")
    return key
