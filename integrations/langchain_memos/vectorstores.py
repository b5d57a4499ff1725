"""MemOSVectorStore: documents in a vault, for LangChain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from memos_core import arguments
from memos_core.cube import MemCube, Namespace, new_id
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS, given
from memos_core.retrieval import Hit

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None

from langchain_memos.embeddings import MemOSEmbeddings
from langchain_memos.scopes import of_none_within

DOCUMENT = "document"
_SEP = "\x1f"
Filter = Callable[[Document], bool] | Mapping[str, Any]


class MemOSVectorStore(VectorStore):
    """Documents of one collection, in the scope of a view (interface: `langchain_core.vectorstores.VectorStore`).

    They are cubes: what is added is on the disk when `add_documents` returns, an id that is added again gets a new
    version, and they are found by meaning (the vault's embedder) and by words together. The documents of a user's view
    are also that user's memories: a recall finds them. A store for everybody belongs into a view without a user.

    Args:
        memos: an open `MemOS`, or a narrower view of one. It stays the caller's to close.
        namespace: the collection.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(self, memos: MemOS, *, namespace: Namespace = ("documents",)) -> None:
        self._memos = given(memos).scoped(adapter="langchain")
        self._namespace = arguments.names(namespace, "namespace")
        if not self._namespace:
            raise InvalidArgument("namespace must name the collection, got an empty one")
        scope = self._memos.scope
        parts = {"agent": scope.agent, "session": scope.session}
        self._prefix = "".join(f"{name}={part}{_SEP}" for name, part in parts.items() if part is not None)

    @property
    def embeddings(self) -> Embeddings | None:
        """The vault's embedder; None where it has none and finds documents by words only."""
        return MemOSEmbeddings(self._memos) if self._memos.has_embedder else None

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """See `VectorStore.from_texts`.

        Args:
            embedding: None or `MemOSEmbeddings`: a vault has its embedder from `MemOS.open(embedder=…)`, which takes
                any `Embeddings`.
            kwargs: those of the constructor.

        Raises:
            InvalidArgument: another `embedding`, or no `memos`.
        """
        if embedding is not None and not isinstance(embedding, MemOSEmbeddings):
            raise InvalidArgument(
                f"embedding must be left out, got {type(embedding).__name__}; pass it to MemOS.open(embedder=...)"
            )
        store = cls(kwargs.pop("memos", None), **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_documents(
        self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Store documents, all or none, in one transaction. See `VectorStore.add_documents`.

        Args:
            ids: go before the documents' own; without either, new ones are made.

        Raises:
            InvalidArgument: metadata that JSON has no form for, or another number of ids. VaultError: nothing was
                stored.
        """
        if ids is not None and len(ids) != len(documents):
            raise InvalidArgument(f"ids must be one for each document, got {len(ids)} for {len(documents)}")
        keys = [(ids[i] if ids is not None else d.id) or new_id() for i, d in enumerate(documents)]
        cubes = {}  # of an id that comes twice, the last document counts
        for key, document in zip(keys, documents, strict=True):
            cubes[key] = self._memos.cube(
                {"metadata": document.metadata},
                text=document.page_content,
                namespace=self._namespace,
                key=self._key(key),
                semantic_type=DOCUMENT,
                origin="import",
            )
        # What older releases stored at an address without the session goes: it is the same document.
        found = (
            self._memos.find(namespace=self._namespace, types=[DOCUMENT], keys=[*cubes], states=None)
            if self._prefix and cubes
            else []
        )
        old = [
            cube.id
            for cube in found
            if of_none_within(self._memos.scope, cube) and cube.namespace == self._namespace
        ]
        self._memos.put([*cubes.values()], delete=old)
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Remove documents of this collection; all of them without `ids`. Ids that are not there are nothing."""
        if ids is None:
            found = self._memos.find(namespace=self._namespace, types=[DOCUMENT], states=None)
            self._memos.delete([cube.id for cube in found if of_none_within(self._memos.scope, cube)])
        elif ids:
            self._memos.delete(self._memos.item_ids(self._namespace, self._keys(ids)))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in their order; those that are not there are left out."""
        found = self._memos.items_at(self._namespace, self._keys(ids))
        items = [(id_, found.get(self._key(id_)) or found.get(id_)) for id_ in ids]
        return [_document(id_, item.text, item.data) for id_, item in items if item is not None]

    def _key(self, id_: str) -> str:
        """Where a document lies. Addresses are the user's: each session's and agent's store has its own."""
        return self._prefix + id_ if isinstance(id_, str) else id_

    def _keys(self, ids: Sequence[str]) -> list[str]:
        """Where documents may lie: those of older vaults have no address of their session."""
        return list(dict.fromkeys([*map(self._key, ids), *ids]))

    def _of(self, cube: MemCube) -> Document:
        return _document(cube.key.removeprefix(self._prefix), cube.text, cube.json_data)

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """See `VectorStore.similarity_search`.

        Args:
            filter: what documents must meet: a function, or metadata that they must have.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter=filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search`, each document with a score of 0 to 1, higher is nearer, comparable within one search."""
        return [(self._of(hit.cube), hit.score) for hit in self._hits(query, k, filter)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """See `VectorStore.max_marginal_relevance_search`.

        Raises:
            InvalidArgument: the vault has no embedder.
        """
        model, cubes = self._memos.embedding, [hit.cube for hit in self._hits(query, fetch_k, filter)]
        return self._diverse(cubes, model.embed_query(query), k, lambda_mult) if cubes else []

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """See `VectorStore.similarity_search_by_vector`.

        Args:
            embedding: of the vault's embedder, see `embeddings`.

        Raises:
            InvalidArgument: it is of another length, or the vault has no embedder.
        """
        return [self._of(cube) for cube in self._nearest(embedding, k, filter)]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """See `VectorStore.max_marginal_relevance_search_by_vector`. Raises as `similarity_search_by_vector`."""
        cubes = self._nearest(embedding, fetch_k, filter)
        return self._diverse(cubes, np.asarray(embedding), k, lambda_mult) if cubes else []

    def _diverse(self, cubes: Sequence[MemCube], query: Any, k: int, lambda_mult: float) -> list[Document]:
        vectors = self._memos.embedding.embed_documents([cube.text for cube in cubes])
        chosen = maximal_marginal_relevance(np.asarray(query), list(vectors), lambda_mult=lambda_mult, k=k)
        return [self._of(cubes[i]) for i in chosen]

    def _nearest(self, embedding: Sequence[float], k: int, filter: Filter | None) -> list[MemCube]:
        hits = self._memos.nearest(
            embedding, k=k, namespace=self._namespace, types=[DOCUMENT], accept=self._accept(filter)
        )
        return [hit.cube for hit in hits]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return float  # scores are relevances already

    def _hits(self, query: str, k: int, filter: Filter | None) -> list[Hit]:
        return self._memos.search(
            query,
            k=k,
            namespace=self._namespace,
            types=[DOCUMENT],
            accept=self._accept(filter),
            shared=False,
            valid_at=None,
        )

    def _accept(self, filter: Filter | None) -> Callable[[MemCube], bool]:
        return lambda cube: (
            of_none_within(self._memos.scope, cube) and (filter is None or _meets(self._of(cube), filter))
        )


def _document(id_: str, text: str, stored: Any) -> Document:
    metadata = stored.get("metadata") if isinstance(stored, dict) else None
    return Document(id=id_, page_content=text, metadata=metadata if isinstance(metadata, dict) else {})


def _meets(document: Document, filter: Filter) -> bool:
    if callable(filter):
        return filter(document)
    return all(document.metadata.get(name) == value for name, value in filter.items())
