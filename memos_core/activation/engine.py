"""The door to KV memory: prefill what will be needed, attach what is there, generate, keep the result."""

from __future__ import annotations

import inspect
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from memos_core.activation.decode import Decoding, Reply, Sampler, end_tokens
from memos_core.activation.fingerprint import model_fingerprint, tokenizer_fingerprint
from memos_core.activation.forms import Quantization, form_of
from memos_core.activation.keys import Identity, Source, Tier, merge_sources, salt_for
from memos_core.activation.kv import KVPrefix, growing_cache, reuse_refusal
from memos_core.activation.kvfile import Writing
from memos_core.activation.memory import Held
from memos_core.activation.models import LoadedModel, load_model
from memos_core.activation.pace import Pace
from memos_core.activation.prompts import Messages, Prompts, one_prompt
from memos_core.activation.request import Chunk, GenerateOptions, Usage
from memos_core.activation.stepping import in_steps
from memos_core.activation.store import KVStore
from memos_core.activation.turns import Turns
from memos_core.cube.scope import Scope
from memos_core.errors import InvalidArgument, KVError, ModelError
from memos_core.vault.sealing import seal_for

CHUNK = 512
"""Tokens per forward pass of background prefill; between two passes every request goes first."""

STEP = 1024
"""Tokens of a request's prompt per forward pass; between two passes other requests get their turn. Each pass copies the
KV before it, so that few long ones are quicker."""

_TELLING = 256  # the fewest tokens of a prompt that tell how long one takes

_DEFAULTS = GenerateOptions()


class ActivationEngine(Prompts):
    """A model with memory for what it has read: prompts that begin alike are computed once.

    Safe to use from many threads. Forward passes run one at a time; streams that are open together take
    turns token by token, and background prefill waits, between chunks, for every request. The model's weights
    must not change while an engine holds it: after attaching an adapter, make another engine.

    Args:
        loaded: model and tokenizer; the model is put into evaluation mode.
        kv_dir: folder for KV files, shared by all models and processes; None for memory only.
        memory_budget: bytes of KV in memory, on the model's device.
        host_budget: bytes of KV in the host's memory, for what no longer fits an accelerator's; not used on a CPU.
        disk_budget: bytes of files in `kv_dir`.
        quantization: "int8" or "fp8" stores KV in 8 bits, a quarter of float32's; replies can then differ from those
            without reuse. None stores it exactly.
        encryption: a key of 16, 24 or 32 bytes for the files; True takes that of `LANGGRAPH_AES_KEY`.

    Raises:
        InvalidArgument: a budget, `quantization` or `encryption` cannot be used. MissingExtra: for `encryption`.
        ModelError: no decoder-only model, or its weights are not in memory.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        kv_dir: Path | None = None,
        memory_budget: int = 1 << 30,
        host_budget: int = 2 << 30,
        disk_budget: int = 4 << 30,
        quantization: Quantization | None = None,
        encryption: bytes | bool = False,
    ) -> None:
        super().__init__(loaded.name, loaded.tokenizer)
        self.model = loaded.model.eval()
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
        self._end = end_tokens(self.model, self.tokenizer)
        how = Writing(form_of(quantization), seal_for(encryption))
        dtype = f"{self.model.dtype}".removeprefix("torch.") + (how.form.name and f" {how.form.name}")
        identity = Identity(self.model_fingerprint, self.tokenizer_fingerprint, dtype, how.secret)
        self.store = KVStore(
            identity,
            memory_budget=memory_budget,
            host_budget=host_budget if self.model.device.type != "cpu" else 0,
            disk_dir=kv_dir,
            disk_budget=disk_budget,
            device=self.model.device,
            how=how,
        )
        self._turns = Turns()
        self._pace = Pace()
        self.store.token_bytes = 0 if self.reuse_refused else self._token_bytes()
        self._counts: Counter[str] = Counter(requests=0, hits=0, misses=0, tokens_saved=0, cancelled=0)
        self._counting = threading.Lock()

    @classmethod
    def open(
        cls,
        name: str = "smollm2-135m",
        *,
        kv_dir: Path | None = None,
        memory_budget: int = 1 << 30,
        host_budget: int = 2 << 30,
        disk_budget: int = 4 << 30,
        quantization: Quantization | None = None,
        encryption: bytes | bool = False,
        dtype: str = "float32",
        device: str | None = "auto",
        cache_dir: Path | None = None,
    ) -> ActivationEngine:
        """Load a model by name (`load_model`) and give it memory."""
        loaded = load_model(name, dtype=dtype, device=device, cache_dir=cache_dir)
        return cls(
            loaded,
            kv_dir=kv_dir,
            memory_budget=memory_budget,
            host_budget=host_budget,
            disk_budget=disk_budget,
            quantization=quantization,
            encryption=encryption,
        )

    # Memory

    def prefill(
        self,
        tokens: Sequence[int],
        scope: Scope,
        *,
        derived_from: Iterable[Source] = (),
        save: bool = False,
        hold: bool = True,
        pin: bool = False,
        public: bool = False,
        should_yield: Callable[[], None] | None = None,
    ) -> KVPrefix:
        """Compute the KV of a prompt's beginning ahead of the request, starting from what is stored.

        Args:
            tokens: token ids, e.g. `stable_prefix`.
            scope: whose they are.
            derived_from: the cubes (id, version) whose text is among them; erasing one drops this KV.
            save: write it to disk.
            hold: keep it in memory.
            pin: keep it there and never evict it.
            public: for every user of the scope's tenant, e.g. a long text that all prompts begin with. Anybody who
                sends these tokens can tell by the time it takes that they were sent before.
            should_yield: called between chunks of 512 tokens, and every second while requests keep the model busy;
                may wait, or raise to give up.

        Raises:
            KVError: the model's KV cannot be reused, or `save` or `pin` cannot be done.
            InvalidArgument: no tokens, too many, or unknown ones.
        """
        if self.reuse_refused:
            raise KVError(self.reuse_refused)
        ids, salt, since = self._checked(tokens), salt_for(scope, public=public), self.store.clock
        hit = self.store.find(salt, ids)
        sources = merge_sources(derived_from, hit.derived_from if hit else ())
        known = hit.n_tokens if hit else 0
        cache = (
            self._empty_cache() if hit is None else hit.cache() if known == len(ids) else hit.growing_cache()
        )
        for start in range(known, len(ids), CHUNK):
            self._forward(cache, ids[start : start + CHUNK], background=True, give_up=should_yield)
            if should_yield is not None and start + CHUNK < len(ids):
                should_yield()
        prefix = self._prefix(cache, salt, ids, sources)
        if (hold or pin) and not self.store.put(prefix, pin=pin, since=since) and pin:
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
        hit = self._find(scope, ids)
        return hit.tier if hit and hit.n_tokens == len(ids) else None

    def _find(self, scope: Scope, ids: Sequence[int], token_s: float | None = None) -> Held | None:
        """The longest beginning that the user, or else everybody of the tenant, has of these tokens."""
        if self.reuse_refused:
            return None
        own = self.store.find(salt_for(scope), ids, token_s=token_s)
        public = self.store.find(salt_for(scope, public=True), ids, token_s=token_s)
        return max((hit for hit in (own, public) if hit), key=lambda hit: hit.n_tokens, default=None)

    def forget(self, keys: Iterable[str]) -> int:
        """Drop prefixes from memory and disk by `KVPrefix.key`; returns how many there were."""
        return self.store.drop(keys=set(keys))

    def erase(
        self, *, keys: Collection[str] = (), cube_ids: Collection[str] = (), owners: Collection[Scope] = ()
    ) -> None:
        """Drop what was computed from these cubes, these prefixes, and the owners' conversations, which may hold the
        words too and name no cube. See `KVStore.drop`."""
        self.store.drop(keys=keys, cube_ids=cube_ids, salts={salt_for(scope) for scope in owners})

    def attach(self, tokens: Sequence[int] | Mapping[str, Any], scope: Scope) -> tuple[DynamicCache, int]:
        """A cache for `model.generate(**inputs, past_key_values=cache)` that starts with what is stored.

        Args:
            tokens: of one prompt: ids, or what a tokenizer returns (`input_ids`, [1, n_tokens]).
            scope: whose they are.

        Returns:
            The cache, yours to use once, and how many leading tokens it holds: at most all but the last,
            which the model must be given to compute.
        """
        hit = self._find(scope, self._checked(one_prompt(tokens))[:-1])
        return (hit.cache(), hit.n_tokens) if hit else (DynamicCache(config=self.model.config), 0)

    # Generation

    def generate(
        self,
        prompt: Sequence[int] | Messages | str,
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
        prompt: Sequence[int] | Messages | str,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> Generator[Chunk, None, None]:
        """Generate a reply piece by piece. Closing the generator ends the request.

        Greedy output in float32 is the same with and without reuse, and that of `model.generate`.

        Args:
            prompt: messages, token ids, or a text to go on with.
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
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt)
        elif prompt and isinstance(prompt[0], Mapping):
            prompt = self.encode(prompt)  # type: ignore[arg-type]
        ids = self._checked(prompt)  # type: ignore[arg-type]
        cancelled = cancelled or (lambda: False)
        return self._run(ids, scope, options, tuple(derived_from), cancelled, started)

    async def astream(
        self,
        prompt: Sequence[int] | Messages | str,
        scope: Scope,
        options: GenerateOptions = _DEFAULTS,
        *,
        derived_from: Iterable[Source] = (),
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio: each step runs in a thread. Cancelling or closing it ends the request at the
        next forward pass."""
        steps = in_steps(
            lambda stop: self.stream(prompt, scope, options, derived_from=derived_from, cancelled=stop)
        )
        async with aclosing(steps):
            async for chunk in steps:
                yield chunk

    def _run(
        self,
        ids: list[int],
        scope: Scope,
        options: GenerateOptions,
        derived_from: tuple[Source, ...],
        cancelled: Callable[[], bool],
        started: float,
    ) -> Generator[Chunk, None, None]:
        """Look up, decode, keep."""
        since = self.store.clock
        looks = options.reuse and not self.reuse_refused
        hit = self._find(scope, ids[:-1], self._pace.token_s) if looks else None
        cached = hit.n_tokens if hit else 0
        self._count(requests=1, hits=bool(hit), misses=looks and not hit, tokens_saved=cached)
        cache = hit.growing_cache() if hit else self._empty_cache()
        begun = time.perf_counter()
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
                sources = merge_sources(derived_from, hit.derived_from if hit else ())
                prefix = self._prefix(cache, salt_for(scope), work.computed, sources, own=False)
                self.store.put(prefix, since=since)
        assert work.finish is not None
        ended = time.perf_counter()
        if work.first_at is not None and len(ids) - cached >= _TELLING:
            self._pace.took(len(ids) - cached, work.first_at - begun)
        yield work.last(
            Usage(
                prompt_tokens=len(ids),
                cached_tokens=cached,
                completion_tokens=len(work.tokens) - len(ids),
                ttft_s=(work.first_at or ended) - started,
                total_s=ended - started,
                tier=hit.tier if hit else "none",
                finish_reason=work.finish,
            )
        )

    def _prefix(
        self,
        cache: DynamicCache,
        salt: str,
        tokens: Sequence[int],
        sources: Iterable[Source],
        *,
        own: bool = True,
    ) -> KVPrefix:
        """What a cache holds, as an entry for the store."""
        layers: list[Any] = cache.layers  # DynamicLayer each: other models' reuse is refused
        pairs = ((layer.keys, layer.values) for layer in layers)
        return KVPrefix.of(self.store.identity, salt, tokens, pairs, sources, own=own)

    def _token_bytes(self) -> int:
        """Bytes of KV that are stored for a token: measured, since not every configuration tells it."""
        cache = self._empty_cache()
        self._forward(cache, [0], background=False)
        return self.store.stored_bytes(self._prefix(cache, "", [0], ()))

    def _empty_cache(self) -> DynamicCache:
        """The cache that this model's layers need."""
        cache = DynamicCache(config=self.model.config)
        return cache if self.reuse_refused else growing_cache((), len(cache.layers))

    def _forward(
        self,
        cache: DynamicCache,
        ids: list[int],
        *,
        background: bool,
        give_up: Callable[[], None] | None = None,
    ) -> Tensor:
        """Run the model on the tokens that follow in the cache; returns the last logits, [vocabulary]."""
        with self._turns.take(background=background, give_up=give_up), torch.inference_mode():
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
