"""Finds cubes: embedder, exact and approximate vector search, full text, fusion. All of it can be rebuilt."""

from memos_core.retrieval.embedder import Embedder, ObjectEmbedder, SentenceTransformerEmbedder, resolve
from memos_core.retrieval.fusion import query_words
from memos_core.retrieval.retriever import Hit, IndexKind, Retriever

__all__ = [
    "Embedder",
    "Hit",
    "IndexKind",
    "ObjectEmbedder",
    "Retriever",
    "SentenceTransformerEmbedder",
    "query_words",
    "resolve",
]
