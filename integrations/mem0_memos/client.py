"""`MemoryClient` and `AsyncMemoryClient`: mem0's clients of its hosted API, for any server that speaks it.

Nothing is sent before the first call, and nothing but that call: no telemetry, no key check. `routes` says what each
method sends; here it is sent, and what comes back becomes a result or an exception.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

from mem0_memos import routes
from mem0_memos.errors import MemoryError, NetworkError, create_exception_from_response
from mem0_memos.project import AsyncProject, Project
from mem0_memos.routes import Answer, Call
from memos_core.errors import InvalidArgument, missing_extra

if TYPE_CHECKING:
    import httpx

P = ParamSpec("P")
R = TypeVar("R")

HOST = "https://api.mem0.ai"
TIMEOUT = 300  # seconds, as mem0: an add waits for a language model
NAME = "mem0-memos"
_MAX_STACK = 4
_RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def _sync(
    build: Callable[Concatenate[routes.Settings, P], Call[R]],
) -> Callable[Concatenate[MemoryClient, P], R]:
    @wraps(build)
    def method(self: MemoryClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.send(build(self, *args, **kwargs))

    return method


def _async(
    build: Callable[Concatenate[routes.Settings, P], Call[R]],
) -> Callable[Concatenate[AsyncMemoryClient, P], Coroutine[Any, Any, R]]:
    @wraps(build)
    async def method(self: AsyncMemoryClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.send(build(self, *args, **kwargs))

    return method


class _Client:
    """What both clients know. `org_id`, `project_id` and `user_email` are None until the server has been asked, which
    the first call about the project does, or `ping`."""

    def __init__(
        self,
        api_key: str | None,
        host: str | None,
        org_id: str | None,
        project_id: str | None,
        strict: bool,
    ) -> None:
        self.api_key = _checked_key(api_key or os.getenv("MEM0_API_KEY"))
        self.host = _checked_host(host or HOST)
        if bool(org_id) != bool(project_id):
            raise InvalidArgument("Please provide both org_id and project_id")
        self.org_id, self.project_id = org_id or None, project_id or None
        self.user_email: str | None = None
        self.user_id = hashlib.md5(self.api_key.encode(), usedforsecurity=False).hexdigest()
        self.strict = strict
        self.given_project: Mapping[str, str] = (
            {"org_id": org_id, "project_id": project_id} if org_id and project_id else {}
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(host={self.host!r})"

    def _headers(self, others: Mapping[str, str]) -> dict[str, str]:
        """The client's own, beside those that a caller's HTTP client has: who is outermost names the source, and all
        name themselves in the stack."""
        stack: str = others.get("X-Mem0-Client") or os.getenv("MEM0_CLIENT_STACK") or ""
        callers = [part.strip() for part in stack.split(",") if part.strip()][: _MAX_STACK - 1]
        headers = {
            "Authorization": f"Token {self.api_key}",
            "Mem0-User-ID": self.user_id,
            "X-Mem0-Client": ", ".join([*callers, NAME]),
        }
        for name, variable in (("X-Mem0-Source", "MEM0_SOURCE"), ("X-Application", "MEM0_APPLICATION")):
            value = others.get(name) or os.getenv(variable, "").strip()
            if value:
                headers[name] = value
        return headers

    def _learn(self, answer: Answer) -> None:
        """What a ping says; a project that the caller named stays."""
        self.user_email = answer.get("user_email")
        if not self.project_id and answer.get("org_id") and answer.get("project_id"):
            self.org_id, self.project_id = str(answer["org_id"]), str(answer["project_id"])

    def _arguments(self, call: Call[Any]) -> dict[str, Any]:
        """A call as httpx takes it."""
        path, params, body = call.path, dict(call.params or {}), call.json
        if call.of_project:
            if not (self.org_id and self.project_id):
                raise InvalidArgument("org_id and project_id must be set to access project operations")
            organization = routes.segment("org_id", self.org_id)
            project = routes.segment("project_id", self.project_id)
            path = path.replace("{org_id}", organization).replace("{project_id}", project)
            if call.names_project:
                named = {"org_id": self.org_id, "project_id": self.project_id}
                params, body = ({**params, **named}, None) if body is None else (params, {**body, **named})
        arguments = {"method": call.method, "url": path, "params": params or None, "headers": call.headers}
        return arguments if body is None else {**arguments, "json": body}


class MemoryClient(_Client):
    """mem0's client of a server that speaks its hosted API.

    Args:
        api_key: the server's key; None takes the environment variable `MEM0_API_KEY`. It is sent to the host and goes
            nowhere else: neither into a log nor into a message.
        host: where the server is; https://api.mem0.ai by default.
        client: an `httpx.Client` to send with; its base URL and its headers are set.
        org_id, project_id: the form of 1.x: which project, sent with each request. Both or none.
        strict: refuse the call forms before 2.0 (ids and `limit` as arguments of `search` and `get_all`).

    Raises:
        InvalidArgument (a ValueError): no key, or an argument cannot be used. MissingExtra: httpx is not installed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        host: str | None = None,
        client: httpx.Client | None = None,
        *,
        org_id: str | None = None,
        project_id: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(api_key, host, org_id, project_id, strict)
        httpx = _httpx()
        self.client = client if client is not None else httpx.Client(timeout=TIMEOUT)
        self.client.base_url = httpx.URL(self.host)
        self.client.headers.update(self._headers(self.client.headers))
        self.project = Project(self)

    def send(self, call: Call[R]) -> R:
        """Send what one of the methods asks for, and wait for its result.

        Raises:
            MemoryError: of the class that says what went wrong.
        """
        if call.of_project and not self.project_id:
            self.ping()
        arguments = self._arguments(call)
        try:
            response = self.client.request(**arguments)
        except _httpx().RequestError as err:
            raise _unreachable(err) from err
        result: R = _result(response)
        return result

    def ping(self) -> Answer:
        """Ask the server whose key it is. (mem0 does so when a client is made.)

        Raises:
            AuthenticationError: it knows no such key.
        """
        answer = self.send(routes.ping(self))
        self._learn(answer)
        return answer

    add = _sync(routes.add)
    get = _sync(routes.get)
    get_all = _sync(routes.get_all)
    search = _sync(routes.search)
    update = _sync(routes.update)
    delete = _sync(routes.delete)
    delete_all = _sync(routes.delete_all)
    history = _sync(routes.history)
    users = _sync(routes.users)
    batch_update = _sync(routes.batch_update)
    batch_delete = _sync(routes.batch_delete)
    feedback = _sync(routes.feedback)
    create_memory_export = _sync(routes.create_memory_export)
    get_memory_export = _sync(routes.get_memory_export)
    get_summary = _sync(routes.get_summary)
    get_profile = _sync(routes.get_profile)
    generate_profile = _sync(routes.generate_profile)
    sample_profiles = _sync(routes.sample_profiles)
    get_profile_job = _sync(routes.get_profile_job)
    get_profile_settings = _sync(routes.get_profile_settings)
    update_profile_settings = _sync(routes.update_profile_settings)
    get_project = _sync(routes.get_project)
    update_project = _sync(routes.update_project)
    get_webhooks = _sync(routes.get_webhooks)
    create_webhook = _sync(routes.create_webhook)
    update_webhook = _sync(routes.update_webhook)
    delete_webhook = _sync(routes.delete_webhook)

    def delete_users(
        self,
        user_id: str | None = None,
        agent_id: str | None = None,
        app_id: str | None = None,
        run_id: str | None = None,
    ) -> Answer:
        """Remove one user, agent, app or run with all memories; without an argument, all of them.

        Raises:
            InvalidArgument: an id is empty, or nobody is there.
        """
        named = routes.named_entities(user_id, agent_id, app_id, run_id)
        for entity in named or _listed(self.users()):
            self.send(routes.delete_entity(self, entity))
        return _deleted(named)

    def reset(self) -> Answer:
        """Remove all users, agents, apps and runs, with all memories."""
        self.delete_users()
        return _reset()

    def chat(self) -> None:
        """Not in the API, as in mem0."""
        raise NotImplementedError("Chat is not implemented yet")

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncMemoryClient(_Client):
    """`MemoryClient` for async code: every method is awaited. `client` is an `httpx.AsyncClient`."""

    def __init__(
        self,
        api_key: str | None = None,
        host: str | None = None,
        client: httpx.AsyncClient | None = None,
        *,
        org_id: str | None = None,
        project_id: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(api_key, host, org_id, project_id, strict)
        httpx = _httpx()
        self.async_client = client if client is not None else httpx.AsyncClient(timeout=TIMEOUT)
        self.async_client.base_url = httpx.URL(self.host)
        self.async_client.headers.update(self._headers(self.async_client.headers))
        self.project = AsyncProject(self)

    async def send(self, call: Call[R]) -> R:
        """Async form of `MemoryClient.send`."""
        if call.of_project and not self.project_id:
            await self.ping()
        arguments = self._arguments(call)
        try:
            response = await self.async_client.request(**arguments)
        except _httpx().RequestError as err:
            raise _unreachable(err) from err
        result: R = _result(response)
        return result

    async def ping(self) -> Answer:
        """Async form of `MemoryClient.ping`."""
        answer = await self.send(routes.ping(self))
        self._learn(answer)
        return answer

    add = _async(routes.add)
    get = _async(routes.get)
    get_all = _async(routes.get_all)
    search = _async(routes.search)
    update = _async(routes.update)
    delete = _async(routes.delete)
    delete_all = _async(routes.delete_all)
    history = _async(routes.history)
    users = _async(routes.users)
    batch_update = _async(routes.batch_update)
    batch_delete = _async(routes.batch_delete)
    feedback = _async(routes.feedback)
    create_memory_export = _async(routes.create_memory_export)
    get_memory_export = _async(routes.get_memory_export)
    get_summary = _async(routes.get_summary)
    get_profile = _async(routes.get_profile)
    generate_profile = _async(routes.generate_profile)
    sample_profiles = _async(routes.sample_profiles)
    get_profile_job = _async(routes.get_profile_job)
    get_profile_settings = _async(routes.get_profile_settings)
    update_profile_settings = _async(routes.update_profile_settings)
    get_project = _async(routes.get_project)
    update_project = _async(routes.update_project)
    get_webhooks = _async(routes.get_webhooks)
    create_webhook = _async(routes.create_webhook)
    update_webhook = _async(routes.update_webhook)
    delete_webhook = _async(routes.delete_webhook)

    async def delete_users(
        self,
        user_id: str | None = None,
        agent_id: str | None = None,
        app_id: str | None = None,
        run_id: str | None = None,
    ) -> Answer:
        """Async form of `MemoryClient.delete_users`."""
        named = routes.named_entities(user_id, agent_id, app_id, run_id)
        for entity in named or _listed(await self.users()):
            await self.send(routes.delete_entity(self, entity))
        return _deleted(named)

    async def reset(self) -> Answer:
        """Async form of `MemoryClient.reset`."""
        await self.delete_users()
        return _reset()

    async def chat(self) -> None:
        """Not in the API, as in mem0."""
        raise NotImplementedError("Chat is not implemented yet")

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        await self.async_client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as err:
        raise missing_extra("httpx", "mem0") from err
    return httpx


def _checked_key(key: Any) -> str:
    if not key:
        raise InvalidArgument("Mem0 API Key not provided. Please provide an API Key.")
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or key != key.strip():
        # The library that sends headers would quote the key in its message.
        raise InvalidArgument("api_key has characters that no header can hold; is there a line break in it?")
    return key


def _checked_host(host: Any) -> str:
    parts = urlsplit(host) if isinstance(host, str) else None
    # A user name in the URL would be sent instead of the key.
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InvalidArgument("host must be http(s)://NAME[:PORT][/PATH], without a user name")
    return str(host)


def _listed(answer: Answer) -> list[Answer]:
    entities: list[Answer] = answer["results"]
    if not entities:
        raise InvalidArgument("No entities to delete")
    return entities


def _deleted(named: list[Answer]) -> Answer:
    return {
        "message": "Entity deleted successfully." if named else "All users, agents, apps and runs deleted."
    }


def _reset() -> Answer:
    return {"message": "Client reset successful. All users and memories deleted."}


def _result(response: httpx.Response) -> Any:
    if not response.is_success:
        raise _refused(response)
    if not response.content:
        return {}
    try:
        return response.json()
    except ValueError as err:
        raise MemoryError(
            "The server's answer is not JSON; does host name a server of mem0's API?",
            f"HTTP_{response.status_code}",
            debug_info=_about(response),
        ) from err


def _refused(response: httpx.Response) -> MemoryError:
    details: Any = None
    if response.headers.get("content-type", "").startswith("application/json"):
        try:
            details = response.json()
        except ValueError:
            details = None  # then the text is all there is
    said = details.get("detail", response.text) if isinstance(details, dict) else response.text
    said = "" if said is None else said
    about = _about(response)
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        if wait.isascii() and wait.isdigit():
            about["retry_after"] = int(wait)
        for name in _RATE_HEADERS:
            if name in response.headers:
                about[name.lower().replace("-", "_")] = response.headers[name]
    return create_exception_from_response(
        response.status_code,
        said if isinstance(said, str) else str(said),
        details=details if isinstance(details, dict) else None,
        debug_info=about,
    )


def _about(response: httpx.Response) -> dict[str, Any]:
    request = response.request
    return {"status_code": response.status_code, "url": str(request.url), "method": request.method}


def _unreachable(err: httpx.RequestError) -> NetworkError:
    httpx = _httpx()
    if isinstance(err, httpx.TimeoutException):
        what, code, kind = "Request timed out", "NET_TIMEOUT", "timeout"
    elif isinstance(err, httpx.ConnectError):
        what, code, kind = "Connection failed", "NET_CONNECT", "connection"
    else:
        what, code, kind = "Network request failed", "NET_GENERIC", "request"
    return NetworkError(
        f"{what}: {err}",
        code,
        suggestion="Please check your internet connection and try again",
        debug_info={"error_type": kind, "original_error": str(err)},
    )
