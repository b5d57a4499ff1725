"""Time to first token of a prompt with a long memory in front of a short question.

    python -m benchmarks.ttft [--quick] [--peers] [--rounds N] [--json FILE]
    python -m benchmarks.ttft --model random-7b --device cuda

Rows: cells of the MemOS paper's table (arXiv 2507.03724, section 6.3): tokens of context and of query. `full`:
transformers' own `generate` without any cache. `memory`: ours, the context's KV where the model computes. `host`: where
that is an accelerator, its host's memory. `disk`: ours in a new process, the KV on disk only. `floor`: the same forward
pass over the query with the cache already in place, which nothing that computes the query can beat. Peers in
environments of their own, which `--peers` makes: upstream MemOS's KVCacheMemory, and llama.cpp's prompt cache. All get
the same token ids, in turn; figures are medians of the time until the first token is known. Any first token of ours
that is not `full`'s ends the benchmark in float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.lines import Child
from benchmarks.report import parser, show
from benchmarks.ttft_disk import first_token
from benchmarks.ttft_models import MODELS, SCOPE, SHAPES, open_engine, prompt
from benchmarks.ttft_peers import Answer, Peer, open_peers
from memos_core.activation import ActivationEngine

PAPER = {
    **{(583, 167): 0.713, (583, 303): 0.556, (583, 953): 0.230},
    **{(2773, 167): 0.897, (2773, 303): 0.851, (2773, 953): 0.646},
    **{(6064, 167): 0.942, (6064, 303): 0.911, (6064, 953): 0.791},
}
"""Context and query, and the largest saving of time to first token among the models of the paper."""
QUICK = ((583, 167), (2773, 167))
OURS = ("full", "memory", "host", "disk", "floor")

Cell = tuple[int, int]


def main() -> None:
    """Measure every cell and print the tables."""
    options = _options()
    with ExitStack() as keep:
        folder = Path(keep.enter_context(tempfile.TemporaryDirectory()))
        engine = open_engine(options.model, options.dtype, options.device, folder)
        peers, skipped = open_peers(engine, options.peers, keep)
        disk = Disk(options, folder)
        keep.callback(disk.close)
        measure(engine, (64, 16), disk, [], 1)  # the first passes of a process are slower
        rows: list[dict[str, Any]] = []
        problems: dict[str, str] = {}
        for cell in QUICK if options.quick else PAPER:
            print(f"{cell[0]} + {cell[1]} tokens …", file=sys.stderr)
            asked = [] if options.quick and rows else peers  # quickly: peers in the first cell only
            answers = measure(engine, cell, disk, asked, options.rounds)
            rows.append(_row(engine, cell, answers))
            problems = _problems(engine, cell, answers) | problems
    place = torch.cuda.get_device_name() if engine.model.device.type == "cuda" else "the CPU"
    title = f"Time to first token in seconds, {options.model} in {options.dtype} on {place}"
    ours = [name for name in rows[0] if not any(name.startswith(peer.name) for peer in peers)]
    tables = {title: ours}
    for peer in peers:
        named = [name for name in rows[0] if name.startswith(peer.name)]
        tables[f"The same cells, {peer.name}"] = ["context", "query", *named]
    notes = [*_reading(engine, disk, peers), *problems.values()]
    show(title, rows, skipped, options.json, notes, tables=tables)


def _options() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument(
        "--peers", action="store_true", help="make the peers' environments where they are missing"
    )
    made.add_argument("--rounds", type=int, metavar="N", help="times that each is measured (3, quick 1)")
    made.add_argument(
        "--model", choices=MODELS, default=MODELS[0], help="random-…: random weights of that shape"
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda, …")
    made.add_argument("--dtype", help="float32 on the CPU, bfloat16 elsewhere")
    options = made.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return options


class Disk:
    """Ours in a second process: a new one for each question, where checking the model's weights does not take long.

    Args:
        options: model, dtype and device.
        folder: where the first process saves.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.always_new = options.model not in SHAPES
        self._settings = {
            "model": options.model,
            "dtype": options.dtype,
            "device": options.device,
            "folder": str(folder),
        }
        self._child: Child | None = None

    def ask(self, cell: Cell) -> Answer:
        """The first token of a cell whose context is on disk."""
        if self._child is None:
            self._child = Child(sys.executable, "benchmarks.ttft_disk", **self._settings)
        answer = self._child.ask("ask", context=cell[0], query=cell[1])
        if self.always_new:
            self.close()
        return Answer(answer["seconds"], answer["token"])

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def measure(
    engine: ActivationEngine, cell: Cell, disk: Disk, peers: Sequence[Peer], rounds: int
) -> dict[str, list[Answer]]:
    """Ask everybody in turn, several times, for a cell's first token; answers by who and how."""
    context, query = cell
    tokens = prompt(engine, context + query)
    prefix = engine.prefill(tokens[:context], SCOPE, save=True)
    ids = torch.tensor([tokens], device=engine.model.device)
    mask = torch.ones_like(ids)

    def full() -> Any:
        return engine.model.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False)[0, -1]

    def floor(cache: Any) -> Any:
        out = engine.model(input_ids=ids[:, context:], past_key_values=cache, logits_to_keep=1)
        return out.logits[0, -1].argmax()

    def held(tier: str = "memory") -> Answer:
        token, usage = first_token(engine, tokens)
        if usage.tier != tier or usage.cached_tokens < context:
            raise RuntimeError(f"expected {context} tokens from {tier}, got {usage}")
        return Answer(usage.ttft_s, token)

    def host() -> Answer:
        budget, engine.store.memory_budget = engine.store.memory_budget, 0  # what is on the device moves over
        try:
            return held("host")
        finally:
            engine.store.memory_budget = budget
            engine.prefill(tokens[:context], SCOPE)  # and back

    ways: dict[str, Callable[[], Answer]] = {
        "full": lambda: _timed(engine, full),
        "memory": held,
        "disk": lambda: disk.ask(cell),
        "floor": lambda: _timed(engine, partial(floor, prefix.cache(context))),
    }
    if engine.model.device.type != "cpu":
        ways["host"] = host
    for peer in peers:
        peer.prepare(tokens[:context], tokens[context:])
        ways |= {f"{peer.name} {way}": partial(peer.ask, way) for way in peer.ways}
    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            answers[name].append(way())
    engine.forget([prefix.key])
    return answers


def _timed(engine: ActivationEngine, run: Callable[[], Any]) -> Answer:
    """Until the token is a number here: that waits for an accelerator to have computed it."""
    with torch.inference_mode():
        if engine.model.device.type == "cuda":
            torch.cuda.synchronize()  # what was asked of it before
        started = time.perf_counter()
        token = int(run())
        return Answer(time.perf_counter() - started, token)


def _row(engine: ActivationEngine, cell: Cell, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """One cell's figures.

    Raises:
        SystemExit: a first token of ours is wrong, in float32.
    """
    ours = [name for name in OURS if name in answers]
    full, memory, disk, floor = (_median(answers[name]) for name in ("full", "memory", "disk", "floor"))
    right = answers["full"][0].token
    wrong = [name for name in ours if any(answer.token != right for answer in answers[name])]
    row: dict[str, Any] = {
        "context": cell[0],
        "query": cell[1],
        **{name: _median(answers[name]) for name in ours},
        "mem / floor": memory / floor,
        "disk / floor": disk / floor,
        "saved": 1 - memory / full,
        "floor saves": 1 - floor / full,
    }
    if cell in PAPER:
        row["paper"] = PAPER[cell]
        row["reached"] = _reached(row["saved"], row["floor saves"], PAPER[cell])
    if engine.model.dtype != torch.float32:
        row["other token"] = ", ".join(wrong) or "none"
    elif wrong:
        raise SystemExit(f"{cell}: the first token of {', '.join(wrong)} is not that of full")
    text = _text(engine, right)
    figures = {name: _figure(answers[name], text) for name in answers if name not in OURS}
    for name, figure in figures.items():
        row[name] = figure
        # A peer that computes the whole prompt at a speed of its own is compared with that.
        whole = figures.get(f"{name.rpartition(' ')[0]} full", full)
        if name.endswith(("memory", "file")):
            known = isinstance(figure, float) and isinstance(whole, float)
            row[f"{name} saved"] = 1 - float(figure) / float(whole) if known else None
    return row


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.seconds for answer in answers)


def _reached(saved: float, floor_saves: float, paper: float) -> str:
    """Whether ours saves what the paper says, and where it does not, whether the floor does."""
    if saved >= paper:
        return "yes"
    return "nor floor" if floor_saves < paper else "no"


def _text(engine: ActivationEngine, token: int | str | None) -> str:
    """How a peer shows this token."""
    return str(engine.tokenizer.decode([token], skip_special_tokens=True))


def _figure(answers: Sequence[Answer], text: str) -> float | str:
    """A peer's median, or what is wrong with its answers."""
    if any(answer.problem for answer in answers):
        return "failed"
    return _median(answers) if all(answer.token == text for answer in answers) else "wrong"


def _problems(
    engine: ActivationEngine, cell: Cell, answers: Mapping[str, Sequence[Answer]]
) -> dict[str, str]:
    """For each way of a peer that has no figure: why, in words."""
    text, found = _text(engine, answers["full"][0].token), {}
    for name, given in answers.items():
        for answer in given if name not in OURS else ():
            where = f"{name} at {cell[0]} + {cell[1]}"
            if answer.problem:
                found[name] = f"{where} failed: {answer.problem}"
            elif answer.token != text:
                grown = f"; its cache held {answer.cached} tokens when it was asked" if answer.cached else ""
                found[name] = f"{where} is wrong: its first token is {answer.token!r}, not {text!r}{grown}"
    return found


def _reading(engine: ActivationEngine, disk: Disk, peers: Sequence[Peer]) -> list[str]:
    """What one must know to read the tables."""
    process = "a new process each time" if disk.always_new else "one other process for all cells"
    lines = [
        f"memory: the context's KV on {engine.model.device}, where the model is; disk: {process}",
        "saved, floor saves: 1 - memory / full, 1 - floor / full; paper: its largest saving in this cell; nor floor: "
        "the floor saves less than the paper too, the query alone takes longer",
    ]
    if engine.model.dtype != torch.float32:
        lines.append(
            "other token: whose first token is not that of full; exact in float32, while in other dtypes the split of "
            "a prompt into passes changes the rounding"
        )
    return lines + [f"{peer.name}: {peer.about}" for peer in peers]


if __name__ == "__main__":
    main()
