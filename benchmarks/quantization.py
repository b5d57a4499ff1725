"""What KV in 8 bits costs, and what encrypted files cost.

    python -m benchmarks.quantization [--quick] [--json FILE]

SmolLM2-135M over prompts of sentences: each is answered with the KV of its beginning (all but 40 tokens) stored
exactly, in int8 and in fp8, and compared with a full prefill. `KL` is the divergence of the first token's distribution
from the full prefill's, the mean and the largest; `other replies`, of how many greedy replies of 24 tokens any token
differs. `from memory` is the time to first token with the KV in memory; `from a file`, the seconds to read and check
it; both are medians over prompts of this length.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import Sentences
from benchmarks.report import arguments, show
from memos_core.activation import ActivationEngine, GenerateOptions, load_model
from memos_core.cube import Scope

SCOPE = Scope(user="benchmark")
TAIL, LENGTH = 40, 1500
REPLY = GenerateOptions(max_new_tokens=24, keep=False)
FULL = GenerateOptions(max_new_tokens=24, keep=False, reuse=False)
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
    source = Sentences(7)
    count = 4 if options.quick else 24
    texts = [[next(source) for _ in range(LENGTH // 6)] for _ in range(count)]
    prompts = [loaded.tokenizer.encode(" ".join(text), add_special_tokens=False)[:LENGTH] for text in texts]
    exact = ActivationEngine(loaded)
    full = [(_logits(exact, ids), exact.generate(ids, SCOPE, FULL)[0]) for ids in prompts]
    rows = [_measure(name, loaded, how, prompts, full) for name, how in KINDS.items()]
    show(f"KV of {LENGTH - TAIL:,} tokens, {count} prompts, smollm2-135m in float32", rows, (), options.json)


def _logits(engine: ActivationEngine, ids: list[int]) -> torch.Tensor:
    """Of the first token, with what is stored of the prompt."""
    cache, n = engine.attach(ids, SCOPE)
    with torch.inference_mode():
        out = engine.model(torch.tensor([ids[n:]]), past_key_values=cache, logits_to_keep=1)
    logits: torch.Tensor = out.logits[0, -1].double()
    return logits


def _measure(
    name: str,
    loaded: Any,
    how: dict[str, Any],
    prompts: list[list[int]],
    full: list[tuple[torch.Tensor, str]],
) -> dict[str, Any]:
    divergences, other, memory, disk = [], 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        engine = ActivationEngine(loaded, kv_dir=Path(folder), **how)
        for ids, (right, reply) in zip(prompts, full, strict=True):
            kv = engine.prefill(ids[:-TAIL], SCOPE, save=True)
            ours = _logits(engine, ids).log_softmax(-1)
            divergences.append(float((right.softmax(-1) * (right.log_softmax(-1) - ours)).sum()))
            text, usage = engine.generate(ids, SCOPE, REPLY)
            assert usage.tier == "memory"
            other += text != reply
            memory.append(usage.ttft_s)
            assert engine.store.disk is not None
            path = engine.store.disk.path(kv.key)
            started = time.perf_counter()
            engine.store.load(path)
            disk.append(time.perf_counter() - started)
            size = path.stat().st_size / kv.n_tokens
    return {
        "KV": name,
        "bytes a token": engine.store.token_bytes,
        "of a file": round(size),
        "KL, mean": f"{statistics.mean(divergences):.1e}",
        "largest": f"{max(divergences):.1e}",
        "other replies": other,
        "from memory s": statistics.median(memory),
        "from a file s": statistics.median(disk),
    }


if __name__ == "__main__":
    main()
