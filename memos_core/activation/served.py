"""A model behind a server that keeps KV itself: vLLM, LMCache, SGLang, llama.cpp, Ollama. Needs no torch."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from memos_core.activation.keys import Source, salt_for
from memos_core.activation.request import Chunk, FinishReason, GenerateOptions, Usage
from memos_core.activation.stepping import in_steps
from memos_core.activation.toolcalls import ANY, ToolCall, read_call
from memos_core.cube.scope import Scope
from memos_core.errors import InvalidArgument, ModelError, missing_extra

log = logging.getLogger("memos_core.activation")

Messages = Sequence[Mapping[str, Any]]

_DEFAULTS = GenerateOptions()
_BYTES_A_TOKEN = 3  # of text; most languages and tokenizers have more
_EACH_MESSAGE = 8  # tokens that a template puts around one
_FALLBACK_LENGTH = 4096


class About(NamedTuple):
    """What a server says of a model."""

    name: str
    owner: str
    context_length: int | None


class Preloaded(NamedTuple):
    """What a warm-up took: tokens of its prompt, and how many of them the server had already."""

    tokens: int
    cached: int


class ServedEngine:
    """Generates through an OpenAI-compatible server, and has the server compute the KV of what prompts will begin
    with: a request with just that beginning, of which one token is generated. Safe to use from many threads.

    The server holds the KV, within its own budget. Where it takes a `cache_salt` (vLLM, also with LMCache), no user
    can hit, or time, another's KV. What was computed from an erased memory cannot be taken out of a server; with a
    salt it can no longer be hit by this process, because its users get new salts.

    Args:
        base_url: with the version, as for the `openai` package: "http://localhost:8000/v1".
        model: its name there; None takes the first that the server lists.
        api_key: where the server wants one. It is sent to this URL only and shown nowhere.
        context_length: tokens that the model reads; None asks the server, and takes 4,096 if it does not say.
        cache_salt: whether to send it; None sends it to vLLM.
        timeout: seconds to wait for the server, at each step.

    Raises:
        InvalidArgument: no http URL. MissingExtra: `openai` is not installed.
    """

    reuse_refused: str | None = None

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        context_length: int | None = None,
        cache_salt: bool | None = None,
        timeout: float = 120.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InvalidArgument(f"base_url={base_url!r} must begin with http:// or https://")
        try:
            import openai
        except ImportError:
            raise missing_extra("openai", "server-models") from None
        self.base_url, self._model = base_url, model
        self._length, self._wants_salt = context_length, cache_salt
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout, max_retries=1
        )
        self._epochs: Counter[str] = Counter()
        self._counts: Counter[str] = Counter(requests=0, hits=0, misses=0, tokens_saved=0, cancelled=0)
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: str) -> ServedEngine:
        """From "http://localhost:8000/v1", or "http://localhost:8000/v1#model" where it serves several."""
        base_url, _, model = url.partition("#")
        return cls(base_url, model or None)

    def __repr__(self) -> str:
        return f"ServedEngine({self.base_url!r}, {self._model!r})"

    @cached_property
    def about(self) -> About:
        """What the server says of the model; asked once.

        Raises:
            ModelError: it cannot be reached, or has no such model.
        """
        with self._errors():
            listed = list(self._client.models.list())
        found = next((m for m in listed if self._model in (None, m.id)), None)
        if found is None:
            names = ", ".join(m.id for m in listed) or "none"
            raise ModelError(f"{self.base_url} has no model {self._model!r}; it has: {names}")
        more = found.model_extra or {}
        length = more.get("max_model_len") or (more.get("meta") or {}).get("n_ctx")
        about = About(found.id, found.owned_by or "", int(length) if length else None)
        if not self._salts(about):
            log.warning(
                "%s is not told whose a prompt is (cache_salt): its users share what it keeps, and could find out by "
                "timing what another one's prompts begin with",
                self.base_url,
            )
        return about

    @property
    def name(self) -> str:
        """The model's name, as it was given, or the URL."""
        return self._model or self.base_url

    @property
    def context_length(self) -> int:
        """Tokens that the model reads."""
        return self._length or self.about.context_length or _FALLBACK_LENGTH

    def count_tokens(self, text: str) -> int:
        """An estimate, mostly too high: the server alone has the tokenizer."""
        return len(text.encode()) // _BYTES_A_TOKEN + 1

    def prompt_length(self, messages: Messages) -> int:
        """The same of a whole prompt."""
        return sum(self.count_tokens(str(m.get("content"))) + _EACH_MESSAGE for m in messages)

    # Preloading

    def preload(self, messages: Messages, scope: Scope) -> Preloaded:
        """Have the server compute the KV of what begins with these messages.

        Raises:
            ModelError: the server does not answer as it should.
        """
        whole = [*messages, {"role": "user", "content": "."}]  # some templates want a user's turn
        with self._errors():
            reply = self._client.chat.completions.create(
                model=self.about.name, messages=_openai(whole), max_tokens=1, extra_body=self._extra(scope)
            )
        cached = _cached(reply.usage)
        return Preloaded(reply.usage.prompt_tokens if reply.usage else self.prompt_length(whole), cached)

    def erase(
        self, *, keys: Collection[str] = (), cube_ids: Collection[str] = (), owners: Collection[Scope] = ()
    ) -> None:
        """Give these owners new salts, so that what the server computed from their memories is not hit again."""
        with self._lock:
            self._epochs.update({salt_for(scope) for scope in owners})

    def _salts(self, about: About) -> bool:
        return about.owner == "vllm" if self._wants_salt is None else self._wants_salt

    def _extra(self, scope: Scope, *, reuse: bool = True) -> dict[str, Any]:
        """What is not in OpenAI's protocol."""
        if not self._salts(self.about):
            return {}
        salt = salt_for(scope)
        epoch = self._epochs[salt]
        if epoch:
            salt = blake2b(f"{salt} {epoch}".encode(), digest_size=16).hexdigest()
        return {"cache_salt": salt if reuse else secrets.token_hex(16)}

    # Generation

    def generate(
        self,
        prompt: str | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[str, Usage]:
        """`stream`, collected: the whole text and what it cost."""
        chunks = list(self.stream(prompt, scope, options, derived_from=derived_from, cancelled=cancelled))
        assert chunks[-1].usage is not None
        return "".join(chunk.text for chunk in chunks), chunks[-1].usage

    def stream(
        self,
        prompt: str | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        cancelled: Callable[[], bool] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | None = None,
    ) -> Generator[Chunk, None, None]:
        """Generate a reply piece by piece. Closing the generator ends the request.

        Args:
            prompt: messages, or a text to go on with. An assistant's message may have "tool_calls" in OpenAI's form.
            scope: whose request it is; decides the salt.
            options: how to generate; `keep` is the server's business, and `reuse=False` takes a salt of its own.
            derived_from: not used: the server does not tell what its KV was computed from.
            cancelled: asked before every chunk; true ends the reply with finish_reason "cancelled".
            tools: what the model may call, as JSON Schemas in OpenAI's form; the server reads its calls, which come
                with the last chunk. tool_choice: None leaves it to the model, "any" makes it call one, a name this one.

        Returns:
            A generator of chunks without token ids; the last carries the usage, with the cached tokens that the
            server reports.

        Raises:
            ModelError: the server does not answer as it should.
        """
        started = time.perf_counter()
        cancelled = cancelled or (lambda: False)
        if not prompt:
            raise InvalidArgument("the prompt is empty; pass messages or a text")
        how: dict[str, Any] = {"extra_body": self._extra(scope, reuse=options.reuse)}
        if tools:
            how["tools"] = [dict(tool) for tool in tools]
        if tools and tool_choice is not None:
            named = {"type": "function", "function": {"name": tool_choice}}
            how["tool_choice"] = "required" if tool_choice == ANY else named
        with self._errors():
            events = self._open(prompt, options, how)
        return self._read(events, cancelled, started)

    async def astream(
        self,
        prompt: str | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio. Cancelling or closing it ends the request."""
        more: dict[str, Any] = {"tools": tools, "tool_choice": tool_choice}
        steps = in_steps(lambda stop: self.stream(prompt, scope, options, cancelled=stop, **more))
        async with aclosing(steps):
            async for chunk in steps:
                yield chunk

    def _open(self, prompt: str | Messages, options: GenerateOptions, how: dict[str, Any]) -> Any:
        how |= {
            "model": self.about.name,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
        }
        if options.stop:
            how["stop"] = list(options.stop)
        if options.seed is not None:
            how["seed"] = options.seed
        if isinstance(prompt, str):
            return self._client.completions.create(prompt=prompt, **how)
        return self._client.chat.completions.create(messages=_openai(prompt), **how)

    def _read(
        self, events: Any, cancelled: Callable[[], bool], started: float
    ) -> Generator[Chunk, None, None]:
        finish: FinishReason | None = None
        first_at, usage, calls = None, None, _Calls()
        try:
            with events, self._errors():
                for event in events:
                    usage = event.usage or usage
                    if cancelled():
                        finish = "cancelled"
                        break
                    for choice in event.choices[:1]:
                        text = (choice.text if hasattr(choice, "text") else choice.delta.content) or ""
                        if calls.push(choice):
                            first_at = first_at or time.perf_counter()
                        if text:
                            first_at = first_at or time.perf_counter()
                            yield Chunk(text, ())
                        if choice.finish_reason:
                            finish = "length" if choice.finish_reason == "length" else "stop"
        except GeneratorExit:
            self._count(requests=1, cancelled=1)
            raise
        if finish is None:
            raise ModelError(f"{self.base_url} ended the reply in the middle")
        ended, cached = time.perf_counter(), _cached(usage)
        self._count(
            requests=1,
            hits=cached > 0,
            misses=not cached,
            tokens_saved=cached,
            cancelled=finish == "cancelled",
        )
        yield Chunk(
            "",
            (),
            Usage(
                prompt_tokens=usage.prompt_tokens if usage else 0,
                cached_tokens=cached,
                completion_tokens=usage.completion_tokens if usage else 0,
                ttft_s=(first_at or ended) - started,
                total_s=ended - started,
                tier="server" if cached else "none",
                finish_reason=finish,
            ),
            calls.whole(),
        )

    def _count(self, **events: int) -> None:
        with self._lock:
            self._counts.update(events)

    def stats(self) -> dict[str, int]:
        """Counters: requests, hits, misses, tokens_saved (as the server reports them), cancelled."""
        with self._lock:
            return dict(self._counts)

    def _errors(self) -> _Said:
        return _Said(self.base_url, self._openai.OpenAIError)


class _Said:
    """A context that turns the client's errors into one of ours."""

    def __init__(self, url: str, kind: type[Exception]) -> None:
        self._url, self._kind = url, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: object) -> None:
        if isinstance(err, self._kind) or (err is not None and type(err).__module__.startswith("httpx")):
            why = str(err).strip() or type(err).__name__
            raise ModelError(
                f"{self._url} does not answer as it should: {why}; is the server there?"
            ) from err


class _Calls:
    """Tool calls that a server streams in pieces."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[str]] = {}  # by their index: the name, the arguments

    def push(self, choice: Any) -> bool:
        """Take the pieces of an event; whether there are any."""
        found = getattr(getattr(choice, "delta", None), "tool_calls", None) or []
        for piece in found:
            call = self._pieces.setdefault(piece.index, ["", ""])
            if piece.function is not None:
                call[0] += piece.function.name or ""
                call[1] += piece.function.arguments or ""
        return bool(found)

    def whole(self) -> tuple[ToolCall, ...]:
        """What was called, in order."""
        return tuple(read_call(name, arguments) for _, (name, arguments) in sorted(self._pieces.items()))


def _openai(messages: Messages) -> Any:
    """Messages as the protocol has them: the arguments of tool calls are JSON texts."""
    found = []
    for message in messages:
        one = dict(message)
        if calls := one.get("tool_calls"):
            one["tool_calls"] = [
                {
                    **call,
                    "function": {**call["function"], "arguments": _as_text(call["function"]["arguments"])},
                }
                for call in calls
            ]
        found.append(one)
    return found


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _cached(usage: Any) -> int:
    """Cached tokens of a prompt, where the server tells (vLLM: --enable-prompt-tokens-details)."""
    details = getattr(usage, "prompt_tokens_details", None)
    return int(getattr(details, "cached_tokens", None) or 0)
