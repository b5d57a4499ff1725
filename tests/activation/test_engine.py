"""The engine through its public door: the same output with and without memory, for the right user only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from memos_core.activation import ActivationEngine, GenerateOptions, LoadedModel, salt_for, turns
from memos_core.activation.turns import Turns
from memos_core.cube.scope import Scope
from memos_core.errors import InvalidArgument, KVError, ModelError

from .tiny import kv_digest, make_model, make_tokenizer, token_ids

Reference = Callable[..., list[int]]
TOKENS = st.lists(st.integers(3, 385), min_size=1, max_size=120)


def prompt(n: int, start: int = 0) -> list[int]:
    """n tokens of no meaning, never a special one."""
    return [3 + (start * 31 + i * i * 7 + i) % 380 for i in range(n)]


# Same output


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(TOKENS, min_size=1, max_size=4), cut=st.integers(0, 120), tail=TOKENS)
def test_greedy_is_the_same_with_and_without_reuse(
    loaded: LoadedModel, reference: Reference, history: list[list[int]], cut: int, tail: list[int]
) -> None:
    """Any prompts before, then one that shares a random beginning with one of them (an edit)."""
    engine, scope = ActivationEngine(loaded), Scope(tenant="acme", user="alice")
    options = GenerateOptions(max_new_tokens=6)
    for earlier in history:
        engine.generate(earlier, scope, options)
    ids = history[0][:cut] + tail
    chunks = list(engine.stream(ids, scope, options))
    usage = chunks[-1].usage
    assert usage is not None
    expected = reference(ids, 6)
    assert token_ids(chunks) == expected
    assert usage.cached_tokens >= min(cut, len(history[0]), len(ids) - 1)
    assert token_ids(engine.stream(ids, scope, GenerateOptions(max_new_tokens=6, reuse=False))) == expected


def test_a_long_prompt_in_chunks_is_the_same(
    engine: ActivationEngine, scope: Scope, reference: Reference
) -> None:
    ids = prompt(1900)
    assert token_ids(engine.stream(ids, scope, GenerateOptions(max_new_tokens=12))) == reference(ids, 12)


def test_stored_tensors_are_bit_identical_after_generations(engine: ActivationEngine, scope: Scope) -> None:
    kv = engine.prefill(prompt(200), scope, pin=True)
    before = kv_digest(kv)
    for n in (0, 50, 199):
        _, usage = engine.generate(prompt(200)[: n + 1] + prompt(40, n), scope)
        assert usage.cached_tokens >= n
    cache, n = engine.attach([*prompt(200), 7], scope)
    engine.model.generate(
        torch.tensor([[*prompt(200), 7]]), past_key_values=cache, do_sample=False, max_new_tokens=5
    )
    assert n == 200
    assert kv_digest(kv) == before


def test_attach_serves_model_generate(engine: ActivationEngine, scope: Scope, reference: Reference) -> None:
    engine.prefill(prompt(64), scope)
    ids = prompt(64) + prompt(9, 5)
    cache, n = engine.attach(ids, scope)
    out = engine.model.generate(
        torch.tensor([ids]), past_key_values=cache, do_sample=False, max_new_tokens=8, eos_token_id=2
    )
    assert n == 64
    assert out[0, len(ids) :].tolist() == reference(ids, 8)


def test_attach_takes_what_a_tokenizer_returns(
    engine: ActivationEngine, scope: Scope, reference: Reference
) -> None:
    engine.prefill(prompt(60), scope)
    ids = torch.tensor([prompt(90)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    cache, n = engine.attach(inputs, scope)
    assert n == 60
    made = engine.model.generate(**inputs, past_key_values=cache, max_new_tokens=6, do_sample=False)
    assert made[0, 90:].tolist() == reference(prompt(90), 6)
    for bad in (torch.cat([ids, ids]), ids[0]):
        with pytest.raises(InvalidArgument, match="one prompt"):
            engine.attach({"input_ids": bad}, scope)
    with pytest.raises(InvalidArgument, match="padding"):
        engine.attach({"input_ids": ids, "attention_mask": torch.zeros_like(ids)}, scope)


def test_what_is_public_is_shared_within_a_tenant_and_nothing_else_is(engine: ActivationEngine) -> None:
    alice, bob = Scope(tenant="acme", user="alice"), Scope(tenant="acme", user="bob")
    engine.prefill(prompt(60), alice, public=True, derived_from=[("handbook", 1)])
    for who, expected in ((alice, 60), (bob, 60), (Scope(tenant="other", user="bob"), 0)):
        assert engine.attach(prompt(90), who)[1] == expected
    engine.generate(prompt(90), bob, GenerateOptions(max_new_tokens=2))
    assert engine.attach([*prompt(90), 7, 7], alice)[1] == 60  # what bob went on with is bob's
    assert engine.store.drop(cube_ids=["handbook"]) >= 2  # bob's prompt was computed from it
    assert engine.attach(prompt(90), alice)[1] == engine.attach(prompt(90), bob)[1] == 0


def test_the_next_turn_starts_where_the_last_one_ended(engine: ActivationEngine, scope: Scope) -> None:
    ids = prompt(40)
    reply = token_ids(engine.stream(ids, scope, GenerateOptions(max_new_tokens=10)))
    _, usage = engine.generate(ids + reply + prompt(5, 9), scope, GenerateOptions(max_new_tokens=2))
    assert usage.cached_tokens == len(ids) + len(reply) - 1  # the last token's KV was not computed
    assert usage.tier == "memory"


def test_keep_and_reuse_can_be_turned_off(engine: ActivationEngine, scope: Scope) -> None:
    engine.generate(prompt(40), scope, GenerateOptions(max_new_tokens=2, keep=False))
    assert engine.stats()["entries"] == 0
    engine.generate(prompt(40), scope, GenerateOptions(max_new_tokens=2))
    _, usage = engine.generate(prompt(40), scope, GenerateOptions(max_new_tokens=2, reuse=False))
    assert (usage.cached_tokens, usage.tier) == (0, "none")


def test_repetition_penalty_of_the_generation_config_is_honoured(
    tokenizer: PreTrainedTokenizerFast, scope: Scope, reference: Reference
) -> None:
    model = make_model(len(tokenizer), seed=3)
    model.generation_config.repetition_penalty = 1.8
    engine = ActivationEngine(LoadedModel(model, tokenizer, "penalty"))
    assert token_ids(engine.stream(prompt(30), scope, GenerateOptions(max_new_tokens=20))) == (
        reference(prompt(30), 20, model)
    )


def test_sampling_repeats_with_a_seed(engine: ActivationEngine, scope: Scope) -> None:
    def run(seed: int) -> list[int]:
        options = GenerateOptions(max_new_tokens=12, temperature=1.5, top_p=0.9, seed=seed)
        return token_ids(engine.stream(prompt(20), scope, options))

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(5)}) > 1


# Whose it is


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (Scope(tenant="acme", user="bob"), False),
        (Scope(tenant="other", user="alice"), False),
        (Scope(tenant="acme"), False),
        (Scope(tenant="acme", user="alice", agent="a", session="s"), True),
    ],
)
def test_only_the_same_user_of_the_same_tenant_shares(
    engine: ActivationEngine, scope: Scope, other: Scope, shared: bool
) -> None:
    engine.prefill(prompt(100), scope, save=True)
    options = GenerateOptions(max_new_tokens=1, keep=False)
    assert engine.generate([*prompt(100), 9], other, options)[1].cached_tokens == (100 if shared else 0)
    assert engine.warm(prompt(100), other) == ("memory" if shared else None)
    assert (salt_for(other) == salt_for(scope)) is shared


def test_salts_do_not_show_names() -> None:
    salt = salt_for(Scope(tenant="acme", user="alice"))
    assert "acme" not in salt
    assert "alice" not in salt
    assert salt_for(Scope(tenant="a", user="b")) != salt_for(Scope(tenant="ab"))


# Prefill, warm, save


def test_prefill_then_warm_from_disk_in_another_engine(
    engine: ActivationEngine, loaded: LoadedModel, scope: Scope, kv_dir: Path, reference: Reference
) -> None:
    kv = engine.prefill(prompt(100), scope, save=True)
    assert (kv.n_tokens, kv.tokens) == (100, tuple(prompt(100)))
    assert engine.warm(prompt(100), scope) == "memory"

    second = ActivationEngine(loaded, kv_dir=kv_dir)
    assert second.warm(prompt(120), scope) is None  # only a part is stored; it is in memory now
    assert second.warm(prompt(100), scope) == "memory"

    third = ActivationEngine(loaded, kv_dir=kv_dir)
    ids = prompt(100) + prompt(4, 3)
    chunks = list(third.stream(ids, scope, GenerateOptions(max_new_tokens=5)))
    assert token_ids(chunks) == reference(ids, 5)
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.tier, chunks[-1].usage.cached_tokens) == ("disk", 100)


def test_prefill_extends_what_is_there(engine: ActivationEngine, scope: Scope) -> None:
    computed: list[int] = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        engine.prefill(prompt(100), scope)
        engine.prefill(prompt(130), scope)
        engine.prefill(prompt(130), scope)
        engine.prefill(prompt(60), scope)
    finally:
        hook.remove()
    assert computed == [100, 30]


def test_prefill_gives_requests_their_turn_between_chunks(engine: ActivationEngine, scope: Scope) -> None:
    replies: list[str] = []

    def request() -> None:
        thread = threading.Thread(
            target=lambda: replies.append(
                engine.generate(prompt(5), scope, GenerateOptions(max_new_tokens=1))[1].finish_reason
            )
        )
        thread.start()
        thread.join()

    engine.prefill(prompt(1500), scope, should_yield=request)
    assert replies == ["length", "length"]  # 512 + 512 + 476: between the chunks


def test_requests_go_before_background_work() -> None:
    turns, order = Turns(), []

    def work(name: str, background: bool) -> None:
        with turns.take(background=background):
            order.append(name)

    with turns.take(background=False):
        threads = [threading.Thread(target=work, args=("background", True))]
        threads.append(threading.Thread(target=work, args=("request", False)))
        for thread in threads:
            thread.start()
        while turns.waiting == 0:
            pass
    for thread in threads:
        thread.join()
    assert order == ["request", "background"]


def test_background_work_that_waits_for_a_busy_model_can_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a scheduler can stop however many streams are open."""

    class GaveUp(Exception):
        pass

    def give_up() -> None:
        raise GaveUp

    monkeypatch.setattr(turns, "_ASK", 0.0)
    busy = Turns()
    with busy.take(background=False), pytest.raises(GaveUp), busy.take(background=True, give_up=give_up):
        pass
    with busy.take(background=False):
        pass  # nothing is held


def test_background_work_comes_between_replies_not_between_their_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "QUIET", 1000.0)
    busy = Turns()
    with busy.take(background=True):
        pass  # nobody asked yet
    with busy.take(background=False):
        pass
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    with busy.take(background=True):
        pass  # it was patient for long enough


def test_giving_up_a_prefill_keeps_nothing(engine: ActivationEngine, scope: Scope) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        engine.prefill(prompt(600), scope, should_yield=stop)
    assert engine.stats()["entries"] == 0
    engine.generate(prompt(3), scope, GenerateOptions(max_new_tokens=1))  # and blocks nobody


def test_pinning_more_than_the_budget_says_so(loaded: LoadedModel, scope: Scope) -> None:
    engine = ActivationEngine(loaded, memory_budget=1000)
    with pytest.raises(KVError, match="memory_budget=1000"):
        engine.prefill(prompt(100), scope, pin=True)


# Erasure


def test_dropping_a_cube_removes_memory_and_file(engine: ActivationEngine, scope: Scope) -> None:
    kv = engine.prefill(prompt(64), scope, derived_from=[("cube-1", 1), ("cube-2", 4)], save=True, pin=True)
    other = engine.prefill(prompt(64, 8), scope, derived_from=[("cube-3", 1)], save=True)
    engine.generate([*prompt(64), 9], scope, GenerateOptions(max_new_tokens=3))  # its KV contains cube-2's
    assert kv.derived_from == (("cube-1", 1), ("cube-2", 4))

    assert engine.store.drop(cube_ids=["cube-2"]) == 2
    assert engine.warm(prompt(64), scope) is None
    assert [f.key for f in engine.store.scan()] == [other.key]
    _, usage = engine.generate([*prompt(64), 9], scope, GenerateOptions(max_new_tokens=3))
    assert usage.cached_tokens < 64


def test_what_a_request_names_is_dropped_with_its_source(engine: ActivationEngine, scope: Scope) -> None:
    engine.generate(prompt(64), scope, GenerateOptions(max_new_tokens=2), derived_from=[("cube-1", 1)])
    assert engine.store.drop(cube_ids=["cube-1"]) == 1
    assert engine.stats()["memory_bytes"] == 0


def test_a_cube_dropped_during_prefill_stays_dropped(engine: ActivationEngine, scope: Scope) -> None:
    def drop() -> None:
        engine.store.drop(cube_ids=["cube-1"])

    with pytest.raises(KVError, match="dropped meanwhile"):
        engine.prefill(prompt(600), scope, derived_from=[("cube-1", 1)], save=True, should_yield=drop)
    assert engine.stats()["entries"] == engine.stats()["disk_files"] == 0
    assert not [p for p in engine.store.disk.folder.rglob("*") if p.is_file()]  # type: ignore[union-attr]


def test_a_cube_dropped_during_a_request_stays_dropped(engine: ActivationEngine, scope: Scope) -> None:
    engine.prefill(prompt(64), scope, derived_from=[("cube-1", 1)])
    stream = engine.stream([*prompt(64), 9], scope, GenerateOptions(max_new_tokens=30))
    next(stream)
    engine.store.drop(cube_ids=["cube-1"])
    list(stream)
    assert engine.stats()["entries"] == 0


def test_forget_drops_by_key(engine: ActivationEngine, scope: Scope) -> None:
    kv = engine.prefill(prompt(64), scope, save=True)
    assert engine.forget([kv.key, "0" * 32]) == 1
    assert engine.warm(prompt(64), scope) is None


# Models whose KV cannot be reused


def test_a_sliding_window_model_is_refused_and_still_right(
    tokenizer: PreTrainedTokenizerFast, scope: Scope, kv_dir: Path, reference: Reference
) -> None:
    model = make_model(len(tokenizer), family="Mistral", sliding_window=16)
    engine = ActivationEngine(LoadedModel(model, tokenizer, "sliding"), kv_dir=kv_dir)
    assert engine.reuse_refused is not None
    assert "only the last 16 tokens" in engine.reuse_refused
    with pytest.raises(KVError, match="only the last 16 tokens"):
        engine.prefill(prompt(40), scope)
    for n in (5, 600):
        for _ in range(2):
            chunks = list(engine.stream(prompt(n), scope, GenerateOptions(max_new_tokens=20)))
            assert token_ids(chunks) == reference(prompt(n), 20, model)
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.cached_tokens == 0
    assert engine.attach(prompt(40), scope)[1] == 0
    assert engine.warm(prompt(40), scope) is None


@pytest.mark.parametrize(
    "rope",
    [{"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, {"rope_type": "default", "rope_theta": 1e4}],
)
def test_positions_that_depend_on_the_length_are_refused(
    tokenizer: PreTrainedTokenizerFast, rope: dict[str, object]
) -> None:
    model = make_model(len(tokenizer), rope_parameters=rope)
    refused = ActivationEngine(LoadedModel(model, tokenizer, "rope")).reuse_refused
    assert (refused is not None) is (rope["rope_type"] == "dynamic")


# Arguments


def test_a_prompt_over_the_context_length_names_both_numbers(engine: ActivationEngine, scope: Scope) -> None:
    assert engine.context_length == 2048
    with pytest.raises(InvalidArgument, match=r"2049 tokens.*2048"):
        engine.stream(prompt(2049), scope)


def test_generation_stops_at_the_context_length(model: LlamaForCausalLM, scope: Scope) -> None:
    tokenizer = make_tokenizer()
    engine = ActivationEngine(
        LoadedModel(
            make_model(len(tokenizer), max_position_embeddings=64, eos_token_id=None), tokenizer, "short"
        )
    )
    _, usage = engine.generate(prompt(60), scope)
    assert (usage.completion_tokens, usage.finish_reason) == (5, "length")


@pytest.mark.parametrize("bad", [[], [-1], [400_000]])
def test_tokens_the_model_cannot_take(engine: ActivationEngine, scope: Scope, bad: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        engine.stream(bad, scope)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"stop": ("",)},
        {"stop": "x"},
    ],
)
def test_options_that_cannot_be_used(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        GenerateOptions(**bad)  # type: ignore[arg-type]


def test_a_tokenizer_without_a_chat_template_says_so(model: LlamaForCausalLM) -> None:
    engine = ActivationEngine(LoadedModel(model, make_tokenizer(template=None), "plain"))
    with pytest.raises(ModelError, match="chat template"):
        engine.encode([{"role": "user", "content": "hi"}])


def test_messages_the_template_refuses(model: LlamaForCausalLM) -> None:
    strict = make_tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidArgument, match="roles must alternate"):
        ActivationEngine(LoadedModel(model, strict, "strict")).encode([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("following", ["hello", "\nhello", " hello", "Oslo", "", "7"])
@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"])
def test_a_stable_prefix_begins_every_request(
    model: LlamaForCausalLM, following: str, template: str | None
) -> None:
    """With the second template nothing but the text keeps messages apart, so tokens can merge at the seam."""
    tokenizer = make_tokenizer(template=template) if template else make_tokenizer()
    engine = ActivationEngine(LoadedModel(model, tokenizer, "tiny"))
    start = [{"role": "system", "content": "Alice likes green tea and lives in Oslo."}]
    stable = engine.stable_prefix(start)
    assert len(stable) > 5
    assert engine.encode([*start, {"role": "user", "content": following}])[: len(stable)] == stable


def test_messages_and_their_tokens_are_the_same_request(engine: ActivationEngine, scope: Scope) -> None:
    messages = [{"role": "user", "content": "Where does Carol live?"}]
    options = GenerateOptions(max_new_tokens=5)
    assert (
        engine.generate(messages, scope, options)[0]
        == engine.generate(engine.encode(messages), scope, options)[0]
    )
    assert engine.count_tokens("") == 0 < engine.count_tokens("Alice")


def test_counters(engine: ActivationEngine, scope: Scope) -> None:
    engine.generate(prompt(50), scope, GenerateOptions(max_new_tokens=1))
    engine.generate([*prompt(50), 5], scope, GenerateOptions(max_new_tokens=1))
    stats = engine.stats()
    assert (stats["requests"], stats["hits"], stats["misses"], stats["tokens_saved"]) == (2, 1, 1, 50)
    assert stats["entries"] == 2  # the second prompt's one token stands behind the first
    assert stats["memory_bytes"] == 51 * engine.store.token_bytes
