"""MemOSEmbeddings: the embedder of a vault, for LangChain."""

from __future__ import annotations

from memos_core.errors import missing_extra
from memos_core.memos import MemOS, given

try:
    from langchain_core.embeddings import Embeddings
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None


class MemOSEmbeddings(Embeddings):
    """Vectors by the model that a vault searches with (interface: `langchain_core.embeddings.Embeddings`), so that
    an application loads one model. The vectors are of unit length. The async methods run in a worker thread, as the
    base class does it.

    Args:
        memos: an open `MemOS`, or a view of one.

    Raises:
        InvalidArgument: `memos` is no MemOS or has no embedder. MissingExtra, ModelError (at first use): the model
            cannot be loaded.
    """

    def __init__(self, memos: MemOS) -> None:
        self._embedder = given(memos).embedding

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `Embeddings.embed_documents`."""
        return [[float(x) for x in row] for row in self._embedder.embed_documents(texts)] if texts else []

    def embed_query(self, text: str) -> list[float]:
        """See `Embeddings.embed_query`."""
        return [float(x) for x in self._embedder.embed_query(text)]
