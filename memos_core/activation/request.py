"""What goes into a generation and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memos_core.activation.keys import Tier
from memos_core.activation.toolcalls import ToolCall
from memos_core.errors import InvalidArgument

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerateOptions:
    """How to generate.

    Args:
        max_new_tokens: the most tokens to generate; the model's context length limits it further.
        temperature: 0 takes the likeliest token each time (greedy); higher is more random.
        top_p: with a temperature, sample among the likeliest tokens that together have this probability.
        stop: strings that end the reply; they are not part of it.
        seed: makes sampling repeatable on one device; None takes a new one each time.
        reuse: start from stored KV where there is some.
        keep: keep this request's KV in memory, so that the next turn starts from it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reuse: bool = True
    keep: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidArgument(f"max_new_tokens={self.max_new_tokens}; pass 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InvalidArgument(f"temperature={self.temperature}; pass 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise InvalidArgument(f"top_p={self.top_p}; pass a number above 0, at most 1")
        if isinstance(self.stop, str) or not all(self.stop):
            raise InvalidArgument("stop must be a tuple of non-empty strings")


@dataclass(frozen=True)
class Usage:
    """What a request cost.

    Args:
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of them came from stored KV.
        completion_tokens: tokens generated, the end-of-reply token included.
        ttft_s: seconds from the call to the first token being known; the whole time when there was none.
        total_s: seconds from the call to the last token.
        tier: where the stored KV came from.
        finish_reason: "stop" (end token or stop string), "length", or "cancelled".
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_s: float
    total_s: float
    tier: Tier
    finish_reason: FinishReason


@dataclass(frozen=True)
class Chunk:
    """A piece of a reply.

    Args:
        text: the new text: whole characters, never a part of a stop string.
        token_ids: the tokens generated since the last chunk, end token included. All chunks together have
            every token; a chunk's text can lag behind its tokens.
        usage: on the last chunk only.
        calls: tool calls that are complete with this chunk, where the reply is read for them (`ChatTurn`).
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage | None = None
    calls: tuple[ToolCall, ...] = ()
