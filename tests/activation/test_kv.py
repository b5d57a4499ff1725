"""Prefixes, chain hashes and fingerprints: what makes two KV entries the same, and what keeps them apart."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from memos_core.activation import (
    Identity,
    KVPrefix,
    chain_hashes,
    model_fingerprint,
    reuse_refusal,
    tokenizer_fingerprint,
)
from memos_core.activation.digest import digest_tensors
from memos_core.activation.kv import growing_cache
from memos_core.errors import KVError

from .tiny import TEMPLATE, kv_digest, make_kv, make_model, make_tokenizer

TOKENS = st.lists(st.integers(0, 50_000), max_size=100)


@given(TOKENS, TOKENS, TOKENS)
def test_chain_hashes_agree_exactly_where_the_prefix_does(
    common: list[int], a: list[int], b: list[int]
) -> None:
    left, right = chain_hashes("seed", common + a), chain_hashes("seed", common + b)
    for i, (x, y) in enumerate(zip(left, right, strict=False)):
        same = (common + a)[: (i + 1) * 32] == (common + b)[: (i + 1) * 32]
        assert (x == y) is same
    assert len(left) == -(-len(common + a) // 32)


def test_chain_hashes_depend_on_the_seed() -> None:
    assert chain_hashes("a", [1, 2]) != chain_hashes("b", [1, 2])
    seeds = {Identity(*parts).seed(salt) for parts in ("mtd", "xtd", "mxd", "mtx") for salt in ("s", "x")}
    assert len(seeds) == 8


def test_a_cache_is_views_and_growing_it_leaves_the_entry_as_it_was() -> None:
    kv = make_kv(64)
    before = kv_digest(kv)
    first, second = kv.cache(64), kv.cache(10)
    assert first.layers[0].keys.data_ptr() == second.layers[0].keys.data_ptr() == kv.layers[0][0].data_ptr()
    assert (first.get_seq_length(), second.get_seq_length()) == (64, 10)
    more = torch.randn(1, 2, 5, 8)
    keys, _ = second.update(more, more, 0)
    assert torch.equal(keys, torch.cat([kv.layers[0][0][:, :, :10], more], dim=2))
    assert second.get_seq_length() == 15
    first.crop(-3)
    assert kv_digest(kv) == before
    assert kv.cache(64).get_seq_length() == 64


def test_a_prefix_owns_its_memory() -> None:
    identity = Identity("m", "t", "float32")
    large = torch.randn(1, 1, 1000, 8)
    kv = KVPrefix.of(identity, "salt", range(10), [(large[:, :, :10], large[:, :, :10])])
    assert kv.nbytes == 2 * 10 * 8 * 4
    assert kv.layers[0][0].untyped_storage().nbytes() == 10 * 8 * 4


def test_prefixes_that_cannot_be() -> None:
    identity = Identity("m", "t", "float32")
    with pytest.raises(KVError, match="at least one token"):
        KVPrefix.of(identity, "salt", [], [])
    for shape in [(1, 2, 5, 8), (2, 2, 10, 8), (10, 8)]:
        with pytest.raises(KVError, match="shape"):
            KVPrefix.of(identity, "salt", range(10), [(torch.zeros(shape), torch.zeros(shape))])
    with pytest.raises(KVError, match="n_tokens=11"):
        make_kv(10).cache(11)


def test_model_fingerprints(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    original = model_fingerprint(model)
    assert model_fingerprint(make_model(size)) == original

    changed = make_model(size)
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight[3, 4] += 1e-3
    eager = make_model(size)
    eager.set_attn_implementation("eager")
    others = [
        changed,
        eager,
        make_model(size).to(torch.bfloat16),
        make_model(size, seed=1),
        make_model(size, rms_norm_eps=1e-5),
    ]
    assert len({original, *map(model_fingerprint, others)}) == 6


def test_a_model_used_for_a_while_keeps_its_fingerprint(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(
        len(tokenizer), rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    before = model_fingerprint(model)
    with torch.no_grad():
        model(torch.zeros(1, 2100, dtype=torch.long))  # rewrites the rotary frequencies in place
    assert model_fingerprint(model) == before
    assert reuse_refusal(model) is not None


def test_tokenizer_fingerprints(tokenizer: PreTrainedTokenizerFast) -> None:
    original = tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(make_tokenizer()) == original
    used = copy.deepcopy(tokenizer)
    used(["a", "b c"], padding=True, truncation=True, max_length=8)
    assert tokenizer_fingerprint(used) == original
    others = [
        make_tokenizer(template=TEMPLATE + " "),
        make_tokenizer(template=None),
        make_tokenizer(size=300),
    ]
    assert len({original, *map(tokenizer_fingerprint, others)}) == 4


def test_the_digest_sees_every_byte_name_and_shape() -> None:
    large = torch.zeros(5_000_000, dtype=torch.uint8)
    other = large.clone()
    other[4_999_999] = 1
    digests = [
        digest_tensors([("a", large)]),
        digest_tensors([("a", other)]),
        digest_tensors([("b", large)]),
        digest_tensors([("a", large.view(2, -1))]),
        digest_tensors([("a", large.view(torch.int8))]),
        digest_tensors([("a", large)], b"header"),
        digest_tensors([]),
    ]
    assert len(set(digests)) == len(digests)
    assert digest_tensors([("a", torch.tensor(1.0)), ("b", torch.empty(0))]) == (
        digest_tensors([("a", torch.tensor(1.0)), ("b", torch.empty(0))])
    )


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, memos_core.activation as a; a.read_header, a.drop_files, a.GenerateOptions, a.salt_for; "
    )
    assert run(code + "print({'torch', 'transformers'} & set(sys.modules))") == "set()"


def test_without_torch_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["torch"] = None
from memos_core.errors import MissingExtra
try:
    from memos_core.activation import ActivationEngine
except MissingExtra as err:
    print(err)
"""
    assert (
        run(code)
        == "torch is not installed; in the MemOS checkout, run: pip install -c constraints.txt -e '.[hf]'"
    )


def test_a_growing_cache_says_what_a_dynamic_one_says_and_leaves_what_it_began_with() -> None:
    parts = [make_kv(40).layers, make_kv(3, start=50).layers, make_kv(90, start=60).layers]
    before = [t.clone() for part in parts for layer in part for t in layer]
    grown = growing_cache(parts, len(parts[0]))
    plain = DynamicCache()
    for n in range(len(parts[0])):
        for part in parts:
            plain.update(*part[n], n)
    for step in (5, 1, 1, 200, 1):
        for n, (keys, values) in enumerate(make_kv(step, start=1000 + step).layers):
            for ours, theirs in zip(
                grown.update(keys, values, n), plain.update(keys, values, n), strict=True
            ):
                assert torch.equal(ours, theirs)
        assert grown.get_seq_length() == plain.get_seq_length()
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for p in parts for la in p for t in la), strict=True)
    )
