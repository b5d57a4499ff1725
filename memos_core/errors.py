"""Every exception this project raises on purpose. One base class, so that `except MemOSError` is enough.

A message is one sentence that names the argument (or file) and the fix. Classes that also inherit a
builtin do so because callers of the frameworks we adapt already catch that builtin.
"""

from __future__ import annotations


class MemOSError(Exception):
    """Base class of all errors raised by `memos_core` and its integrations."""


class InvalidArgument(MemOSError, ValueError):
    """An argument has a value that cannot be used. The message names it and says what to pass."""


class NotFound(MemOSError, LookupError):
    """The named cube (or other stored thing) does not exist within the caller's scope."""


class AccessDenied(MemOSError, PermissionError):
    """The principal may not act in this scope."""


class SchemaError(InvalidArgument):
    """A typed payload does not validate against its registered structure. Names the field."""


class VersionConflict(MemOSError):
    """`expected_version` is not the stored version: somebody else wrote in between. Read again and retry."""


class MissingExtra(MemOSError, ImportError):
    """An optional dependency is not installed. The message holds the pip command that installs it."""


class VaultError(MemOSError):
    """The vault cannot be opened, read or written. Nothing was half-written."""


class VaultNewer(VaultError):
    """The vault was written by a newer release than this one; upgrade instead of downgrading the data."""


class VaultReadOnly(VaultError):
    """The vault may only be read here, and something was to be written."""


class ModelError(MemOSError):
    """A model or embedder cannot be found, verified or loaded."""


class KVError(MemOSError):
    """A stored KV prefix cannot be used."""


class KVMismatch(KVError):
    """A stored KV prefix was made by another model, tokenizer, dtype or format."""


class KVCorrupt(KVError):
    """A stored KV file is truncated or its checksum does not match."""


def missing_extra(package: str, extra: str) -> MissingExtra:
    """Build the error for a missing optional dependency.

    Args:
        package: the import that failed, e.g. ``"chromadb"``.
        extra: the extra of this distribution that installs it, e.g. ``"chroma"``.
    """
    return MissingExtra(
        f"{package} is not installed; in the MemOS checkout, run: pip install -c constraints.txt -e '.[{extra}]'"
    )
