"""A tiny random Llama and a tiny real tokenizer: everything the engine does, in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memos_core.activation import Chunk, Identity, KVPrefix

IDENTITY = Identity(model="a" * 64, tokenizer="b" * 64, dtype="float32")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "Alice likes green tea and lives in Oslo.",
    "Bob's sister Carol moved from Paris to Rome in May.",
    "What does Alice like? Where does Carol live? Grüße, 你好, 🙂!",
    "system user assistant memory remember the following facts about the user",
]


def make_tokenizer(*, template: str | None = TEMPLATE, size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as Llama's and SmolLM's are: its tokens can end in the middle of a character."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def make_model(vocabulary: int, *, family: str = "Llama", seed: int = 0, **changes: Any) -> Any:
    """Two layers with grouped-query attention; weights large enough that no two logits are nearly equal.

    Args:
        family: as transformers begins the names of its classes.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**(settings | changes))
    torch.manual_seed(seed)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def kv_digest(prefix: KVPrefix) -> str:
    """A hash over every stored byte, made without our own digest code."""
    total = hashlib.sha256()
    for tensors in prefix.layers:
        for tensor in tensors:
            total.update(tensor.cpu().numpy().tobytes())
    return total.hexdigest()


def token_ids(chunks: Iterable[Chunk]) -> list[int]:
    """All tokens of a stream."""
    return [token for chunk in chunks for token in chunk.token_ids]


def make_kv(
    n: int,
    *,
    start: int = 0,
    salt: str = "salt",
    sources: Iterable[tuple[str, int]] = (),
    identity: Identity = IDENTITY,
    head_dim: int = 8,
) -> KVPrefix:
    """Random KV of the tokens start, start + 1, …; 32 * head_dim bytes a token."""
    torch.manual_seed(start)
    layers = [(torch.randn(1, 2, n, head_dim), torch.randn(1, 2, n, head_dim)) for _ in range(2)]
    return KVPrefix.of(identity, salt, range(start, start + n), layers, sources)
