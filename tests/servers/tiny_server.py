"""An OpenAI-compatible server over a tiny random model: our own engine keeps its KV, apart by `cache_salt` as vLLM's
does, and it counts cached tokens and reads tool calls as vLLM does. What is not needed here (logprobs, batches) is
missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from memos_core.activation import ActivationEngine, Chunk, GenerateOptions, ToolCall, ToolReader
from memos_core.cube import Scope


class TinyServer(ThreadingHTTPServer):
    """Listens on a free port of this machine.

    Args:
        owner: what it calls itself; only "vllm" is sent a salt.
    """

    daemon_threads = True

    def __init__(self, engine: ActivationEngine, *, owner: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine, self.owner = engine, owner
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.breaks_after: int | None = None  # events of a stream, after which the connection is cut

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(server: TinyServer) -> Iterator[TinyServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: TinyServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        model = {
            "id": "tiny",
            "object": "model",
            "created": 0,
            "owned_by": self.server.owner,
            "max_model_len": 2048,
        }
        self._json(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        chat = self.path.endswith("/chat/completions")
        if body["model"] != "tiny":
            return self._json(404, {"error": {"message": f"no model {body['model']}"}})
        salt = body.get("cache_salt", "everybody")
        options = GenerateOptions(
            max_new_tokens=body["max_tokens"],
            temperature=body.get("temperature", 0.0),
            stop=tuple(body.get("stop", ())),
            seed=body.get("seed"),
        )
        engine, tools = self.server.engine, body.get("tools", [])
        prompt = body["messages"] if chat else body["prompt"]
        if tools:
            form = engine.tool_form()
            reader = ToolReader(form, begun := form.beginning(_choice(body), [_name(t) for t in tools]))
            prompt = engine.encode(_objects(prompt), tools=tools)
            prompt += engine.tokenizer.encode(begun, add_special_tokens=False)
            options = replace(options, reuse=False)
        events = []
        for chunk in engine.stream(prompt, Scope(user=salt), options):
            if tools:
                text, calls = reader.push(chunk.text, last=chunk.usage is not None)
                chunk = replace(chunk, text=text)
                events += [e for i, call in enumerate(calls) for e in self._call(i, call)]
            events.append(self._event(chunk, chat))
        if body.get("stream"):
            return self._stream(events)
        last, text = events[-1], "".join(_text(e) for e in events[:-1])
        message = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        self._json(200, last | {"choices": [{"index": 0, "finish_reason": "length", **message}]})

    def _event(self, chunk: Any, chat: bool) -> dict[str, Any]:
        kind = "chat.completion.chunk" if chat else "text_completion"
        event: dict[str, Any] = {"id": "1", "object": kind, "created": 0, "model": "tiny", "usage": None}
        finish = chunk.usage.finish_reason if chunk.usage else None
        piece = {"delta": {"content": chunk.text}} if chat else {"text": chunk.text}
        event["choices"] = [{"index": 0, "finish_reason": finish, **piece}]
        if chunk.usage:
            event["usage"] = {
                "prompt_tokens": chunk.usage.prompt_tokens,
                "completion_tokens": chunk.usage.completion_tokens,
                "total_tokens": chunk.usage.prompt_tokens + chunk.usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": chunk.usage.cached_tokens},
            }
        return event

    def _call(self, index: int, call: ToolCall) -> Iterator[dict[str, Any]]:
        """A call in two pieces, as servers send them."""
        half = len(call.arguments) // 2
        first = {"name": call.name, "arguments": call.arguments[:half]}
        for function in (first, {"arguments": call.arguments[half:]}):
            event = self._event(Chunk("", ()), chat=True)
            piece = {"index": index, "id": f"call{index}", "type": "function", "function": function}
            event["choices"][0]["delta"] = {"content": None, "tool_calls": [piece]}
            yield event

    def _stream(self, events: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events[: self.server.breaks_after]:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if self.server.breaks_after is None:
            self.wfile.write(b"data: [DONE]\n\n")

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _choice(body: dict[str, Any]) -> str | None:
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return {"auto": None, "required": "any"}[choice]


def _name(tool: dict[str, Any]) -> str:
    return str(tool["function"]["name"])


def _objects(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The arguments of earlier calls as chat templates take them; the protocol has them as texts."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            assert isinstance(call["function"]["arguments"], str)
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def _text(event: dict[str, Any]) -> str:
    choice = event["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["delta"]["content"]
    return text
