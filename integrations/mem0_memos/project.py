"""`client.project`: the settings and members of the project that a key belongs to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

from mem0_memos.routes import ORGANIZATION, PROJECT, Answer, Call, role
from memos_core.errors import InvalidArgument

if TYPE_CHECKING:
    from mem0_memos.client import AsyncMemoryClient, MemoryClient

P = ParamSpec("P")
R = TypeVar("R")
_MEMBERS = PROJECT + "members/"


def _get(self: BaseProject, /, fields: list[str] | None = None) -> Call[Answer]:
    """The project's settings, or those named by `fields`."""
    params = None if fields is None else {"fields": fields}
    return Call("GET", PROJECT, params, of_project=True, names_project=True)


def _create(self: BaseProject, /, name: str, description: str | None = None) -> Call[Answer]:
    """Make another project in the organization."""
    body = {"name": name, **({} if description is None else {"description": description})}
    return Call("POST", ORGANIZATION, json=body, of_project=True)


def _update(
    self: BaseProject,
    /,
    custom_instructions: str | None = None,
    custom_categories: list[Any] | None = None,
    multilingual: bool | None = None,
    decay: bool | None = None,
    agent_custom_instructions: str | None = None,
) -> Call[Answer]:
    """Change the project's settings; what is None stays.

    Raises:
        InvalidArgument: nothing to change.
    """
    given = {
        "custom_instructions": custom_instructions,
        "custom_categories": custom_categories,
        "multilingual": multilingual,
        "decay": decay,
        "agent_custom_instructions": agent_custom_instructions,
    }
    body = {key: value for key, value in given.items() if value is not None}
    if not body:
        raise InvalidArgument(f"At least one parameter must be provided for update: {', '.join(given)}")
    return Call("PATCH", PROJECT, json=body, of_project=True, names_project=True)


def _delete(self: BaseProject, /) -> Call[Answer]:
    """Remove the project."""
    return Call("DELETE", PROJECT, of_project=True)


def _get_members(self: BaseProject, /) -> Call[Answer]:
    """The project's members."""
    return Call("GET", _MEMBERS, of_project=True)


def _add_member(self: BaseProject, /, email: str, role: str = "READER") -> Call[Answer]:
    """Add a member, as "READER" or "OWNER"."""
    return _membership("POST", email, role)


def _update_member(self: BaseProject, /, email: str, role: str) -> Call[Answer]:
    """Change the role of a member."""
    return _membership("PUT", email, role)


def _remove_member(self: BaseProject, /, email: str) -> Call[Answer]:
    """Remove a member."""
    return Call("DELETE", _MEMBERS, {"email": email}, of_project=True)


def _membership(method: str, email: str, as_role: str) -> Call[Answer]:
    return Call(method, _MEMBERS, json={"email": email, "role": role(as_role)}, of_project=True)


def _sync(build: Callable[Concatenate[BaseProject, P], Call[R]]) -> Callable[Concatenate[Project, P], R]:
    @wraps(build)
    def method(self: Project, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._client.send(build(self, *args, **kwargs))

    method.__name__ = build.__name__.removeprefix("_")
    return method


def _async(
    build: Callable[Concatenate[BaseProject, P], Call[R]],
) -> Callable[Concatenate[AsyncProject, P], Coroutine[Any, Any, R]]:
    @wraps(build)
    async def method(self: AsyncProject, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._client.send(build(self, *args, **kwargs))

    method.__name__ = build.__name__.removeprefix("_")
    return method


class BaseProject:
    """What both forms know of the project; None until the client has asked its server."""

    _client: MemoryClient | AsyncMemoryClient

    @property
    def org_id(self) -> str | None:
        """The organization."""
        return self._client.org_id

    @property
    def project_id(self) -> str | None:
        """The project."""
        return self._client.project_id

    @property
    def user_email(self) -> str | None:
        """Whose key it is."""
        return self._client.user_email


class Project(BaseProject):
    """The project of a `MemoryClient`; made by it. The first call asks the server which project it is."""

    def __init__(self, client: MemoryClient) -> None:
        self._client: MemoryClient = client

    get = _sync(_get)
    create = _sync(_create)
    update = _sync(_update)
    delete = _sync(_delete)
    get_members = _sync(_get_members)
    add_member = _sync(_add_member)
    update_member = _sync(_update_member)
    remove_member = _sync(_remove_member)


class AsyncProject(BaseProject):
    """The project of an `AsyncMemoryClient`; made by it."""

    def __init__(self, client: AsyncMemoryClient) -> None:
        self._client: AsyncMemoryClient = client

    get = _async(_get)
    create = _async(_create)
    update = _async(_update)
    delete = _async(_delete)
    get_members = _async(_get_members)
    add_member = _async(_add_member)
    update_member = _async(_update_member)
    remove_member = _async(_remove_member)


class LocalProject:
    """`Memory.project`: what mem0's local memory says to who takes it for the hosted client."""

    def update(
        self,
        custom_instructions: str | None = None,
        custom_categories: list[Any] | None = None,
        multilingual: bool | None = None,
        decay: bool | None = None,
    ) -> NoReturn:
        """Refused, as in mem0.

        Raises:
            InvalidArgument: always.
        """
        raise InvalidArgument(
            "Project updates are not supported by a local memory; pass custom_instructions in the configuration"
        )


class AsyncLocalProject:
    """`AsyncMemory.project`; see `LocalProject`."""

    async def update(
        self,
        custom_instructions: str | None = None,
        custom_categories: list[Any] | None = None,
        multilingual: bool | None = None,
        decay: bool | None = None,
    ) -> NoReturn:
        """Refused, as in mem0.

        Raises:
            InvalidArgument: always.
        """
        LocalProject().update()
