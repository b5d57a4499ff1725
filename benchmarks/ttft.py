"""Time to first token of a prompt with a long memory in front of a short question.

    python -m benchmarks.ttft [--quick] [--json FILE]

Rows: cells of the MemOS paper's table (arXiv 2507.03724, section 6.3): tokens of context and of query. Columns:
`full`, transformers' own `generate` without any cache (the peer); `memory`, ours with the context's KV in memory;
`disk`, ours in a new process with the KV on disk only; `floor`, the same forward pass over the query with the
cache already in place, which nothing that computes the query can beat. Medians, taken in turn.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.report import arguments, show
from memos_core.activation import ActivationEngine, GenerateOptions
from memos_core.cube import Scope

CONTEXTS, QUERIES = (583, 2773, 6064), (167, 303, 953)
MODEL = "smollm2-135m"
SCOPE = Scope(user="benchmark")
ONE = GenerateOptions(max_new_tokens=1, keep=False)
SKIPPED = (
    "upstream MemOS's KVCacheMemory (PyPI MemoryOS needs transformers < 5 and a venv of its own)",
    "llama.cpp's prompt cache (built from source, some minutes)",
)


def main() -> None:
    """Measure every cell and print the table."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    cells = [(583, 167), (2773, 167)] if options.quick else [(c, q) for c in CONTEXTS for q in QUERIES]
    with tempfile.TemporaryDirectory() as folder:
        engine = ActivationEngine.open(MODEL, kv_dir=Path(folder))
        _measure(engine, 64, 16, Path(folder), 1)  # the first passes of a process are slower
        rows = [_measure(engine, c, q, Path(folder), 1 if options.quick else 3) for c, q in cells]
    show(f"Time to first token in seconds, {MODEL}, float32", rows, SKIPPED, options.json)


def _measure(
    engine: ActivationEngine, context: int, query: int, folder: Path, rounds: int
) -> dict[str, float | int]:
    tokens = _tokens(engine, context + query)
    prefix = engine.prefill(tokens[:context], SCOPE, save=True)
    ids = torch.tensor([tokens])
    mask = torch.ones_like(ids)

    def floor() -> float:
        cache = prefix.cache(context)
        return _timed(
            lambda: engine.model(input_ids=ids[:, context:], past_key_values=cache, logits_to_keep=1)
        )

    def full() -> float:
        return _timed(
            lambda: engine.model.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False)
        )

    ways: dict[str, Callable[[], float]] = {
        "full": full,
        "memory": lambda: engine.generate(tokens, SCOPE, ONE)[1].ttft_s,
        "disk": lambda: _new_process(folder, context, query),
        "floor": floor,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    engine.forget([prefix.key])
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "context": context,
        "query": query,
        **{f"{name} s": value for name, value in medians.items()},
        "saved": 1 - medians["memory"] / medians["full"],
        "memory / floor": medians["memory"] / medians["floor"],
        "disk / floor": medians["disk"] / medians["floor"],
    }


def _timed(run: Callable[[], object]) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        run()
        return time.perf_counter() - started


def _tokens(engine: ActivationEngine, length: int) -> list[int]:
    """Text-like tokens, the same in every process: words of one seed, no special ones."""
    words = random.Random(length).choices(
        ["the", "harbour", "keeps", "a", "record", "of", "every", "boat", "that", "sails", "north"], k=length
    )
    return [int(i) for i in engine.tokenizer.encode(" ".join(words), add_special_tokens=False)][:length]


def _new_process(folder: Path, context: int, query: int) -> float:
    line = [sys.executable, "-m", "benchmarks.ttft", "--from-disk", str(folder), str(context), str(query)]
    return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()[-1])


def _from_disk(folder: str, context: str, query: str) -> None:
    engine = ActivationEngine.open(MODEL, kv_dir=Path(folder))
    engine.generate(_tokens(engine, 64), SCOPE, ONE)  # warm up the model, not the memory
    usage = engine.generate(_tokens(engine, int(context) + int(query)), SCOPE, ONE)[1]
    if usage.tier != "disk" or usage.cached_tokens < int(context):
        raise SystemExit(f"expected {context} tokens from disk, got {usage}")
    print(usage.ttft_s)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--from-disk"]:
        _from_disk(*sys.argv[2:])
    else:
        main()
