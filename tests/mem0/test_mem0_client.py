"""The hosted client: the same calls through mem0ai's own clients and through ours, against one server."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_server import KEY, Answer, Hosted
from mem0_kit import embed, mem0_module

from mem0_memos import AsyncMemoryClient, MemoryClient, errors, options
from memos_core import MemOS
from memos_core.errors import InvalidArgument, MemOSError

Script = Callable[[Any], list[Any]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hosted]:
    with MemOS.open(tmp_path / "vault", embedder=embed) as memos, Hosted(memos) as hosted:
        yield hosted


class InLoop:
    """An async client whose methods are waited for, all in one event loop, as its connections need."""

    def __init__(self, client: Any, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if name == "project":
            return InLoop(value, self._runner)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *args, **kwargs: self._runner.run(value(*args, **kwargs))


def make(whose: str, form: str, host: str, runner: asyncio.Runner, **kwargs: Any) -> Any:
    """A client by mem0ai or by us, sync or async."""
    if whose == "mem0":
        mem0_module()
        module = pytest.importorskip("mem0.client.main")
        made = (module.MemoryClient if form == "sync" else module.AsyncMemoryClient)(KEY, host)
    else:
        made = (MemoryClient if form == "sync" else AsyncMemoryClient)(KEY, host, **kwargs)
    return made if form == "sync" else InLoop(made, runner)


def close(client: Any, runner: asyncio.Runner) -> None:
    if isinstance(client, InLoop):
        runner.run(client.async_client.aclose())
    else:
        client.client.close()


def memories(client: Any) -> list[Any]:
    added = client.add("i love green tea", user_id="alice", infer=False, metadata={"topic": "drinks"})
    id_ = added["results"][0]["id"]
    turn = [{"role": "user", "content": "i love jazz"}, {"role": "assistant", "content": "noted"}]
    return [
        added,
        client.add(turn, filters={"user_id": "alice"}, infer=False),
        client.add({"role": "user", "content": "i live in oslo"}, user_id="bob", run_id="r1", infer=False),
        client.get(id_),
        client.update(id_, text="i love black tea"),
        client.update(id_, metadata={"topic": "tea"}, expiration_date=None),
        client.get(id_),
        client.history(id_),
        client.delete(id_),
        client.get_all(filters={"user_id": "alice"}),
    ]


def reading(client: Any) -> list[Any]:
    for word in ("tea", "jazz", "oslo"):
        client.add(f"i like {word}", user_id="alice", infer=False)
    client.add("i like tea", user_id="bob", infer=False)
    return [
        client.get_all(filters={"user_id": "alice"}),
        client.get_all(filters={"user_id": "alice"}, page=2, page_size=2),
        client.get_all(filters={"AND": [{"user_id": "alice"}]}, show_expired=None),
        client.search("  tea ", filters={"user_id": "alice"}),
        client.search("tea", filters={"user_id": "alice"}, top_k=1, threshold=0.5, rerank=False),
        client.search("tea", filters={"AND": [{"user_id": "bob"}]}),
    ]


def with_options(client: Any) -> list[Any]:
    theirs = type(getattr(client, "_client", client)).__module__.startswith("mem0.")
    o = pytest.importorskip("mem0.client.types") if theirs else options
    added = client.add("i like tea", options=o.AddMemoryOptions(infer=False, filters={"user_id": "alice"}))
    return [
        added,
        client.get_all(options=o.GetAllMemoryOptions(filters={"user_id": "alice"}, page=1)),
        client.search("tea", o.SearchMemoryOptions(filters={"user_id": "alice"}, top_k=3), threshold=0.2),
        client.update(added["results"][0]["id"], o.UpdateMemoryOptions(text="i like jazz")),
        client.update_project(options=o.ProjectUpdateOptions(custom_instructions="x"), multilingual=True),
    ]


def odd_ids(client: Any) -> list[Any]:
    """Ids that must be quoted, in paths and in queries."""
    name = "a/b?c=d&é%"
    client.add("i like tea", user_id=name, infer=False)
    return [
        client.users(),
        client.get_all(filters={"user_id": name}),
        client.delete_users(user_id=name),
        client.get_all(filters={"user_id": name}),
    ]


def many(client: Any) -> list[Any]:
    ids = [client.add(w, user_id="alice", infer=False)["results"][0]["id"] for w in ("one", "two", "three")]
    client.add("four", agent_id="helper", user_id="bob", infer=False)
    return [
        client.batch_update([{"memory_id": ids[0], "text": "first"}]),
        client.batch_delete([{"memory_id": ids[1]}]),
        client.get_all(filters={"user_id": "alice"}),
        client.create_memory_export(json.dumps({"type": "object"}), filters={"user_id": "alice"}),
        client.get_memory_export(memory_export_id="1"),
        client.delete_all(user_id="alice"),
        client.users(),
        client.reset(),
        client.users(),
    ]


def the_rest(client: Any) -> list[Any]:
    return [
        client.feedback("m1", "positive", "good"),
        client.feedback("m1"),
        client.get_summary(filters={"user_id": "alice"}),
        client.get_summary(),
        client.get_profile("a/b"),
        client.generate_profile("alice"),
        client.generate_profile("alice", idempotency_key="once"),
        client.sample_profiles(3),
        client.get_profile_job("job-1"),
        client.get_profile_job("/v2/profiles/jobs/job-2/"),
        client.get_profile_settings(),
        client.update_profile_settings(enabled=True, schema=None),
        client.update_profile_settings(custom_instructions="short"),
        client.get_webhooks("p1"),
        client.create_webhook("https://example.org", "hook", "p1", ["memory:add"]),
        client.update_webhook(7, name="other"),
        client.delete_webhook(7),
    ]


def projects(client: Any) -> list[Any]:
    p = client.project
    return [
        client.get_project(fields=["custom_instructions", "version"]),
        client.update_project(custom_categories=[{"food": "what they eat"}]),
        p.get(),
        p.get(fields=["name"]),
        p.create("new", "of tests"),
        p.update(custom_instructions="x", decay=False),
        p.get_members(),
        p.add_member("b@example.org"),
        p.update_member("b@example.org", role="OWNER"),
        p.remove_member("b@example.org"),
        p.delete(),
        [p.org_id, p.project_id, p.user_email],
    ]


SCRIPTS: list[Script] = [memories, reading, with_options, odd_ids, many, the_rest, projects]


def comparable(value: Any) -> Any:
    """Without what differs from run to run: ids by their order, times and fresh keys by a mark."""
    text = json.dumps(value)
    order: dict[str, str] = {}
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    text = re.sub(uuid, lambda m: order.setdefault(m[0], f"id-{len(order)}"), text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+\d\d:\d\d)?", "TIME", text)
    return json.loads(re.sub(r'"Idempotency-Key": "[0-9a-f]{32}"', '"Idempotency-Key": "FRESH"', text))


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
def test_requests_and_results_are_those_of_mem0(script: Script, form: str, tmp_path: Path) -> None:
    runs = {}
    for whose in ("mem0", "ours", "ours-strict"):
        with (
            asyncio.Runner() as runner,
            MemOS.open(tmp_path / whose, embedder=embed) as memos,
            Hosted(memos) as hosted,
        ):
            strict = {"strict": True} if whose == "ours-strict" else {}
            client = make(whose, form, hosted.host, runner, **strict)
            results = script(client)
            close(client, runner)
            assert hosted.seen
            runs[whose] = comparable([results, [request._asdict() for request in hosted.seen]])
    assert runs["ours"] == runs["mem0"]
    assert runs["ours-strict"] == runs["mem0"]


FAILURES = [
    *[Answer(status, {"detail": f"no: {status}", "more": 1}) for status in sorted(errors.BY_STATUS)],
    Answer(418, {"detail": "teapot"}),
    Answer(400, {"error": "without detail"}),
    Answer(400, b"plain words", {"Content-Type": "text/plain"}),
    Answer(500, b"{broken", {}),
    Answer(503, b"", {}),
    Answer(429, {"detail": "slow down"}, {"Retry-After": "7", "X-RateLimit-Limit": "10"}),
    Answer(429, {"detail": "slow down"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
]


@pytest.mark.parametrize("form", ["sync", "async"])
def test_failures_are_those_of_mem0(server: Hosted, form: str) -> None:
    with asyncio.Runner() as runner:
        clients = [make(whose, form, server.host, runner) for whose in ("mem0", "ours")]
        for failure in FAILURES:
            raised = []
            for client in clients:
                server.answers.append(failure)
                with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
                    client.get("m1")
                raised.append(caught.value)
            theirs, ours = raised
            assert type(ours).__name__ == type(theirs).__name__, failure
            assert vars(ours) == vars(theirs)
            assert (str(ours), repr(ours)) == (str(theirs), repr(theirs))
            assert isinstance(ours, MemOSError)
            assert isinstance(ours, errors.MemoryError)
        with pytest.raises(errors.MemoryNotFoundError, match="not found") as missing:
            clients[1].get("01890000-0000-7000-8000-000000000000")
        assert isinstance(missing.value, LookupError)
        for client in clients:
            close(client, runner)


NETWORK = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadError("cut"),
]


@pytest.mark.parametrize("failure", NETWORK, ids=lambda e: type(e).__name__)
async def test_network_failures_are_those_of_mem0(failure: httpx.RequestError) -> None:
    def transport(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/ping/":
            return httpx.Response(200, json={"org_id": "o", "project_id": "p"})
        raise failure

    mem0_module()
    module = pytest.importorskip("mem0.client.main")
    raised = []
    for kind in (module.MemoryClient, MemoryClient):
        client = kind(KEY, "http://h", client=httpx.Client(transport=httpx.MockTransport(transport)))
        with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
            client.get("m1")
        raised.append(caught.value)
    async with AsyncMemoryClient(
        KEY, "http://h", httpx.AsyncClient(transport=httpx.MockTransport(transport))
    ) as other:
        with pytest.raises(errors.NetworkError) as caught_too:
            await other.get("m1")
    assert repr(raised[1]) == repr(raised[0]) == repr(caught_too.value)
    assert raised[1].__cause__ is failure


WRONG: list[Callable[[Any], Any]] = [
    lambda c: c.add(7, user_id="alice"),
    lambda c: c.search(""),
    lambda c: c.search("  "),
    lambda c: c.search(None),
    lambda c: c.search("tea", user_id="alice"),
    lambda c: c.search("tea", agent_id=None),
    lambda c: c.get_all(user_id="alice"),
    lambda c: c.update("m1"),
    lambda c: c.update("m1", text=None),
    lambda c: c.feedback("m1", "fine"),
    lambda c: c.update_project(),
    lambda c: c.project.update(),
    lambda c: c.project.add_member("a@example.org", "BOSS"),
    lambda c: c.project.update_member("a@example.org", "BOSS"),
    lambda c: c.delete_users(),
]


@pytest.mark.parametrize("form", ["sync", "async"])
def test_what_mem0_refuses_is_refused(server: Hosted, form: str) -> None:
    with asyncio.Runner() as runner:
        for whose in ("mem0", "ours"):
            client = make(whose, form, server.host, runner, **({"strict": True} if whose == "ours" else {}))
            for wrong in WRONG:
                with pytest.raises(ValueError, match=r"\w") as caught:
                    wrong(client)
                assert whose == "mem0" or isinstance(caught.value, InvalidArgument)
            with pytest.raises(NotImplementedError):
                client.chat()
            close(client, runner)
    assert {request.path for request in server.seen} == {"/v1/entities/"}


def test_signatures_are_those_of_mem0() -> None:
    mem0_module()
    main, project = pytest.importorskip("mem0.client.main"), pytest.importorskip("mem0.client.project")
    from mem0_memos.project import AsyncProject, Project

    def shape(method: Any) -> list[Any]:
        marks = (None, True, False, "READER")
        return [
            (p.name, p.kind, p.default if p.default in marks else "…")
            for p in list(inspect.signature(method).parameters.values())[1:]
        ]

    pairs = [
        (main.MemoryClient, MemoryClient),
        (main.AsyncMemoryClient, AsyncMemoryClient),
        (project.Project, Project),
        (project.AsyncProject, AsyncProject),
    ]
    for theirs, ours in pairs:
        names = [n for n, _ in inspect.getmembers(theirs, inspect.isfunction) if not n.startswith("_")]
        assert len(names) > 7
        for name in names:
            mine = getattr(ours, name)
            assert shape(mine) == shape(getattr(theirs, name)), name
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(getattr(theirs, name))
            assert mine.__doc__
            assert mine.__name__ == name
    assert shape(MemoryClient.__init__)[:3] == shape(main.MemoryClient.__init__)


@pytest.mark.parametrize("kind", [MemoryClient, AsyncMemoryClient])
def test_nothing_is_sent_when_a_client_is_made(
    server: Hosted, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(KEY, server.host)
    assert (server.pings, server.seen) == (0, [])
    kind(KEY, "http://127.0.0.1:9")
    monkeypatch.delenv("MEM0_API_KEY", raising=False)
    with pytest.raises(ValueError, match="API Key not provided"):
        kind()
    monkeypatch.setenv("MEM0_API_KEY", KEY)
    assert kind().host == "https://api.mem0.ai"


def test_a_key_is_in_no_text(server: Hosted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "m0-very-secret"
    client = MemoryClient(secret, server.host)
    with pytest.raises(errors.AuthenticationError) as refused:
        client.users()
    with pytest.raises(errors.AuthenticationError):
        client.ping()
    said = [repr(client), str(client), repr(client.client.headers), repr(refused.value), caplog.text]
    for key in (f"{secret}\n", f"a {secret} b\r", f"{secret}é", 7):
        with pytest.raises(InvalidArgument) as wrong:
            MemoryClient(key)  # type: ignore[arg-type]
        said.append(repr(wrong.value))
    assert not any(secret in text for text in said)


@pytest.mark.parametrize("host", ["localhost:8000", "ftp://h", "http://", "http://user:pw@h", 7])
def test_a_host_that_cannot_be_used_is_refused(host: Any) -> None:
    with pytest.raises(InvalidArgument, match="host must be"):
        MemoryClient(KEY, host)


NARROW: list[Callable[[MemoryClient], Any]] = [
    lambda c: c.delete("."),
    lambda c: c.delete(".."),
    lambda c: c.delete(""),
    lambda c: c.delete(None),  # type: ignore[arg-type]
    lambda c: c.history(" "),
    lambda c: c.get_profile_job(".."),
    lambda c: c.delete_users(user_id=""),
    lambda c: c.delete_users(run_id="."),
    lambda c: c.delete_all(),
    lambda c: c.delete_all(user_id=""),
    lambda c: c.delete_all(user_id=None),
    lambda c: c.delete_all(filters={"user_id": None}),
    lambda c: c.delete_all(filters={"topic": "tea"}),
    lambda c: c.delete_all(filters={"user_id": "bob"}, user_id="alice"),
    lambda c: c.search("tea", user_id="alice", filters={"user_id": "bob"}),
]


@pytest.mark.parametrize("call", NARROW)
def test_no_argument_widens_a_call(server: Hosted, call: Callable[[MemoryClient], Any]) -> None:
    """mem0's own sends `delete(".")` to the route of all memories, and takes an empty id for "all"."""
    with MemoryClient(KEY, server.host) as client:
        client.add("i like tea", user_id="alice", infer=False)
        del server.seen[:]
        with pytest.raises(InvalidArgument):
            call(client)
        assert server.seen == []


def test_delete_all_takes_ids_in_filters(server: Hosted) -> None:
    with MemoryClient(KEY, server.host) as client:
        for user in ("alice", "bob"):
            client.add("i like tea", user_id=user, infer=False)
        client.delete_all(options.DeleteAllMemoryOptions(filters={"user_id": "alice"}))
        assert server.seen[-1].query == [("user_id", "alice")]
        assert client.users()["results"] == [{"type": "user", "name": "bob"}]


def test_call_forms_before_2(server: Hosted) -> None:
    with MemoryClient(KEY, server.host, org_id="o", project_id="p") as client:
        said = [{"role": "user", "content": "i like tea"}]
        added = client.add(said, user_id="alice", infer=False, output_format="v1.1", version="v2")
        client.add("i like coffee and tea", user_id="alice", infer=False)
        found = client.search("tea", user_id="alice", limit=1, version="v2", output_format="v1.1")
        assert [m["memory"] for m in found["results"]] == ["i like tea"]
        assert server.seen[-1].body == {
            "query": "tea",
            "filters": {"user_id": "alice"},
            "top_k": 1,
            "org_id": "o",
            "project_id": "p",
        }
        both = client.search("tea", user_id="alice", run_id=None, filters={"AND": [{"user_id": "alice"}]})
        assert len(both["results"]) == 2
        assert len(client.get_all(user_id="alice", limit=1)["results"]) == 1
        id_ = added["results"][0]["id"]
        client.update(id_, "i like jazz")
        assert client.get(id_)["memory"] == "i like jazz"
        assert server.seen[-1].query == [("org_id", "o"), ("project_id", "p")]
        client.update_project(custom_categories=[{"food": "what they eat"}])
        assert server.seen[-1].path == "/api/v1/orgs/organizations/o/projects/p/"
        assert server.pings == 0
    with pytest.raises(InvalidArgument, match="both org_id and project_id"):
        MemoryClient(KEY, server.host, org_id="o")


def test_a_callers_http_client_keeps_its_own_name(server: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM0_SOURCE", "environment")
    monkeypatch.setenv("MEM0_APPLICATION", "app")
    own = httpx.Client(headers={"X-Mem0-Source": "plugin", "X-Mem0-Client": "a/1, b/2, c/3, d/4"})
    with MemoryClient(KEY, server.host, own) as client:
        client.users()
        assert own.headers["X-Mem0-Client"] == "a/1, b/2, c/3, mem0-memos"
    assert own.is_closed
    sent = server.seen[-1].headers
    assert (sent["X-Mem0-Source"], sent["X-Application"]) == ("plugin", "app")


def test_an_answer_that_is_not_of_the_api_is_an_error(server: Hosted) -> None:
    with MemoryClient(KEY, server.host) as client:
        server.answers.append(Answer(200, b"<html>", {"Content-Type": "text/html"}))
        with pytest.raises(errors.MemoryError, match="not JSON"):
            client.users()
        server.answers.append(Answer(302, b"", {"Location": "http://127.0.0.1:9/"}))
        with pytest.raises(errors.MemoryError) as moved:
            client.users()
        assert moved.value.error_code == "HTTP_302"
        server.answers.append(Answer(200, b""))
        assert client.delete("m1") == {}
    no_project = httpx.MockTransport(lambda _: httpx.Response(200, json={"user_email": "a@example.org"}))
    with MemoryClient(KEY, "http://h", httpx.Client(transport=no_project)) as client:
        assert client.ping() == {"user_email": "a@example.org"}
        with pytest.raises(InvalidArgument, match="org_id and project_id must be set"):
            client.project.get()
