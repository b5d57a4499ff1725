"""Time to first token of a prompt with a long memory in front of a short question.

    python -m benchmarks.ttft [--quick] [--model NAME] [--device DEVICE] [--json FILE]

Rows: cells of the MemOS paper's table (arXiv 2507.03724, section 6.3): tokens of context and of query. Columns:
`full`, transformers' own `generate` without any cache (the peer); `memory`, ours with the context's KV in memory (on
the model's device); `host`, where that is an accelerator, with the KV in the memory of its host; `disk`, ours in a new
process with the KV on disk only; `floor`, the same forward pass over the query with the cache already in place, which
nothing that computes the query can beat. Medians, taken in turn. `saved` is memory against full, `floor saved` what the
floor would save, `paper` the best saving in the paper's column.

`--model random-7b` makes a model of Mistral-7B's shape with random weights in bfloat16, for a GPU; its tokens mean
nothing, its times do.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import parser, show
from memos_core.activation import ActivationEngine, GenerateOptions, KVPrefix, LoadedModel, load_model
from memos_core.cube import Scope

PAPER = {
    (583, 167): 0.713,
    (583, 303): 0.556,
    (583, 953): 0.230,
    (2773, 167): 0.897,
    (2773, 303): 0.851,
    (2773, 953): 0.646,
    (6064, 167): 0.942,
    (6064, 303): 0.911,
    (6064, 953): 0.791,
}
"""(tokens of context, of query): the best saving in the paper's table."""

SHAPES = {
    "random-7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "random-tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
    },
}
SCOPE = Scope(user="benchmark")
ONE = GenerateOptions(max_new_tokens=1, keep=False)
WARM_UP = (64, 16)
BUDGET = 32 << 30
SKIPPED = (
    "upstream MemOS's KVCacheMemory (PyPI MemoryOS needs transformers < 5 and a venv of its own)",
    "llama.cpp's prompt cache (built from source, some minutes)",
)


def main() -> None:
    """Measure every cell and print the table."""
    command = parser(__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument(
        "--model", default="smollm2-135m", help="a model's name, or one of " + ", ".join(SHAPES)
    )
    command.add_argument("--device", default="cpu")
    options = command.parse_args()
    cells = [(583, 167), (2773, 167)] if options.quick else list(PAPER)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        rows = bench.rows(cells, 1 if options.quick else 3)
        kind = str(bench.engine.model.dtype).removeprefix("torch.")
    show(f"Time to first token in seconds, {options.model}, {kind}", rows, SKIPPED, options.json)


class Bench:
    """One model, with KV in a folder.

    Args:
        options: `model` and `device`.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self.engine = open_engine(options.model, options.device, folder)

    def rows(self, cells: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
        """Each cell measured in so many rounds."""
        prefixes = {cell: self._prefill(cell) for cell in [*cells, WARM_UP]}
        warm_up = self._ways(WARM_UP, prefixes[WARM_UP])
        for way in warm_up.values():  # the first passes of a process are slower
            way()
        times: dict[tuple[int, int], dict[str, list[float]]] = {}
        for _ in range(rounds):
            disk = self._from_disk(cells)
            for cell in cells:
                found = times.setdefault(cell, {})
                found.setdefault("disk", []).append(disk.pop(0))
                for name, way in self._ways(cell, prefixes[cell]).items():
                    found.setdefault(name, []).append(way())
        return [
            _row(cell, {name: statistics.median(t) for name, t in found.items()})
            for cell, found in times.items()
        ]

    def _prefill(self, cell: tuple[int, int]) -> KVPrefix:
        return self.engine.prefill(tokens_of(self.engine, cell)[: cell[0]], SCOPE, save=True)

    def _ways(self, cell: tuple[int, int], prefix: KVPrefix) -> dict[str, Callable[[], float]]:
        model, context = self.engine.model, cell[0]
        tokens = tokens_of(self.engine, cell)
        ids = torch.tensor([tokens], device=model.device)
        mask = torch.ones_like(ids)
        ways = {
            "full": lambda: _timed(
                lambda: model.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False)
            ),
            "memory": lambda: self._from_memory(tokens, context),
            "floor": lambda: _timed(
                lambda: model(
                    input_ids=ids[:, context:], past_key_values=prefix.cache(context), logits_to_keep=1
                )
            ),
        }
        if model.device.type != "cpu":
            ways["host"] = lambda: self._from_host(tokens, context)
        return ways

    def _ours(self, tokens: list[int], context: int, tier: str) -> float:
        usage = self.engine.generate(tokens, SCOPE, ONE)[1]
        if usage.tier != tier or usage.cached_tokens != context:
            raise SystemExit(f"expected {context} tokens from {tier}, got {usage}")
        return usage.ttft_s

    def _from_memory(self, tokens: list[int], context: int) -> float:
        self.engine.prefill(tokens[:context], SCOPE)  # back from the host
        return self._ours(tokens, context, "memory")

    def _from_host(self, tokens: list[int], context: int) -> float:
        self.engine.store.memory_budget = 0  # what is on the device moves over
        try:
            return self._ours(tokens, context, "host")
        finally:
            self.engine.store.memory_budget = BUDGET

    def _from_disk(self, cells: list[tuple[int, int]]) -> list[float]:
        options = self._options
        line = [sys.executable, "-m", "benchmarks.ttft", "--from-disk", options.model, options.device]
        line += [str(self._folder), json.dumps(cells)]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
        return seconds


def _row(cell: tuple[int, int], medians: dict[str, float]) -> dict[str, Any]:
    return {
        "context": cell[0],
        "query": cell[1],
        **{name: medians[name] for name in ("full", "memory", "host", "disk", "floor") if name in medians},
        "saved": 1 - medians["memory"] / medians["full"],
        "floor saved": 1 - medians["floor"] / medians["full"],
        "paper": PAPER[cell],
        "mem / floor": medians["memory"] / medians["floor"],
        "disk / floor": medians["disk"] / medians["floor"],
    }


def _timed(run: Callable[[], object]) -> float:
    with torch.inference_mode():
        _finish()
        started = time.perf_counter()
        run()
        _finish()
        return time.perf_counter() - started


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def open_engine(model: str, device: str, folder: Path) -> ActivationEngine:
    """The engine to measure, the same in every process."""
    loaded = random_model(model, device) if model in SHAPES else load_model(model, device=device)
    return ActivationEngine(
        loaded, kv_dir=folder, memory_budget=BUDGET, host_budget=BUDGET, disk_budget=BUDGET
    )


def random_model(name: str, device: str) -> LoadedModel:
    """A Llama of this shape with the weights of one seed, made where it runs, and a tokenizer of numbers."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {str(n): n for n in range(32_000)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")))
    config = LlamaConfig(
        vocab_size=len(words),
        num_key_value_heads=8,
        max_position_embeddings=8192,
        eos_token_id=2,
        **SHAPES[name],
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return LoadedModel(model.eval(), tokenizer, name)


def tokens_of(engine: ActivationEngine, cell: tuple[int, int]) -> list[int]:
    """The prompt of a cell, the same in every process: words of one seed, no special ones. Its first token is its
    own, so that no cell's KV serves another's."""
    length, seed = sum(cell), random.Random(repr(cell))
    if engine.name in SHAPES:
        return [seed.randrange(100, 32_000) for _ in range(length)]
    words = ["the", "harbour", "keeps", "a", "record", "of", "every", "boat", "that", "sails", "north"]
    text = f"{cell[0]}{cell[1]} " + " ".join(seed.choices(words, k=length))
    return [int(i) for i in engine.tokenizer.encode(text, add_special_tokens=False)][:length]


def _child(model: str, device: str, folder: str, cells: str) -> None:
    """In a new process: the seconds of each cell whose KV lies in the folder."""
    engine = open_engine(model, device, Path(folder))
    engine.generate(tokens_of(engine, WARM_UP), SCOPE, ONE)
    seconds = []
    for context, query in json.loads(cells):
        usage = engine.generate(tokens_of(engine, (context, query)), SCOPE, ONE)[1]
        if usage.tier != "disk" or usage.cached_tokens != context:
            raise SystemExit(f"expected {context} tokens from disk, got {usage}")
        seconds.append(usage.ttft_s)
    print(json.dumps(seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--from-disk"]:
        _child(*sys.argv[2:])
    else:
        main()
