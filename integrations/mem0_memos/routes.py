"""What the hosted client sends: one pure function for each of its methods, from the arguments to a `Call`.

Routes, parameters and bodies are those of mem0ai 2.2.1. Both clients are made from these functions, so that there
is one description of each request.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import quote

from mem0_memos.options import (
    AddMemoryOptions,
    DeleteAllMemoryOptions,
    GetAllMemoryOptions,
    ProjectUpdateOptions,
    SearchMemoryOptions,
    UpdateMemoryOptions,
    merged,
)
from memos_core.errors import InvalidArgument

Answer = dict[str, Any]
R = TypeVar("R", covariant=True)

ENTITY_PARAMS = ("user_id", "agent_id", "app_id", "run_id")
ORGANIZATION = "/api/v1/orgs/organizations/{org_id}/projects/"
PROJECT = ORGANIZATION + "{project_id}/"
_PROFILE_JOBS = "/v2/profiles/jobs/"
_PROFILE_SETTINGS = "/v2/profiles/settings/"
_FEEDBACK = ("NEGATIVE", "POSITIVE", "VERY_NEGATIVE")
_ROLES = ("READER", "OWNER")
# They chose between routes and shapes that are gone.
_GONE = ("version", "output_format")
_UNSET: Final[Any] = object()


class Settings(Protocol):
    """What a request depends on beside its arguments."""

    @property
    def strict(self) -> bool:
        """Whether the call forms before 2.0 are refused."""

    @property
    def given_project(self) -> Mapping[str, str]:
        """The `org_id` and `project_id` that were passed, sent with each request as 1.x does; or nothing."""


@dataclass(frozen=True)
class Call(Generic[R]):
    """One request, to be answered by an R.

    Args:
        method, path: where to; `{org_id}` and `{project_id}` stand for the project's, where `of_project`.
        params: of the query. json: the body; None sends none. headers: beside the client's.
        of_project: whether the project must be known. names_project: whether the body, or without one the query, names
            it too.
    """

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Any = None
    headers: Mapping[str, str] | None = None
    of_project: bool = False
    names_project: bool = False


# -- memories ----------------------------------------------------------------------------------------------


def add(
    self: Settings, /, messages: Any, options: AddMemoryOptions | None = None, **kwargs: Any
) -> Call[Answer]:
    """Store what messages say.

    Args:
        messages: a text (of the user), a message dict, or a list of them.
        options, kwargs: `user_id`, `agent_id`, `app_id`, `run_id`, `metadata`, `infer` and what else the server takes.

    Returns:
        What the server answers: `{"results": [{"id", "memory", "event"}]}`, or the event to wait for.

    Raises:
        InvalidArgument: unusable messages. MemoryError: its class says what the server refused.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, dict):
        messages = [messages]
    elif not isinstance(messages, list):
        raise InvalidArgument(f"messages must be str, dict, or list[dict], got {type(messages).__name__}")
    sent = _without_gone(self, merged(options, kwargs))
    return Call("POST", "/v3/memories/add/", json={"messages": messages, **_params(self, sent)})


def get(self: Settings, /, memory_id: str) -> Call[Answer]:
    """One memory. Raises MemoryNotFoundError if there is none."""
    return Call("GET", f"/v1/memories/{segment('memory_id', memory_id)}/", _params(self))


def get_all(self: Settings, /, options: GetAllMemoryOptions | None = None, **kwargs: Any) -> Call[Answer]:
    """The memories that match.

    Args:
        options, kwargs: `filters` (the ids are in it), `page`, `page_size` and what else the server takes. The form of
            1.x, with the ids and `limit` as arguments, is sent as filters and page size, unless the client is
            strict.

    Returns:
        A page: `{"count", "next", "previous", "results"}`.
    """
    options = _version_left_out(self, options)
    asked = _asked(self, "get_all", merged(options, kwargs), kwargs)
    if not self.strict and (limit := asked.pop("limit", None)) is not None:
        asked.setdefault("page_size", limit)
    body = _params(self, asked)
    query: Answer = {key: body.pop(key) for key in ("page", "page_size") if key in body}
    return Call("POST", "/v3/memories/", query or None, body)


def _version_left_out(self: Settings, options: Any) -> Any:
    """The options of a call. Of the clients before 2.0 the API's version stood in their place."""
    return None if isinstance(options, str) and not self.strict else options


def search(
    self: Settings, /, query: str, options: SearchMemoryOptions | None = None, **kwargs: Any
) -> Call[Answer]:
    """The memories nearest to a question.

    Args:
        query: the question.
        options, kwargs: `filters` (the ids are in it), `top_k`, `threshold` and what else the server takes. The form
            of 1.x, with the ids and `limit` as arguments, is sent as filters and `top_k`, unless the client is strict.

    Returns:
        `{"results": […]}`.
    """
    options = _version_left_out(self, options)
    asked = _asked(self, "search", merged(options, kwargs), kwargs)
    if not self.strict and (limit := asked.pop("limit", None)) is not None:
        asked.setdefault("top_k", limit)
    if not isinstance(query, str):
        raise InvalidArgument("Invalid query: must be a non-empty string.")
    if not query.strip():
        raise InvalidArgument("Invalid query: cannot be empty or whitespace-only.")
    return Call("POST", "/v3/memories/search/", json={"query": query.strip(), **_params(self, asked)})


def update(
    self: Settings, /, memory_id: str, options: UpdateMemoryOptions | str | None = None, **kwargs: Any
) -> Call[Answer]:
    """Change a memory.

    Args:
        memory_id: which one.
        options, kwargs: `text`, `metadata`, `timestamp`, `expiration_date` (None removes it). A text in the place of
            `options` is the new text, as in 1.x.
    """
    if isinstance(options, str):
        options = UpdateMemoryOptions(text=options)
    changes = {k: v for k, v in merged(options, kwargs).items() if v is not None or k == "expiration_date"}
    if not changes:
        raise InvalidArgument(
            "At least one of text, metadata, timestamp, or expiration_date must be provided for update."
        )
    return Call("PUT", f"/v1/memories/{segment('memory_id', memory_id)}/", _params(self), changes)


def delete(self: Settings, /, memory_id: str, delete_linked: bool = False) -> Call[Answer]:
    """Remove a memory, and with `delete_linked` those that were made from it."""
    params = _params(self, {"delete_linked": delete_linked or None})
    return Call("DELETE", f"/v1/memories/{segment('memory_id', memory_id)}/", params)


def delete_all(
    self: Settings, /, options: DeleteAllMemoryOptions | None = None, **kwargs: Any
) -> Call[Answer]:
    """Remove every memory of the ids.

    Args:
        options, kwargs: `user_id`, `agent_id`, `app_id`, `run_id`, or `filters` with them.

    Raises:
        InvalidArgument: no id, an empty one, or `filters` has anything else, which this route cannot carry.
    """
    asked = merged(options, kwargs)
    filters = asked.pop("filters", None) or {}
    other = sorted(set(filters) - set(ENTITY_PARAMS)) if isinstance(filters, Mapping) else [repr(filters)]
    if other:
        raise InvalidArgument(f"filters of delete_all() can have {', '.join(ENTITY_PARAMS)}, not {other}")
    for name in ENTITY_PARAMS:
        if name in filters:
            _agree(asked, name, filters[name])
        if asked.get(name) is not None:
            asked[name] = _identifier(name, asked[name])
    if all(asked.get(name) is None for name in ENTITY_PARAMS):
        raise InvalidArgument(
            f"delete_all() needs one of {', '.join(ENTITY_PARAMS)}; reset() removes everything"
        )
    return Call("DELETE", "/v1/memories/", _params(self, asked))


def history(self: Settings, /, memory_id: str) -> Call[list[Answer]]:
    """What happened to a memory, oldest first."""
    return Call("GET", f"/v1/memories/{segment('memory_id', memory_id)}/history/", _params(self))


def batch_update(self: Settings, /, memories: list[dict[str, Any]]) -> Call[Answer]:
    """Change several memories: `[{"memory_id", "text", …}]`."""
    return Call("PUT", "/v1/batch/", json={"memories": memories})


def batch_delete(self: Settings, /, memories: list[dict[str, Any]]) -> Call[Answer]:
    """Remove several memories: `[{"memory_id"}]`."""
    return Call("DELETE", "/v1/batch/", json={"memories": memories})


def feedback(
    self: Settings, /, memory_id: str, feedback: str | None = None, feedback_reason: str | None = None
) -> Call[Answer]:
    """Say whether a memory was good: "POSITIVE", "NEGATIVE" or "VERY_NEGATIVE"; None takes it back."""
    word = feedback.upper() if feedback else None
    if word is not None and word not in _FEEDBACK:
        raise InvalidArgument(f"feedback must be one of {', '.join(_FEEDBACK)} or None")
    body = {"memory_id": memory_id, "feedback": word, "feedback_reason": feedback_reason}
    return Call("POST", "/v1/feedback/", json=body)


# -- users, agents, apps and runs --------------------------------------------------------------------------


def users(self: Settings, /) -> Call[Answer]:
    """Everybody who has memories: `{"results": [{"type", "name", …}]}`."""
    return Call("GET", "/v1/entities/", _params(self))


def named_entities(
    user_id: str | None, agent_id: str | None, app_id: str | None, run_id: str | None
) -> list[Answer]:
    """The one that `delete_users` names, as `users` would list it; [] if it names nobody.

    Raises:
        InvalidArgument: an id is empty. (It must not be taken for "all".)
    """
    given = {"user": user_id, "agent": agent_id, "app": app_id, "run": run_id}
    named = [
        {"type": kind, "name": _identifier(f"{kind}_id", name)}
        for kind, name in given.items()
        if name is not None
    ]
    return named[:1]


def delete_entity(self: Settings, /, entity: Answer) -> Call[Answer]:
    """Remove one of those that `users` lists, with all its memories."""
    path = f"/v2/entities/{segment('type', entity['type'])}/{segment('name', entity['name'])}/"
    return Call("DELETE", path, _params(self))


def get_profile(self: Settings, /, entity_id: str) -> Call[Answer]:
    """The profile of a user, as the server last wrote it."""
    return Call("GET", f"/v2/entities/user/{segment('entity_id', entity_id)}/profile/")


def generate_profile(self: Settings, /, entity_id: str, idempotency_key: str | None = None) -> Call[Answer]:
    """Have a user's profile written; with the same key a repetition starts no second job."""
    body = {"operation": "trigger", "entity_type": "user", "entity_id": entity_id}
    return Call("POST", _PROFILE_JOBS, json=body, headers=_once(idempotency_key))


def sample_profiles(
    self: Settings, /, limit: int | None = None, idempotency_key: str | None = None
) -> Call[Answer]:
    """Have the profiles of a few users written, to try a schema."""
    body = {**_params(self, {"limit": limit}), "operation": "sample", "entity_type": "user"}
    return Call("POST", _PROFILE_JOBS, json=body, headers=_once(idempotency_key))


def get_profile_job(self: Settings, /, job_id_or_status_url: str) -> Call[Answer]:
    """How far a job of profiles is; by its id or the `status_url` of its start."""
    path = job_id_or_status_url
    return Call("GET", path if path.startswith("/") else f"{_PROFILE_JOBS}{segment('job_id', path)}/")


def get_profile_settings(self: Settings, /) -> Call[Answer]:
    """Whether and how the server writes profiles."""
    return Call("GET", _PROFILE_SETTINGS)


def update_profile_settings(
    self: Settings, /, enabled: bool | None = None, schema: Any = _UNSET, custom_instructions: Any = _UNSET
) -> Call[Answer]:
    """Change them: what is left out stays, None clears."""
    of_users = {"schema": schema, "custom_instructions": custom_instructions}
    of_users = {key: value for key, value in of_users.items() if value is not _UNSET}
    body: Answer = {} if enabled is None else {"enabled": enabled}
    if of_users:
        body["entities"] = {"user": of_users}
    return Call("POST", _PROFILE_SETTINGS, json=body)


# -- exports -----------------------------------------------------------------------------------------------


def create_memory_export(self: Settings, /, schema: str, **kwargs: Any) -> Call[Answer]:
    """Have memories exported in the form of a schema; `filters` says which."""
    return Call("POST", "/v1/exports/", json={"schema": schema, **_params(self, kwargs)})


def get_memory_export(self: Settings, /, **kwargs: Any) -> Call[Answer]:
    """An export, by `memory_export_id` or `filters`."""
    return Call("POST", "/v1/exports/get/", json=_params(self, kwargs))


def get_summary(self: Settings, /, filters: dict[str, Any] | None = None) -> Call[Answer]:
    """A summary of the memories that match."""
    return Call("POST", "/v1/summary/", json=_params(self, {"filters": filters}))


# -- webhooks ----------------------------------------------------------------------------------------------


def get_webhooks(self: Settings, /, project_id: str) -> Call[Answer]:
    """The webhooks of a project."""
    return Call("GET", f"/api/v1/webhooks/projects/{segment('project_id', project_id)}/")


def create_webhook(
    self: Settings, /, url: str, name: str, project_id: str, event_types: list[str]
) -> Call[Answer]:
    """Have a URL called when something of these types happens."""
    body = {"url": url, "name": name, "event_types": event_types}
    return Call("POST", f"/api/v1/webhooks/projects/{segment('project_id', project_id)}/", json=body)


def update_webhook(
    self: Settings,
    /,
    webhook_id: int,
    name: str | None = None,
    url: str | None = None,
    event_types: list[str] | None = None,
) -> Call[Answer]:
    """Change a webhook; what is None stays."""
    body = _set({"name": name, "url": url, "event_types": event_types})
    return Call("PUT", f"/api/v1/webhooks/{segment('webhook_id', webhook_id)}/", json=body)


def delete_webhook(self: Settings, /, webhook_id: int) -> Call[Answer]:
    """Remove a webhook."""
    return Call("DELETE", f"/api/v1/webhooks/{segment('webhook_id', webhook_id)}/")


# -- the project -------------------------------------------------------------------------------------------


def ping(self: Settings, /) -> Call[Answer]:
    """Whose key it is: `{"org_id", "project_id", "user_email"}`."""
    return Call("GET", "/v1/ping/", _params(self))


def get_project(self: Settings, /, fields: list[str] | None = None) -> Call[Answer]:
    """Settings of the project. (`client.project.get` is the newer form.)"""
    return Call("GET", PROJECT, _set({"fields": fields}), of_project=True)


def update_project(
    self: Settings,
    /,
    options: ProjectUpdateOptions | None = None,
    custom_instructions: str | None = None,
    custom_categories: list[Any] | None = None,
    memory_depth: str | None = None,
    usecase_setting: str | None = None,
    multilingual: bool | None = None,
    agent_custom_instructions: str | None = None,
) -> Call[Answer]:
    """Change settings of the project. (`client.project.update` is the newer form.)"""
    given = {
        "custom_instructions": custom_instructions,
        "custom_categories": custom_categories,
        "memory_depth": memory_depth,
        "usecase_setting": usecase_setting,
        "multilingual": multilingual,
        "agent_custom_instructions": agent_custom_instructions,
    }
    body = _set(merged(options, _set(given)))
    if not body:
        raise InvalidArgument("update_project() needs something to change, e.g. custom_instructions=")
    return Call("PATCH", PROJECT, json=body, of_project=True)


# -- helpers -----------------------------------------------------------------------------------------------


def segment(name: str, value: Any) -> str:
    """A value as one part of a path.

    Raises:
        InvalidArgument: it is empty or made of dots: the path would be another one, that of all memories.
    """
    text = _identifier(name, value)
    if text in (".", ".."):
        raise InvalidArgument(f"{name} cannot be {text!r}; pass the id of one thing")
    return quote(text, safe="")


def role(value: str) -> str:
    """The role of a member of a project, checked."""
    if value not in _ROLES:
        raise InvalidArgument("Role must be either 'READER' or 'OWNER'")
    return value


def _identifier(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool | Mapping | list | tuple | set):
        raise InvalidArgument(f"{name} must be a text or a number, got {value!r:.80}")
    if not str(value).strip():
        raise InvalidArgument(f"{name} cannot be empty; leave it out, or pass an id")
    return str(value)


def _set(values: Mapping[str, Any]) -> Answer:
    return {key: value for key, value in values.items() if value is not None}


def _params(self: Settings, values: Mapping[str, Any] | None = None) -> Answer:
    return _set({**(values or {}), **self.given_project})


def _once(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def _without_gone(self: Settings, values: Answer) -> Answer:
    return values if self.strict else {key: value for key, value in values.items() if key not in _GONE}


def _asked(self: Settings, call: str, values: Answer, passed: Mapping[str, Any]) -> Answer:
    top_level = [name for name in ENTITY_PARAMS if name in passed]
    if top_level and self.strict:
        raise InvalidArgument(
            f"Top-level entity parameters {top_level} are not supported in {call}(). "
            "Use filters={'user_id': '...'} instead."
        )
    values = _without_gone(self, dict(values))
    filters = values.get("filters")
    for name in top_level:
        if (value := values.pop(name)) is not None:
            filters = dict(filters or {})
            _agree(filters, name, value)
    return {**values, "filters": filters} if filters is not None else values


def _agree(into: Answer, name: str, value: Any) -> None:
    if into.get(name) is None:
        into[name] = value
    elif into[name] != value:
        raise InvalidArgument(f"{name} is given twice, as {into[name]!r} and {value!r}; pass it once")
