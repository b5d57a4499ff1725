"""A small server of mem0's hosted API over `mem0_memos.Memory` on a real vault, for the tests of its clients.

It keeps what it was asked (`seen`), and answers what a test says (`answers`) before it answers by itself.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from mem0_memos import Memory, MemoryNotFound
from memos_core import MemOS
from memos_core.errors import InvalidArgument

KEY = "m0-a-test-key"
ORG, PROJECT = "org-1", "proj-1"
KINDS = {"user": "user_id", "agent": "agent_id", "run": "run_id"}


class Seen(NamedTuple):
    """A request. Of its headers: those by which a server knows the client, and what says how to read the body."""

    method: str
    path: str
    query: list[tuple[str, str]]
    body: Any
    headers: dict[str, str]


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Hosted:
    """The server, on a port of its own: `with Hosted(memos) as server: MemoryClient(KEY, server.host)`."""

    def __init__(self, memos: MemOS) -> None:
        self.memos, self.memory = memos, Memory(memos)
        self.seen: list[Seen] = []  # without the pings
        self.pings = 0
        self.answers: list[Answer] = []
        self.exports: dict[str, Any] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def handle_one(self) -> None:
                server.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self.host = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        size = int(http.headers.get("Content-Length") or 0)
        raw = http.rfile.read(size)
        url = urlsplit(http.path)
        kept = ("Authorization", "Mem0-User-ID", "Content-Type", "X-Mem0-Source", "X-Application")
        headers = {name: http.headers[name] for name in kept if name in http.headers}
        if "Idempotency-Key" in http.headers:
            headers["Idempotency-Key"] = http.headers["Idempotency-Key"]
        request = Seen(
            http.command, url.path, parse_qsl(url.query), json.loads(raw) if raw else None, headers
        )
        if url.path == "/v1/ping/":  # mem0's client does it when it is made
            self.pings += 1
        else:
            self.seen.append(request)
        answer = self.answer(request)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        http.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(body)))
        http.end_headers()
        http.wfile.write(body)

    def answer(self, request: Seen) -> Answer:
        if request.headers.get("Authorization") != f"Token {KEY}":
            return Answer(401, {"detail": "Invalid API key"})
        if self.answers and request.path != "/v1/ping/":
            return self.answers.pop(0)
        for method, pattern, reply in ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                try:
                    return Answer(200, reply(self, request, *map(unquote, found.groups())))
                except MemoryNotFound as err:
                    return Answer(404, {"detail": str(err)})
                except InvalidArgument as err:
                    return Answer(400, {"detail": str(err)})
        return Answer(404, {"detail": f"no route {request.method} {request.path}"})


Reply = Callable[..., Any]


def ping(server: Hosted, request: Seen) -> Any:
    return {"org_id": ORG, "project_id": PROJECT, "user_email": "a@example.org"}


def add(server: Hosted, request: Seen) -> Any:
    body = {
        k: v for k, v in request.body.items() if k in ("user_id", "agent_id", "run_id", "metadata", "infer")
    }
    return server.memory.add(request.body["messages"], **{**body, **(request.body.get("filters") or {})})


def listed(server: Hosted, request: Seen) -> Any:
    found = server.memory.get_all(filters=plain(request.body.get("filters")), top_k=1000)["results"]
    query = dict(request.query)
    page, size = int(query.get("page", 1)), int(query.get("page_size", 100))
    return {
        "count": len(found),
        "next": None,
        "previous": None,
        "results": found[(page - 1) * size : page * size],
    }


def search(server: Hosted, request: Seen) -> Any:
    extra = {k: v for k, v in request.body.items() if k in ("top_k", "threshold")}
    return server.memory.search(request.body["query"], filters=plain(request.body.get("filters")), **extra)


def plain(filters: Any) -> Any:
    """The ids out of the `AND` in which callers of the hosted API put them."""
    found = dict(filters or {})
    rest = []
    for part in found.pop("AND", []):
        if set(part) <= set(KINDS.values()):
            found.update(part)
        else:
            rest.append(part)
    return {**found, **({"AND": rest} if rest else {})}


def get(server: Hosted, request: Seen, memory_id: str) -> Any:
    found = server.memory.get(memory_id)
    if found is None:
        raise MemoryNotFound(f"Memory with id {memory_id} not found")
    return found


def update(server: Hosted, request: Seen, memory_id: str) -> Any:
    return server.memory.update(memory_id, **request.body)


def delete(server: Hosted, request: Seen, memory_id: str) -> Any:
    return server.memory.delete(memory_id)


def history(server: Hosted, request: Seen, memory_id: str) -> Any:
    return server.memory.history(memory_id)


def delete_all(server: Hosted, request: Seen) -> Any:
    return server.memory.delete_all(**dict(request.query))


def users(server: Hosted, request: Seen) -> Any:
    with_user = {c.scope.user for c in server.memos.all_users().find(kinds=["plaintext"]) if c.scope.user}
    return {"results": [{"type": "user", "name": name} for name in sorted(with_user)]}


def delete_entity(server: Hosted, request: Seen, kind: str, name: str) -> Any:
    return server.memory.delete_all(**{KINDS[kind]: name})


def batch(server: Hosted, request: Seen) -> Any:
    for memory in request.body["memories"]:
        if request.method == "PUT":
            server.memory.update(memory["memory_id"], memory["text"])
        else:
            server.memory.delete(memory["memory_id"])
    return {"message": f"{len(request.body['memories'])} memories"}


def export(server: Hosted, request: Seen) -> Any:
    server.exports["1"] = server.memory.get_all(filters=request.body["filters"])["results"]
    return {"id": "1"}


def exported(server: Hosted, request: Seen) -> Any:
    return {"memories": server.exports[request.body["memory_export_id"]]}


def echo(server: Hosted, request: Seen, *parts: str) -> Any:
    """What a vault has no counterpart for: settings, members, webhooks, profiles."""
    return {"asked": request.path, "query": request.query, "body": request.body}


ONE = r"/v1/memories/([^/]+)/"
ROUTES: list[tuple[str, str, Reply]] = [
    ("GET", "/v1/ping/", ping),
    ("POST", "/v3/memories/add/", add),
    ("POST", "/v3/memories/", listed),
    ("POST", "/v3/memories/search/", search),
    ("GET", ONE, get),
    ("PUT", ONE, update),
    ("DELETE", ONE, delete),
    ("GET", ONE + "history/", history),
    ("DELETE", "/v1/memories/", delete_all),
    ("GET", "/v1/entities/", users),
    ("DELETE", r"/v2/entities/([^/]+)/([^/]+)/", delete_entity),
    ("PUT", "/v1/batch/", batch),
    ("DELETE", "/v1/batch/", batch),
    ("POST", "/v1/exports/", export),
    ("POST", "/v1/exports/get/", exported),
    *[
        (method, pattern, echo)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for pattern in (
            r"/api/v1/.*",
            r"/v1/(summary|feedback)/",
            r"/v2/profiles/(jobs|settings)/.*",
            r"/v2/entities/user/([^/]+)/profile/",
        )
    ],
]
