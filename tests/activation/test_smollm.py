"""The real thing: SmolLM2-135M-Instruct from PyPI answers the same with and without memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memos_core.activation import ActivationEngine, GenerateOptions, LoadedModel, load_model, verify_file
from memos_core.cube.scope import Scope

from .tiny import kv_digest, token_ids

pytestmark = pytest.mark.model

FACTS = "\n".join(
    f"- Friend number {i} lives in {city}." for i, city in enumerate(["Oslo", "Rome", "Lima"] * 10)
)
SYSTEM = {
    "role": "system",
    "content": f"You remember this about the user:\n{FACTS}\n- The user's dog is Rex.",
}
SCOPE = Scope(tenant="acme", user="alice")


@pytest.fixture(scope="module")
def smol() -> LoadedModel:
    return load_model("smollm2-135m", device="cpu")


def ask(question: str) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": question}]


def test_same_tokens_as_transformers_from_every_tier(smol: LoadedModel, tmp_path: Path) -> None:
    engine = ActivationEngine(smol, kv_dir=tmp_path)
    options = GenerateOptions(max_new_tokens=24, keep=False)
    ids = engine.encode(ask("What is the name of my dog?"))
    out = smol.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :].tolist()

    cold = list(engine.stream(ids, SCOPE, options))
    kv = engine.prefill(engine.stable_prefix([SYSTEM]), SCOPE, save=True)
    before = kv_digest(kv)
    memory = list(engine.stream(ids, SCOPE, options))
    disk = list(ActivationEngine(smol, kv_dir=tmp_path).stream(ids, SCOPE, options))
    assert token_ids(cold) == token_ids(memory) == token_ids(disk) == out
    usages = [chunks[-1].usage for chunks in (cold, memory, disk)]
    assert [u.tier for u in usages if u] == ["none", "memory", "disk"]
    assert [u.cached_tokens for u in usages if u] == [0, kv.n_tokens, kv.n_tokens]
    assert "Rex" in "".join(c.text for c in memory)
    assert kv_digest(kv) == before
    assert verify_file(next(tmp_path.rglob("*.safetensors"))).n_tokens == kv.n_tokens


def test_a_conversation_continues_from_memory(smol: LoadedModel) -> None:
    engine = ActivationEngine(smol)
    messages = ask("Say hello.")
    options = GenerateOptions(max_new_tokens=16)
    for question in ("What is the name of my dog?", "Thank you."):
        text, _ = engine.generate(messages, SCOPE, options)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
        warm = list(engine.stream(messages, SCOPE, GenerateOptions(max_new_tokens=16, keep=False)))
        without = list(
            engine.stream(messages, SCOPE, GenerateOptions(max_new_tokens=16, reuse=False, keep=False))
        )
        assert token_ids(warm) == token_ids(without)
        assert warm[-1].usage is not None
        assert warm[-1].usage.cached_tokens > len(engine.encode(messages[:-2]))


def test_bfloat16_runs(smol: LoadedModel) -> None:
    engine = ActivationEngine.open("smollm2-135m", dtype="bfloat16", device="cpu")
    assert engine.context_length == 8192
    kv = engine.prefill(engine.stable_prefix([SYSTEM]), SCOPE)
    assert kv.layers[0][0].dtype == torch.bfloat16
    text, usage = engine.generate(
        ask("What is the name of my dog?"), SCOPE, GenerateOptions(max_new_tokens=16)
    )
    assert usage.cached_tokens == kv.n_tokens
    assert text
    assert engine.model_fingerprint != ActivationEngine(smol).model_fingerprint
