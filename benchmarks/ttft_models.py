"""The models of `benchmarks.ttft`: SmolLM2-135M, or random weights in a given shape, made where they run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from memos_core.activation import ActivationEngine, LoadedModel
from memos_core.cube import Scope

SCOPE = Scope(user="benchmark")
VOCABULARY = 49_152  # SmolLM2's
SHAPES: dict[str, dict[str, Any]] = {
    "random-7b": {  # Mistral-7B's, which is Llama-3-8B's with a smaller vocabulary
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "random-tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
MODELS = ("smollm2-135m", *SHAPES)
WORDS = ("the", "harbour", "keeps", "a", "record", "of", "every", "boat", "that", "sails", "north")
"""Each is one token of SmolLM2's with the space before it, so that a prompt can be cut anywhere between tokens."""


def open_engine(model: str, dtype: str, device: str, folder: Path) -> ActivationEngine:
    """An engine over one of `MODELS`. Every process that asks for the same gets the same weights."""
    budgets: dict[str, Any] = {"memory_budget": 4 << 30, "disk_budget": 4 << 30}
    if model not in SHAPES:
        return ActivationEngine.open(model, kv_dir=folder, dtype=dtype, device=device, **budgets)
    loaded = LoadedModel(_random_model(model, dtype, device), _tokenizer(), model)
    return ActivationEngine(loaded, kv_dir=folder, **budgets)


def _random_model(model: str, dtype: str, device: str) -> Any:
    """Weights from a seed, made on the device: 7B from the CPU would take minutes."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        **SHAPES[model],
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))  # type: ignore[no-untyped-call]


def _tokenizer() -> PreTrainedTokenizerFast:
    """One word per token, for a model that no text was ever shown to."""
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    ends = {"eos_token": "<end>", "pad_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **ends)  # type: ignore[no-untyped-call]


def prompt(engine: ActivationEngine, length: int) -> list[int]:
    """Tokens, the same in every process: words of one seed, no special ones."""
    chosen = random.Random(length)
    if engine.name in SHAPES:
        return chosen.choices(range(1, VOCABULARY), k=length)
    text = " ".join(chosen.choices(WORDS, k=length))
    return [int(i) for i in engine.tokenizer.encode(text, add_special_tokens=False)][:length]
