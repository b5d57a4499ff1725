"""Concurrent requests to one model: ours, which take turns, next to the continuous batching of `transformers`.

    python -m benchmarks.batching [--quick] [--json FILE] [--device cuda]

Requests of so many users arrive at one moment. Each prompt begins with what all share and goes on with what only its
user has (memories, the conversation); 32 tokens are generated, greedily. `turns, KV reused`: our engine, one thread a
request, everything but the last 40 tokens of each prompt computed before. `turns`: the same without any KV.
`continuous batching`: `model.generate_batch`, which computes all requests in one pass, shares blocks of what prompts
begin with among the requests at hand, and keeps nothing between calls; what it sets up for a call counts.

Seconds are of a whole burst: to the first token of the mean and of the last request, and to the last token of all.
`other replies`: those that differ from `turns`.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from typing import Any

from transformers import GenerationConfig

from benchmarks.corpus import Sentences
from benchmarks.report import parser, show
from memos_core.activation import ActivationEngine, GenerateOptions, load_model
from memos_core.cube import Scope

SHARED, OWN, TAIL, REPLY = 300, 1_200, 40, 32
Burst = tuple[list[float], float, list[str]]  # seconds to the first tokens, to the end, replies


def main() -> None:
    """Measure each way with growing bursts and print the table."""
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    loaded = load_model("smollm2-135m", device=options.device)
    engine = ActivationEngine(loaded)
    source = Sentences(7)
    shared = _tokens(loaded, source, SHARED)
    rows, own = [], OWN // 4 if options.quick else OWN
    for users in (1, 2) if options.quick else (1, 4, 8):
        prompts = [shared + _tokens(loaded, source, own) for _ in range(users)]
        for user, prompt in enumerate(prompts):
            engine.prefill(prompt[:-TAIL], Scope(user=str(user)))
        found: dict[str, list[Burst]] = {}
        for _ in range(1 if options.quick else 3):
            found.setdefault("turns, KV reused", []).append(_turns(engine, prompts, reuse=True))
            found.setdefault("turns", []).append(_turns(engine, prompts, reuse=False))
            found.setdefault("continuous batching", []).append(_batched(loaded, prompts))
        rows += [_row(users, name, bursts, found["turns"][0][2]) for name, bursts in found.items()]
    show(
        f"Bursts of requests of {SHARED + own:,} tokens, smollm2-135m, {loaded.model.dtype}",
        rows,
        (),
        options.json,
    )


def _tokens(loaded: Any, source: Sentences, count: int) -> list[int]:
    text = " ".join(next(source) for _ in range(count // 6))
    found: list[int] = loaded.tokenizer.encode(text, add_special_tokens=False)[:count]
    return found


def _turns(engine: ActivationEngine, prompts: list[list[int]], *, reuse: bool) -> Burst:
    options = GenerateOptions(max_new_tokens=REPLY, keep=False, reuse=reuse)
    firsts, replies = [0.0] * len(prompts), [""] * len(prompts)

    def ask(user: int) -> None:
        pieces = []
        for chunk in engine.stream(prompts[user], Scope(user=str(user)), options):
            firsts[user] = firsts[user] or time.perf_counter() - started
            pieces.append(chunk.text)
        replies[user] = "".join(pieces)

    threads = [threading.Thread(target=ask, args=(user,)) for user in range(len(prompts))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return firsts, time.perf_counter() - started, replies


def _batched(loaded: Any, prompts: list[list[int]]) -> Burst:
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=REPLY, do_sample=False, eos_token_id=loaded.tokenizer.eos_token_id, pad_token_id=0
    )
    started = time.perf_counter()
    found = loaded.model.generate_batch(prompts, generation_config=config, record_timestamps=True)
    ended = time.perf_counter()
    outputs = sorted(found.values(), key=lambda out: prompts.index(list(out.prompt_ids)))
    replies = [loaded.tokenizer.decode(out.generated_tokens, skip_special_tokens=True) for out in outputs]
    return [out.timestamps[0] - started for out in outputs], ended - started, replies


def _row(users: int, name: str, bursts: list[Burst], expected: list[str]) -> dict[str, Any]:
    return {
        "requests": users,
        "way": name,
        "first token, mean s": statistics.median(statistics.mean(b[0]) for b in bursts),
        "of the last s": statistics.median(max(b[0]) for b in bursts),
        "all done s": statistics.median(b[1] for b in bursts),
        "other replies": sum(a != b for a, b in zip(bursts[0][2], expected, strict=True)),
    }


if __name__ == "__main__":
    main()
