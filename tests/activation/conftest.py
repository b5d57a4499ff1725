"""Fixtures over the tiny model; a test asks for an `engine` and gets a fresh one with an empty KV folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the [hf] extra is not installed")

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from memos_core.activation import ActivationEngine, LoadedModel
from memos_core.cube.scope import Scope

from .tiny import make_model, make_tokenizer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on tensors this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return make_model(len(tokenizer))


@pytest.fixture(scope="session")
def loaded(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    return LoadedModel(model, tokenizer, "tiny")


@pytest.fixture(scope="session")
def saved_model(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder, for another process."""
    folder = tmp_path_factory.mktemp("tiny")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def kv_dir(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def engine(loaded: LoadedModel, kv_dir: Path) -> ActivationEngine:
    return ActivationEngine(loaded, kv_dir=kv_dir)


@pytest.fixture
def scope() -> Scope:
    return Scope(tenant="acme", user="alice")


@pytest.fixture
def reference(model: LlamaForCausalLM) -> Callable[[list[int], int], list[int]]:
    """What transformers itself generates, greedily and without any of our code."""

    def run(prompt: list[int], n: int, model: Any = model) -> list[int]:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, eos_token_id=2
        )
        return [int(i) for i in out[0, len(prompt) :]]

    return run
