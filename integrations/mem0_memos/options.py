"""The `options=` of the client's methods: the models of `mem0.client.types`. What is not set is not sent."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class AddMemoryOptions(BaseModel):
    """For `add`; the ids go into `filters`, or are arguments of `add`."""

    filters: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    infer: bool | None = None
    custom_categories: list[dict[str, Any]] | None = None
    custom_instructions: str | None = None
    agent_custom_instructions: str | None = None
    timestamp: int | None = None
    expiration_date: str | None = None
    structured_data_schema: dict[str, Any] | None = None


class SearchMemoryOptions(BaseModel):
    """For `search`; the ids go into `filters`."""

    filters: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    top_k: int | None = None
    rerank: bool | None = None
    threshold: float | None = None
    fields: list[str] | None = None
    categories: list[str] | None = None
    show_expired: bool | None = None
    reference_date: str | int | None = None
    latest_only: bool | None = None
    keyword_search: bool | None = None


class GetAllMemoryOptions(BaseModel):
    """For `get_all`; the ids go into `filters`."""

    filters: dict[str, Any] | None = None
    page: int | None = None
    page_size: int | None = None
    start_date: str | None = None
    end_date: str | None = None
    categories: list[str] | None = None
    show_expired: bool | None = None
    latest_only: bool | None = None


class DeleteAllMemoryOptions(BaseModel):
    """For `delete_all`."""

    filters: dict[str, Any] | None = None


class UpdateMemoryOptions(BaseModel):
    """For `update`; an `expiration_date` of None removes it."""

    text: str | None = None
    metadata: dict[str, Any] | None = None
    timestamp: int | float | str | None = None
    expiration_date: str | None = None


class ProjectUpdateOptions(BaseModel):
    """For `update_project`."""

    custom_instructions: str | None = None
    agent_custom_instructions: str | None = None
    custom_categories: list[dict[str, Any]] | None = None
    memory_depth: str | None = None
    usecase_setting: Any | None = None
    multilingual: bool | None = None


def merged(options: BaseModel | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What was set in the options, and the other arguments, which go before."""
    return {**(options.model_dump(exclude_unset=True) if options is not None else {}), **kwargs}
