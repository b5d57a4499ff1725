"""From logits to a token, from tokens to text that can be shown at once, and the loop that does both."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from memos_core.activation.request import Chunk, FinishReason, GenerateOptions, Usage


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a reply, of the generation config and of the tokenizer."""
    ids = model.generation_config.eos_token_id
    several = ids if isinstance(ids, list) else [ids]
    return frozenset(i for i in [*several, tokenizer.eos_token_id] if i is not None)


class Sampler:
    """Chooses the next token as `model.generate` would: greedy, or by temperature and top-p.

    Of the model's generation config only the repetition penalty is applied, since some published models
    depend on it.

    Args:
        options: temperature, top_p and seed.
        generation_config: the model's.
        device: where the logits are.
    """

    def __init__(self, options: GenerateOptions, generation_config: Any, device: torch.device) -> None:
        self._processors = LogitsProcessorList()
        penalty = getattr(generation_config, "repetition_penalty", None)
        if penalty not in (None, 1.0):
            self._processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        self._random: torch.Generator | None = None
        if options.temperature > 0:
            self._random = torch.Generator(device)
            if options.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(options.seed)
            self._processors.append(TemperatureLogitsWarper(options.temperature))
            if options.top_p < 1:
                self._processors.append(TopPLogitsWarper(options.top_p))

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: [vocabulary], for the position after `tokens`.
            tokens: prompt and reply so far.
        """
        scores = logits.float()[None]
        if self._processors:
            ids: Any = torch.tensor([tokens], device=scores.device)
            scores = self._processors(ids, scores)
        if self._random is None:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))


class Reply:
    """A reply's text as its tokens arrive: whole characters only, and nothing of a stop string.

    The window over the last tokens is vLLM's incremental detokenisation: text is taken from the difference of
    two decodings that start at the same earlier token, so that spaces between tokens come out right.

    Args:
        tokenizer: a transformers tokenizer.
        stop: strings that end the reply.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._start = self._shown = 0
        self._held = ""
        self.stopped = False
        """Whether a stop string was found."""

    def push(self, token: int) -> str:
        """Add a token; returns the text that can be shown now, often none."""
        self._ids.append(token)
        return self._release(self._new_text(final=False), final=False)

    def finish(self) -> str:
        """The text that was held back, once no token follows."""
        return "" if self.stopped else self._release(self._new_text(final=True), final=True)

    def _new_text(self, *, final: bool) -> str:
        """Text since the last call; none while the last character may still be incomplete."""
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _release(self, text: str, *, final: bool) -> str:
        """What of the held text and this can be shown: up to a stop string, or what may become one."""
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Decoding:
    """One request on its way: the same step for a part of the prompt and for each new token.

    Args:
        prompt: token ids.
        cached: how many of them the cache holds already; less than all.
        forward: computes the tokens that follow in the cache and returns the last logits, [vocabulary].
        sample: chooses a token.
        reply: collects the text.
        end: token ids that end a reply.
        limit: the most tokens that prompt and reply may have together.
        step: the most tokens for one forward pass.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        cached: int,
        forward: Callable[[list[int]], Tensor],
        sample: Sampler,
        reply: Reply,
        *,
        end: Collection[int],
        limit: int,
        step: int,
    ) -> None:
        self.tokens = list(prompt)
        self.done = cached
        self.finish: FinishReason | None = None
        self.first_at: float | None = None
        self._forward, self._sample, self._reply = forward, sample, reply
        self._end, self._limit, self._step = end, limit, step
        self._sent = len(prompt)
        self._text = ""

    @property
    def computed(self) -> list[int]:
        """The tokens whose KV the cache holds: all but the last one generated."""
        return self.tokens[: self.done]

    def chunks(self, cancelled: Callable[[], bool]) -> Generator[Chunk, None, None]:
        """Run to the end, yielding text as it becomes known; the rest is left for `last`."""
        while self.finish is None:
            if cancelled():
                self.finish = "cancelled"
                return
            part = self.tokens[self.done : self.done + self._step]
            logits = self._forward(part)
            self.done += len(part)
            if self.done == len(self.tokens):
                self._accept(self._sample(logits, self.tokens))
                if self._text and self.finish is None:
                    yield self._take()

    def _accept(self, token: int) -> None:
        """Add a generated token and see whether it is the last."""
        self.tokens.append(token)
        self.first_at = self.first_at or time.perf_counter()
        if token in self._end:
            self.finish = "stop"
            return
        self._text += self._reply.push(token)
        if self._reply.stopped:
            self.finish = "stop"
        elif len(self.tokens) >= self._limit:
            self.finish = "length"

    def _take(self) -> Chunk:
        """Everything not yet handed out."""
        chunk = Chunk(self._text, tuple(self.tokens[self._sent :]))
        self._text, self._sent = "", len(self.tokens)
        return chunk

    def last(self, usage: Usage) -> Chunk:
        """The last chunk. A stop string that only the end completes turns the finish reason into "stop"."""
        self._text += self._reply.finish()
        if self._reply.stopped:
            usage = replace(usage, finish_reason="stop")
        return replace(self._take(), usage=usage)
