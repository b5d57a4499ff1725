"""Streams: whole characters, no part of a stop string, exact tokens, and a clean end when nobody listens."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.activation import ActivationEngine, Chunk, GenerateOptions, LoadedModel
from memos_core.activation.decode import Reply
from memos_core.cube.scope import Scope

from .tiny import make_tokenizer, token_ids

TOKENIZER = make_tokenizer()
PROMPT = list(range(10, 60))
LONG = GenerateOptions(max_new_tokens=40)


def shown(reply: Reply, ids: list[int]) -> list[str]:
    """What a reader sees, piece by piece, until a stop string or the end."""
    pieces = []
    for token in ids:
        pieces.append(reply.push(token))
        if reply.stopped:
            break
    return [*pieces, reply.finish()]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_pieces_join_to_the_text_and_no_character_is_broken(text: str) -> None:
    pieces = shown(Reply(TOKENIZER, ()), TOKENIZER.encode(text))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(3, 385), max_size=40))
def test_any_tokens_join_to_what_the_tokenizer_decodes(ids: list[int]) -> None:
    assert "".join(shown(Reply(TOKENIZER, ()), ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(
    st.text("abcö ", max_size=30), st.lists(st.text("abcö", min_size=1, max_size=3), min_size=1, max_size=3)
)
def test_a_stop_string_ends_the_text_before_it(text: str, stops: list[str]) -> None:
    reply = Reply(TOKENIZER, tuple(stops))
    seen = "".join(shown(reply, TOKENIZER.encode(text)))
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert reply.stopped is bool(found)
    assert seen in ([text[:at] for at in found] or [text])  # of several, the one completed first
    assert not any(stop in seen for stop in stops)


def test_a_stop_string_ends_the_request(engine: ActivationEngine, scope: Scope) -> None:
    text, usage = engine.generate(PROMPT, scope, GenerateOptions(max_new_tokens=40, reuse=False))
    assert usage.finish_reason == "length"
    stop = text[5:8]
    chunks = list(engine.stream(PROMPT, scope, GenerateOptions(max_new_tokens=40, stop=(stop,))))
    assert "".join(c.text for c in chunks) == text[: text.find(stop)]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(token_ids(chunks)) < 40


def test_the_end_token_ends_the_request_and_is_among_the_tokens(
    engine: ActivationEngine, scope: Scope
) -> None:
    reply = token_ids(engine.stream(PROMPT, scope, LONG))
    engine.model.generation_config.eos_token_id = [2, reply[7]]
    try:
        other = ActivationEngine(LoadedModel(engine.model, engine.tokenizer, "ends"))
        chunks = list(other.stream(PROMPT, scope, LONG))
    finally:
        engine.model.generation_config.eos_token_id = 2
    assert token_ids(chunks) == reply[: reply.index(reply[7]) + 1]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.finish_reason == "stop"


def test_usage_comes_last_and_adds_up(engine: ActivationEngine, scope: Scope) -> None:
    chunks = list(engine.stream(PROMPT, scope, LONG))
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (50, len(token_ids(chunks)))
    assert 0 < usage.ttft_s <= usage.total_s


def test_closing_a_stream_frees_the_model_and_keeps_what_was_computed(
    engine: ActivationEngine, scope: Scope
) -> None:
    before = threading.active_count()
    stream = engine.stream(PROMPT, scope, LONG)
    next(stream)
    stream.close()
    _, usage = engine.generate(PROMPT, scope, LONG)
    assert usage.cached_tokens == len(PROMPT) - 1
    assert engine.stats()["cancelled"] == 1
    assert threading.active_count() == before


def test_an_abandoned_stream_blocks_nobody(engine: ActivationEngine, scope: Scope) -> None:
    stream = engine.stream(PROMPT, scope, LONG)
    next(stream)
    text, _ = engine.generate(PROMPT, scope, GenerateOptions(max_new_tokens=40, reuse=False))
    del stream
    gc.collect()
    assert engine.generate(PROMPT, scope, LONG)[0] == text


def test_two_streams_of_one_thread_take_turns(engine: ActivationEngine, scope: Scope) -> None:
    alone = [
        token_ids(engine.stream(ids, scope, GenerateOptions(reuse=False))) for ids in (PROMPT, PROMPT[::-1])
    ]
    streams = [engine.stream(ids, scope, GenerateOptions()) for ids in (PROMPT, PROMPT[::-1])]
    together: list[list[Chunk]] = [[], []]
    open_streams = {0, 1}
    while open_streams:
        for i in list(open_streams):
            chunk = next(streams[i], None)
            if chunk is None:
                open_streams.discard(i)
            else:
                together[i].append(chunk)
    assert [token_ids(chunks) for chunks in together] == alone


def test_many_threads_get_the_right_replies(
    engine: ActivationEngine, scope: Scope, reference: Callable[..., list[int]]
) -> None:
    prompts = [PROMPT[:20] + [100 + i] * (i + 1) for i in range(8)]
    replies: dict[int, list[int]] = {}

    def run(i: int) -> None:
        replies[i] = token_ids(engine.stream(prompts[i], scope, GenerateOptions(max_new_tokens=8)))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {i: reference(prompts[i], 8) for i in range(8)}


def test_the_caller_can_cancel(engine: ActivationEngine, scope: Scope) -> None:
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(len(asked) >= 4)
        return asked[-1]

    chunks = list(engine.stream(list(range(3, 383)) * 3, scope, LONG, cancelled=cancelled))
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.finish_reason == "cancelled"
    assert usage.completion_tokens == 3  # two passes for the prompt give the first token, two more the others
    immediately = list(engine.stream(PROMPT, scope, LONG, cancelled=lambda: True))
    assert [c.text for c in immediately] == [""]


def test_a_failing_forward_pass_frees_the_model_and_keeps_nothing(
    engine: ActivationEngine, scope: Scope
) -> None:
    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise RuntimeError("out of memory")

    hook = engine.model.model.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.generate(PROMPT, scope)
    finally:
        hook.remove()
    assert engine.stats()["entries"] == 0
    assert engine.generate(PROMPT, scope, LONG)[1].cached_tokens == 0


async def test_async_streams_are_the_same(engine: ActivationEngine, scope: Scope) -> None:
    expected = token_ids(engine.stream(PROMPT, scope, LONG))
    runs = [[c async for c in engine.astream(PROMPT, scope, LONG)] for _ in range(2)]
    assert [token_ids(chunks) for chunks in runs] == [expected, expected]
    assert runs[0][-1].usage is not None


async def test_closing_an_async_stream_ends_the_request(engine: ActivationEngine, scope: Scope) -> None:
    stream = engine.astream(PROMPT, scope, LONG)
    await anext(stream)
    await stream.aclose()
    assert engine.stats()["cancelled"] == 1


async def test_cancelling_a_task_ends_the_request(engine: ActivationEngine, scope: Scope) -> None:
    """Cancelled in the middle of a forward pass, which is held until the cancellation has arrived."""
    entered, release, ended = threading.Event(), threading.Event(), threading.Event()

    def hold(module: torch.nn.Module, inputs: object) -> None:
        entered.set()
        release.wait(30)

    async def read() -> None:
        async for _ in engine.astream(PROMPT, scope, LONG):
            pass

    hook = engine.model.model.layers[0].register_forward_pre_hook(hold)
    try:
        task = asyncio.create_task(read())
        await asyncio.to_thread(entered.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        hook.remove()
        release.set()
    await asyncio.to_thread(engine.generate, PROMPT, scope, LONG)  # the model is free
    while engine.stats()["cancelled"] == 0:
        await asyncio.to_thread(ended.wait, 0.001)
    assert engine.stats()["cancelled"] == 1


async def test_errors_reach_the_async_caller(engine: ActivationEngine, scope: Scope) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        await anext(engine.astream([], scope))
