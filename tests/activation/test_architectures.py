"""Every architecture that people run: what is attached gives the logits and tokens of a full prefill, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memos_core.activation import ActivationEngine, GenerateOptions, LoadedModel
from memos_core.cube.scope import Scope
from memos_core.errors import KVError

from .tiny import make_model, token_ids

SCOPE = Scope(tenant="acme", user="alice")
TOKENS = st.lists(st.integers(3, 385), min_size=1, max_size=90)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral with a sliding window": ("Mistral", {"sliding_window": 16}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2, every other layer sliding": ("Gemma2", {"head_dim": 8, "sliding_window": 16}),
    "phi3": ("Phi3", {}),
    "gpt-neox": ("GPTNeoX", {}),
}
REFUSED = {name for name in KINDS if "sliding" in name}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> tuple[str, LoadedModel]:
    family, changes = KINDS[request.param]
    model = make_model(len(tokenizer), family=family, **changes)
    return request.param, LoadedModel(model, tokenizer, request.param)


def last_logits(model: Any, ids: list[int], cache: Any = None, have: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids[have:]]), past_key_values=cache, use_cache=True).logits[
            0, -1
        ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(TOKENS, min_size=1, max_size=4),
    which=st.integers(0, 3),
    cut=st.integers(0, 90),
    tail=TOKENS,
)
def test_logits_and_tokens_are_those_of_a_full_prefill(
    kind: tuple[str, LoadedModel],
    reference: Callable[..., list[int]],
    history: list[list[int]],
    which: int,
    cut: int,
    tail: list[int],
) -> None:
    """Requests in any order, then one that is an edit of one of them."""
    name, loaded = kind
    engine, options = ActivationEngine(loaded), GenerateOptions(max_new_tokens=6)
    assert (engine.reuse_refused is not None) == (name in REFUSED)
    for earlier in history:
        engine.generate(earlier, SCOPE, options)
    edited = history[which % len(history)][:cut]
    ids = edited + tail
    cache, have = engine.attach(ids, SCOPE)
    assert have == 0 if name in REFUSED else have >= min(len(edited), len(ids) - 1)
    full = last_logits(loaded.model, ids)
    assert torch.allclose(last_logits(loaded.model, ids, cache, have), full, rtol=1e-4, atol=1e-4)
    assert token_ids(engine.stream(ids, SCOPE, options)) == reference(ids, 6, loaded.model)


def test_from_disk_too(
    kind: tuple[str, LoadedModel], kv_dir: Path, reference: Callable[..., list[int]]
) -> None:
    name, loaded = kind
    prefix, ids = list(range(10, 90)), [*range(10, 90), 7, 8, 9]
    engine = ActivationEngine(loaded, kv_dir=kv_dir)
    if name in REFUSED:
        with pytest.raises(KVError, match="KV reuse is off"):
            engine.prefill(prefix, SCOPE, save=True)
    else:
        engine.prefill(prefix, SCOPE, save=True)
    chunks = list(
        ActivationEngine(loaded, kv_dir=kv_dir).stream(ids, SCOPE, GenerateOptions(max_new_tokens=6))
    )
    assert token_ids(chunks) == reference(ids, 6, loaded.model)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.cached_tokens, usage.tier) == ((0, "none") if name in REFUSED else (80, "disk"))
