"""MemOSRetriever: a user's memories as LangChain documents."""

from __future__ import annotations

from typing import Any

from memos_core import arguments
from memos_core.errors import missing_extra
from memos_core.memos import MemOS, given
from memos_core.retrieval import Hit

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None

from pydantic import ConfigDict, Field


class MemOSRetriever(BaseRetriever):
    """The memories nearest to a question, best first (interface: `langchain_core.retrievers.BaseRetriever`).

        MemOSRetriever(memos=memos.scoped(user="maya"), k=4).invoke("Where is the boat?")

    Each document holds a memory's text; its `id` is the cube's, its metadata say what it is and how near. The async
    form runs in a worker thread, as the base class does it.

    Args:
        memos: an open `MemOS`, or a narrower view of one: only what it may read is found, across its sessions.
        k: how many at most; `invoke(question, k=2)` asks for another number.

    Raises:
        InvalidArgument: `memos` is no MemOS, or `k` is less than 1.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: MemOS = Field(exclude=True, repr=False)
    k: int = 4

    def __init__(self, **fields: Any) -> None:
        given(fields.get("memos"))  # checked here: pydantic would wrap the error
        arguments.count(fields.get("k", 1), "k", 1)
        super().__init__(**fields)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        k = self.k if k is None else arguments.count(k, "k", 1)
        return [_document(hit) for hit in self.memos.recall(query, k=k)]


def _document(hit: Hit) -> Document:
    cube = hit.cube
    about = cube.header.descriptive
    metadata = {
        "type": cube.semantic_type,
        "namespace": list(cube.namespace),
        "key": cube.key,
        "version": cube.version,
        "score": hit.score,
        "created_at": about.created_at.isoformat(),
        "updated_at": about.updated_at.isoformat(),
    }
    return Document(id=cube.id, page_content=cube.text, metadata=metadata)
