"""What KV in 8 bits costs, and what encrypted files cost.

    python -m benchmarks.quantization [--quick] [--json FILE]

SmolLM2-135M over prompts of sentences: each is answered with the KV of its beginning (all but 40 tokens) stored
exactly, in int8 and in fp8, and compared with a full prefill. `KL` is the divergence of the first token's distribution
from the full prefill's, the mean and the largest; `other replies`, of how many greedy replies of 16 tokens any token
differs. `from memory` is the time to first token with the KV in memory; `from a file`, the seconds to read and check
it; both are medians over prompts of this length.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import Sentences
from benchmarks.report import arguments, show
from memos_core.activation import ActivationEngine, GenerateOptions, KVPrefix, LoadedModel, load_model
from memos_core.cube import Scope

SCOPE = Scope(user="benchmark")
TAIL = 40
REPLY = GenerateOptions(max_new_tokens=16, keep=False)
FULL = GenerateOptions(max_new_tokens=16, keep=False, reuse=False)
KEY = bytes(range(32))
KINDS: dict[str, dict[str, Any]] = {
    "exact": {},
    "int8": {"quantization": "int8"},
    "fp8": {"quantization": "fp8"},
    "exact, encrypted": {"encryption": KEY},
    "int8, encrypted": {"quantization": "int8", "encryption": KEY},
}


def main() -> None:
    """Measure each kind and print the table."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    loaded = load_model("smollm2-135m", device="cpu")
    count, length = (2, 400) if options.quick else (12, 1500)
    source = Sentences(7)
    texts = [" ".join(next(source) for _ in range(length // 6)) for _ in range(count)]
    prompts = [loaded.tokenizer.encode(text, add_special_tokens=False)[:length] for text in texts]
    exact = ActivationEngine(loaded)
    asked = [_ask(exact, ids) for ids in prompts]
    rows = [_measure(name, loaded, how, asked) for name, how in KINDS.items()]
    show(f"KV of {length - TAIL:,} tokens, {count} prompts, smollm2-135m in float32", rows, (), options.json)


@dataclass(frozen=True)
class Asked:
    """A prompt, what a full prefill says of it, and the KV of its beginning."""

    ids: list[int]
    logits: torch.Tensor
    reply: str
    kv: KVPrefix


def _ask(engine: ActivationEngine, ids: list[int]) -> Asked:
    logits = _logits(engine, ids)
    return Asked(
        ids, logits, engine.generate(ids, SCOPE, FULL)[0], engine.prefill(ids[:-TAIL], SCOPE, hold=False)
    )


def _logits(engine: ActivationEngine, ids: list[int]) -> torch.Tensor:
    """Of the first token, with what is stored of the prompt."""
    cache, n = engine.attach(ids, SCOPE)
    with torch.inference_mode():
        out = engine.model(torch.tensor([ids[n:]]), past_key_values=cache, logits_to_keep=1)
    logits: torch.Tensor = out.logits[0, -1].double()
    return logits


def _measure(name: str, loaded: LoadedModel, how: dict[str, Any], asked: list[Asked]) -> dict[str, Any]:
    divergences, other, memory, disk = [], 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        engine = ActivationEngine(loaded, kv_dir=Path(folder), **how)
        store = engine.store
        for one in asked:
            kv = KVPrefix.of(store.identity, one.kv.salt, one.kv.tokens, one.kv.layers)
            store.put(kv)
            ours = _logits(engine, one.ids).log_softmax(-1)
            difference = one.logits.log_softmax(-1) - ours
            divergences.append(float((one.logits.softmax(-1) * difference).sum()))
            text, usage = engine.generate(one.ids, SCOPE, REPLY)
            assert usage.tier == "memory"
            other += text != one.reply
            memory.append(usage.ttft_s)
            path = store.save(kv)
            started = time.perf_counter()
            store.load(path)
            disk.append(time.perf_counter() - started)
            size = path.stat().st_size / kv.n_tokens
    return {
        "KV": name,
        "bytes a token": store.token_bytes,
        "of a file": round(size),
        "KL, mean": f"{statistics.mean(divergences):.1e}",
        "largest": f"{max(divergences):.1e}",
        "other replies": other,
        "from memory s": statistics.median(memory),
        "from a file s": statistics.median(disk),
    }


if __name__ == "__main__":
    main()
