"""LlamaIndex's own vector block as its documentation sets it up, for tests that compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import Field
from support import bag_of_words


class Words(BaseEmbedding):
    """The vectors of a bag of words."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return bag_of_words([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class _Texts(SimpleVectorStore):
    """Keeps the texts too, which the block asks for."""

    stores_text: bool = True
    nodes: dict[str, Any] = Field(default_factory=dict)

    async def async_add(self, nodes: Sequence[Any], **kwargs: Any) -> list[str]:
        self.nodes.update({node.node_id: node for node in nodes})
        return self.add(list(nodes))

    async def aquery(self, query: Any, **kwargs: Any) -> Any:
        found = self.query(query)
        found.nodes = [self.nodes[id_] for id_ in found.ids or ()]
        return found


def vector_block(**how: Any) -> VectorMemoryBlock:
    """A `VectorMemoryBlock` over an empty store."""
    return VectorMemoryBlock(vector_store=_Texts(), embed_model=Words(), **how)
