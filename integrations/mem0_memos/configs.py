"""The classes of `mem0.configs`, for code that builds its configuration from them. `Memory` reads what was set; which
providers are used is in `mem0_memos.config`."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class MemoryType(Enum):
    """Kinds of memory; `add(memory_type=…)` takes the value of the last."""

    SEMANTIC = "semantic_memory"
    EPISODIC = "episodic_memory"
    PROCEDURAL = "procedural_memory"


class LlmConfig(BaseModel):
    """A language model, as `{"provider", "config"}`."""

    provider: str = "openai"
    config: dict[str, Any] | None = Field(default_factory=dict)


class EmbedderConfig(BaseModel):
    """An embedding model, as `{"provider", "config"}`."""

    provider: str = "openai"
    config: dict[str, Any] | None = Field(default_factory=dict)


class VectorStoreConfig(BaseModel):
    """A vector store; it has no effect here."""

    provider: str = "qdrant"
    config: dict[str, Any] | None = None


class RerankerConfig(BaseModel):
    """A reranker; it has no effect here."""

    model_config = ConfigDict(extra="forbid")

    provider: str = "cohere"
    config: dict[str, Any] | None = None


class MemoryConfig(BaseModel):
    """mem0's configuration. Beside its own fields it takes those of `mem0_memos.config`: `url`, `memos`."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    vector_store: VectorStoreConfig = Field(default_factory=VectorStoreConfig)
    llm: LlmConfig = Field(default_factory=LlmConfig)
    embedder: EmbedderConfig = Field(default_factory=EmbedderConfig)
    history_db_path: str | None = None
    reranker: RerankerConfig | None = None
    version: str = "v1.1"
    custom_instructions: str | None = None


class AzureConfig(BaseModel):
    """How Azure OpenAI is reached: `azure_kwargs` of a configuration."""

    api_key: str | None = None
    azure_deployment: str | None = None
    azure_endpoint: str | None = None
    api_version: str | None = None
    default_headers: dict[str, str] | None = None


class MemoryItem(BaseModel):
    """A memory, as `get` and `get_all` return it."""

    id: str
    memory: str
    hash: str | None = None
    metadata: dict[str, Any] | None = None
    score: float | None = None
    created_at: str | None = None
    updated_at: str | None = None
