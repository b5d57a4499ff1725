"""The door to KV memory: prefill what will be needed, attach what is there, generate, keep the result."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import DynamicCache

from memos_core.activation.decode import Decoding, Reply, Sampler, end_tokens
from memos_core.activation.fingerprint import model_fingerprint, tokenizer_fingerprint
from memos_core.activation.keys import Identity, Source, Tier, merge_sources, salt_for, shared_length
from memos_core.activation.kv import KVPrefix, reuse_refusal
from memos_core.activation.models import LoadedModel, load_model
from memos_core.activation.request import Chunk, GenerateOptions, Usage
from memos_core.activation.store import KVStore
from memos_core.activation.toolcalls import ToolForm, tool_form
from memos_core.activation.turns import Turns
from memos_core.cube.scope import Scope
from memos_core.errors import InvalidArgument, KVError, ModelError

Messages = Sequence[Mapping[str, Any]]

CHUNK = 512
"""Tokens per forward pass of background prefill; between two passes every request goes first."""

STEP = 1024
"""Tokens of a request's prompt per forward pass; between two passes other requests get their turn. Each pass copies the
KV before it, so that few long ones are quicker."""

_DEFAULTS = GenerateOptions()
_FOLLOWERS = ("a", "7", "\n\n", " .")


class ActivationEngine:
    """A model with memory for what it has read: prompts that begin alike are computed once.

    Safe to use from many threads. Forward passes run one at a time; streams that are open together take
    turns token by token, and background prefill waits, between chunks, for every request. The model's weights
    must not change while an engine holds it: after attaching an adapter, make another engine.

    Args:
        loaded: model and tokenizer; the model is put into evaluation mode.
        kv_dir: folder for KV files, shared by all models and processes; None for memory only.
        memory_budget: bytes of KV in memory.
        disk_budget: bytes of files in `kv_dir`.

    Raises:
        ModelError: no decoder-only model, or its weights are not in memory.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        kv_dir: Path | None = None,
        memory_budget: int = 1 << 30,
        disk_budget: int = 4 << 30,
    ) -> None:
        self.name = loaded.name
        self.model = loaded.model.eval()
        self.tokenizer = loaded.tokenizer
        if self.model.config.is_encoder_decoder:
            raise ModelError(f"{loaded.name} is an encoder-decoder model; pass a decoder-only chat model")
        self.model_fingerprint = model_fingerprint(self.model)
        self.tokenizer_fingerprint = tokenizer_fingerprint(self.tokenizer)
        self.reuse_refused: str | None = reuse_refusal(self.model)
        config = self.model.config.get_text_config(decoder=True)
        longest = getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.context_length = int(longest)
        self._vocabulary = int(self.model.get_input_embeddings().num_embeddings)
        accepted = inspect.signature(self.model.forward).parameters
        self._last_logits = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        added = self.tokenizer.added_tokens_decoder.values()
        control = {*self.tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
        self._control = sorted(control, key=lambda token: (-len(token), token))
        self._end = end_tokens(self.model, self.tokenizer)
        identity = Identity(
            self.model_fingerprint, self.tokenizer_fingerprint, str(self.model.dtype).removeprefix("torch.")
        )
        self.store = KVStore(
            identity,
            memory_budget=memory_budget,
            disk_dir=kv_dir,
            disk_budget=disk_budget,
            device=self.model.device,
        )
        self._turns = Turns()
        self._counts: Counter[str] = Counter(requests=0, hits=0, misses=0, tokens_saved=0, cancelled=0)
        self._counting = threading.Lock()

    @classmethod
    def open(
        cls,
        name: str = "smollm2-135m",
        *,
        kv_dir: Path | None = None,
        memory_budget: int = 1 << 30,
        disk_budget: int = 4 << 30,
        dtype: str = "float32",
        device: str | None = "auto",
        cache_dir: Path | None = None,
    ) -> ActivationEngine:
        """Load a model by name (`load_model`) and give it memory."""
        loaded = load_model(name, dtype=dtype, device=device, cache_dir=cache_dir)
        return cls(loaded, kv_dir=kv_dir, memory_budget=memory_budget, disk_budget=disk_budget)

    # Tokens

    def encode(
        self, messages: Messages, *, add_generation_prompt: bool = True, tools: list[Any] | None = None
    ) -> list[int]:
        """The tokens of a conversation, by the tokenizer's chat template.

        Args:
            messages: dicts with "role" and "content".
            add_generation_prompt: end with the start of the assistant's turn.
            tools: passed to the template, as JSON Schemas in OpenAI's form.

        Raises:
            ModelError: the tokenizer has no chat template.
            InvalidArgument: the template refuses these messages.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.name} has no chat template; pass token ids, or use an instruct model")
        try:
            ids = self.tokenizer.apply_chat_template(
                [self._defused(m) for m in messages],
                tools=self._defused(tools),
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=False,
            )
        except (TemplateError, TypeError, KeyError) as err:
            raise InvalidArgument(f"messages do not fit the chat template of {self.name}: {err}") from err
        return [int(i) for i in ids]

    def _defused(self, said: Any) -> Any:
        """A message or tool, with a space in what the tokenizer would read as a control token: text that people,
        memories or tools bring along must not end a turn or begin a system message."""
        if isinstance(said, str):
            for token in self._control:
                said = said.replace(token, f"{token[0]} {token[1:]}")
            return said
        if isinstance(said, Mapping):
            return {self._defused(key): self._defused(value) for key, value in said.items()}
        return [self._defused(one) for one in said] if isinstance(said, list | tuple) else said

    def tool_form(self) -> ToolForm:
        """How this model writes tool calls.

        Raises:
            ModelError: its chat template has no place for tools, or has calls written in a form that is not known.
        """
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use", template.get("default"))
        return tool_form(template or "", self.name)

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens, without special ones."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def stable_prefix(self, messages: Messages, *, tools: list[Any] | None = None) -> list[int]:
        """The tokens that every request starting with these messages begins with, whatever follows them.

        Found by rendering with several different next messages and keeping what the results share, which
        holds for any template and any tokenizer that merges across the seam.

        Raises:
            ModelError, InvalidArgument: as `encode`.
        """
        role = "assistant" if messages and messages[-1].get("role") == "user" else "user"
        renders = [self.encode([*messages, {"role": role, "content": f}], tools=tools) for f in _FOLLOWERS]
        return renders[0][: min(shared_length(renders[0], other) for other in renders[1:])]

    # Memory

    def prefill(
        self,
        tokens: Sequence[int],
        scope: Scope,
        *,
        derived_from: Iterable[Source] = (),
        save: bool = False,
        pin: bool = False,
        should_yield: Callable[[], None] | None = None,
    ) -> KVPrefix:
        """Compute the KV of a prompt's beginning ahead of the request, starting from what is stored.

        Args:
            tokens: token ids, e.g. `stable_prefix`.
            scope: whose they are.
            derived_from: the cubes (id, version) whose text is among them; erasing one drops this KV.
            save: also write it to disk.
            pin: never evict it from memory.
            should_yield: called between chunks of 512 tokens, and every second while requests keep the model busy;
                may wait, or raise to give up.

        Raises:
            KVError: the model's KV cannot be reused, or `save` or `pin` cannot be done.
            InvalidArgument: no tokens, too many, or unknown ones.
        """
        if self.reuse_refused:
            raise KVError(self.reuse_refused)
        ids, salt, since = self._checked(tokens), salt_for(scope), self.store.clock
        hit = self.store.find(salt, ids)
        sources = merge_sources(derived_from, hit[0].derived_from if hit else ())
        cache = hit[0].cache(hit[1]) if hit else self._empty_cache()
        for start in range(hit[1] if hit else 0, len(ids), CHUNK):
            self._forward(cache, ids[start : start + CHUNK], background=True, give_up=should_yield)
            if should_yield is not None and start + CHUNK < len(ids):
                should_yield()
        prefix = self._prefix(cache, salt, ids, sources)
        if not self.store.put(prefix, pin=pin, since=since) and pin:
            raise KVError(
                f"{prefix.nbytes} bytes cannot be pinned within memory_budget={self.store.memory_budget}, "
                "or a memory they came from was dropped meanwhile"
            )
        if save:
            self.store.save(prefix, since=since)
        return prefix

    def warm(self, tokens: Sequence[int], scope: Scope) -> Tier | None:
        """Bring a stored prefix into memory, without computing anything.

        Returns:
            Where it was: "memory" or "disk". None when not all of the tokens are stored (what there was of
            them on disk is in memory now, for `prefill` to start from).
        """
        ids = self._checked(tokens)
        hit = None if self.reuse_refused else self.store.find(salt_for(scope), ids)
        return hit[2] if hit and hit[1] == len(ids) else None

    def forget(self, keys: Iterable[str]) -> int:
        """Drop prefixes from memory and disk by `KVPrefix.key`; returns how many there were."""
        return self.store.drop(keys=set(keys))

    def attach(self, tokens: Sequence[int], scope: Scope) -> tuple[DynamicCache, int]:
        """A cache for `model.generate(input_ids, past_key_values=cache)` that starts with what is stored.

        Returns:
            The cache, yours to use once, and how many leading tokens it holds: at most all but the last,
            which the model must be given to compute.
        """
        ids = self._checked(tokens)
        hit = None if self.reuse_refused else self.store.find(salt_for(scope), ids[:-1])
        return (hit[0].cache(hit[1]), hit[1]) if hit else (self._empty_cache(), 0)

    # Generation

    def generate(
        self,
        prompt: Sequence[int] | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[str, Usage]:
        """`stream`, collected: the whole text and what it cost."""
        chunks = list(self.stream(prompt, scope, options, derived_from=derived_from, cancelled=cancelled))
        usage = chunks[-1].usage
        assert usage is not None
        return "".join(chunk.text for chunk in chunks), usage

    def stream(
        self,
        prompt: Sequence[int] | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> Generator[Chunk, None, None]:
        """Generate a reply piece by piece. Closing the generator ends the request.

        Greedy output in float32 is the same with and without reuse, and that of `model.generate`.

        Args:
            prompt: messages, or token ids.
            scope: whose request it is: only KV of this tenant and user is used, and it is kept for them.
            options: how to generate.
            derived_from: the cubes (id, version) whose text is in the prompt. Recorded with the KV that is
                kept, beside what the KV it started from was derived from.
            cancelled: asked before every forward pass; true ends the reply with finish_reason "cancelled".

        Returns:
            A generator of chunks; the last carries the usage.

        Raises:
            InvalidArgument: an empty prompt, unknown tokens, or more than `context_length`.
            ModelError: messages, and no chat template.
        """
        started = time.perf_counter()
        if prompt and isinstance(prompt[0], Mapping):
            prompt = self.encode(prompt)  # type: ignore[arg-type]
        ids = self._checked(prompt)  # type: ignore[arg-type]
        cancelled = cancelled or (lambda: False)
        return self._run(ids, salt_for(scope), options, tuple(derived_from), cancelled, started)

    async def astream(
        self,
        prompt: Sequence[int] | Messages,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio: each step runs in a thread. Cancelling or closing it ends the request at the
        next forward pass."""
        stop = threading.Event()
        chunks = await asyncio.to_thread(
            self.stream, prompt, scope, options, derived_from=derived_from, cancelled=stop.is_set
        )
        loop = asyncio.get_running_loop()
        step: asyncio.Future[Chunk | None] | None = None
        try:
            while True:
                step = loop.run_in_executor(None, next, chunks, None)
                chunk = await asyncio.shield(step)
                if chunk is None:
                    return
                yield chunk
        finally:
            stop.set()
            if step is None or step.done():
                chunks.close()
            else:  # the thread ends at its next forward pass
                step.add_done_callback(lambda _: chunks.close())

    def _run(
        self,
        ids: list[int],
        salt: str,
        options: GenerateOptions,
        derived_from: tuple[Source, ...],
        cancelled: Callable[[], bool],
        started: float,
    ) -> Generator[Chunk, None, None]:
        """Look up, decode, keep."""
        since = self.store.clock
        looks = options.reuse and not self.reuse_refused
        hit = self.store.find(salt, ids[:-1]) if looks else None
        stored, cached, tier = hit or (None, 0, "none")
        self._count(requests=1, hits=bool(hit), misses=looks and not hit, tokens_saved=cached)
        cache = stored.cache(cached) if stored else self._empty_cache()
        work = Decoding(
            ids,
            cached,
            lambda part: self._forward(cache, part, background=False),
            Sampler(options, self.model.generation_config, self.model.device),
            Reply(self.tokenizer, options.stop),
            end=self._end,
            limit=min(len(ids) + options.max_new_tokens, self.context_length + 1),  # the last is not computed
            step=len(ids) if self.reuse_refused else STEP,  # other caches may not take a prompt in parts
        )
        try:
            yield from work.chunks(cancelled)
        except GeneratorExit:
            work.finish = "cancelled"
            raise
        finally:
            self._count(cancelled=work.finish == "cancelled")
            if work.finish and work.done > cached and options.keep and not self.reuse_refused:
                sources = merge_sources(derived_from, stored.derived_from if stored else ())
                self.store.put(self._prefix(cache, salt, work.computed, sources), since=since)
        assert work.finish is not None
        ended = time.perf_counter()
        yield work.last(
            Usage(
                prompt_tokens=len(ids),
                cached_tokens=cached,
                completion_tokens=len(work.tokens) - len(ids),
                ttft_s=(work.first_at or ended) - started,
                total_s=ended - started,
                tier=tier,
                finish_reason=work.finish,
            )
        )

    def _prefix(
        self, cache: DynamicCache, salt: str, tokens: Sequence[int], sources: Iterable[Source]
    ) -> KVPrefix:
        """What a cache holds, as an entry for the store."""
        layers: list[Any] = cache.layers  # DynamicLayer each: other models' reuse is refused
        pairs = ((layer.keys, layer.values) for layer in layers)
        return KVPrefix.of(self.store.identity, salt, tokens, pairs, sources)

    def _empty_cache(self) -> DynamicCache:
        """The cache that this model's layers need."""
        return DynamicCache(config=self.model.config)

    def _forward(
        self,
        cache: DynamicCache,
        ids: list[int],
        *,
        background: bool,
        give_up: Callable[[], None] | None = None,
    ) -> Tensor:
        """Run the model on the tokens that follow in the cache; returns the last logits, [vocabulary]."""
        with self._turns.take(background=background, give_up=give_up), torch.no_grad():
            inputs = torch.tensor([ids], device=self.model.device)
            output = self.model(input_ids=inputs, past_key_values=cache, use_cache=True, **self._last_logits)
        logits: Tensor = output.logits[0, -1]
        return logits

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        """The tokens as a list that the model can take."""
        ids = [int(token) for token in tokens]
        if not ids:
            raise InvalidArgument("the prompt has no tokens; pass at least one")
        if len(ids) > self.context_length:
            raise InvalidArgument(
                f"the prompt has {len(ids)} tokens, but {self.name} reads at most {self.context_length}: shorten it, "
                "or trim its oldest messages"
            )
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise InvalidArgument(f"token ids must be below {self._vocabulary}; use this model's tokenizer")
        return ids

    def _count(self, **events: int) -> None:
        with self._counting:
            self._counts.update(events)

    def stats(self) -> dict[str, int]:
        """Counters: requests, hits, misses, tokens_saved, cancelled, and those of `KVStore.stats`."""
        with self._counting:
            counts = dict(self._counts)
        return {**counts, **self.store.stats}
