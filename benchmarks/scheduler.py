"""What planning saves: multi-user traces replayed on a simulated machine, under the planner that the MemScheduler uses.

    python -m benchmarks.scheduler [--quick] [--calibrate] [--seed N] [--data FILE] [--json FILE]

Nothing is generated: requests and background work share one model, whose costs are constants (printed) or, with
`--calibrate`, measured on the real one. A request waits for the one before it, and for the chunk of 512 tokens that
background work has begun; what leaves memory is on disk at once, for every policy. A budget is a share of all KV: of
what everybody's current prefixes take at the trace's peak. Half of it is memory, half disk.

Policies: `none` keeps nothing between turns. `LRU` and `GDSF` are caches that evict the ends of chains block by
block, from memory to disk; after a turn they compute the next session's resident memory, as our scheduler did
before it planned. `last seen` and `frequency` are our planner with simple predictors, `ours` with its own.
`clairvoyant` is our planner with the time of each next use: Belady's rule weighted by cost and size, with everything
read or computed ahead of its use. It is greedy: the best plan we can compute, no proven bound. `unbounded` has no
budget.

The first quarter of a trace warms up. The method was tuned on seed 1; the seed that is reported is another.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import scheduler_policies as policies
from benchmarks import scheduler_traces as traces
from benchmarks.report import parser, show
from benchmarks.scheduler_world import DECODE_S, Figures, Policy, World
from memos_core.scheduler.placement import SMOLLM2_CPU, Costs
from memos_core.scheduler.predictor import Frequency, LastSeen

BUDGETS = (0.05, 0.10, 0.25)
WARM_UP = 0.25
POLICIES = ("none", "LRU", "GDSF", "last seen", "frequency", "ours", "clairvoyant", "unbounded")


def main() -> None:
    """Replay every trace under every policy and budget; print what was saved."""
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--calibrate", action="store_true", help="measure the costs on SmolLM2-135M here")
    made.add_argument("--seed", type=int, default=20261126, help="of the traces")
    made.add_argument("--data", type=Path, default=traces.LOCOMO, help="LoCoMo conversations, as JSON")
    options = made.parse_args()
    costs = calibrated() if options.calibrate else SMOLLM2_CPU
    names, skipped = ["zipf", "habits"], []
    if options.data.exists():
        names.insert(0, "LoCoMo")
    else:
        skipped.append(f"the LoCoMo trace ({options.data} is not there; --data FILE names another place)")
    budgets = (0.10,) if options.quick else BUDGETS
    runs = [(n, b, p) for n in names for b in budgets for p in POLICIES]
    replay = partial(_replay, options.data, options.seed, options.quick, costs)
    with ProcessPoolExecutor() as pool:
        figures = list(pool.map(replay, runs))
    rows = _rows(runs, figures)
    notes = [
        f"costs: {costs.token_s * 1e3:.2f} ms a token and {costs.position_s * 1e6:.2f} us for each token before it; "
        f"{costs.token_bytes:,} bytes of KV a token, read from disk at {1e-9 / costs.load_s:.1f} GB/s; "
        f"{DECODE_S * 1e3:.0f} ms for each token of a reply",
        "saved: share of the prompts' tokens that requests did not prefill. of clairvoyant: saved, against its.",
        "background: seconds of computing ahead, against the seconds that `none` spends on prefill in requests.",
        *_verdicts(rows),
    ]
    show(f"Multi-user traces, seed {options.seed}", rows, skipped, options.json, notes)


def make_trace(name: str, data: Path, seed: int, quick: bool) -> list[traces.Turn]:
    """A trace by its name; `quick` makes a short one."""
    if name == "LoCoMo":
        whole = traces.locomo(data, seed, copies=2 if quick else 3)
        return [t for t in whole if t.at < 8 * traces.DAY] if quick else whole
    if name == "zipf":
        return traces.zipf(seed, days=4 if quick else 14)
    return traces.habits(seed, days=6 if quick else 14, users=30 if quick else 60)


def _replay(
    data: Path, seed: int, quick: bool, costs: Costs, run: tuple[str, float, str]
) -> tuple[Figures, int]:
    name, share, policy = run
    turns = make_trace(name, data, seed, quick)
    begin = turns[0].at + WARM_UP * (turns[-1].at - turns[0].at)
    free = World(costs, 1 << 40, 1 << 40, policies.Unbounded())
    figures = free.run(turns, begin)
    if policy != "unbounded":
        budget = int(free.peak * share)
        world = World(costs, budget // 2, budget - budget // 2, _policy(policy, turns))
        figures = world.run(turns, begin)
    return figures, free.peak


def _policy(name: str, turns: Sequence[traces.Turn]) -> Policy:
    made: dict[str, Callable[[], Policy]] = {
        "none": policies.Nothing,
        "LRU": lambda: policies.Cache(by_cost=False),
        "GDSF": lambda: policies.Cache(by_cost=True),
        "last seen": lambda: policies.Planned(LastSeen()),
        "frequency": lambda: policies.Planned(Frequency()),
        "ours": policies.ours,
        "clairvoyant": lambda: policies.clairvoyant(turns),
    }
    return made[name]()


def _rows(
    runs: Sequence[tuple[str, float, str]], figures: Sequence[tuple[Figures, int]]
) -> list[dict[str, Any]]:
    done = dict(zip(runs, figures, strict=True))
    rows = []
    for (name, share, policy), (of, _) in done.items():
        saved = 1 - of.computed / of.prompt
        best = done[name, share, "clairvoyant"][0]
        ttft = sorted(of.first_token_s)
        rows.append(
            {
                "trace": name,
                "budget": f"{share:.0%}",
                "policy": policy,
                "ttft mean s": statistics.fmean(ttft),
                "ttft p95 s": ttft[int(0.95 * len(ttft))],
                "saved": saved,
                "of clairvoyant": saved / (1 - best.computed / best.prompt),
                "background": of.background_s / done[name, share, "none"][0].seconds,
            }
        )
    return rows


def _verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The targets, and whether they are met."""
    said = []
    for name, share in dict.fromkeys((r["trace"], r["budget"]) for r in rows):
        of = {r["policy"]: r for r in rows if (r["trace"], r["budget"]) == (name, share)}
        ours, rivals = of["ours"]["saved"], max(of["LRU"]["saved"], of["GDSF"]["saved"])
        fine = ours > rivals and (share != "10%" or of["ours"]["of clairvoyant"] >= 0.85)
        margin = (ours - rivals) / (of["clairvoyant"]["saved"] - rivals)
        said.append(
            f"{name} at {share}: {'met' if fine else 'NOT MET'}: {of['ours']['of clairvoyant']:.3f} of what the "
            f"clairvoyant saves; of what that saves beyond the better of LRU and GDSF: {margin:.0%}"
        )
    return said


def calibrated() -> Costs:
    """The costs, measured on SmolLM2-135M: prefill of two lengths, and one file read."""
    import tempfile
    import time

    from benchmarks.ttft import MODEL, SCOPE, _tokens
    from memos_core.activation import ActivationEngine

    with tempfile.TemporaryDirectory() as folder:
        engine = ActivationEngine.open(MODEL, kv_dir=Path(folder))
        engine.prefill(_tokens(engine, 64), SCOPE)
        seconds = []
        for length in (1024, 3072):
            tokens = _tokens(engine, length)
            started = time.perf_counter()
            prefix = engine.prefill(tokens, SCOPE, save=length == 3072)
            seconds.append(time.perf_counter() - started)
            path = engine.store.disk.path(prefix.key) if engine.store.disk else None
            if length != 3072:
                engine.forget([prefix.key])
        assert path is not None
        started = time.perf_counter()
        engine.store.load(path)
        read = time.perf_counter() - started
        token_bytes = prefix.nbytes // prefix.n_tokens
    # seconds = token_s * n + position_s * n * n / 2, for two n
    a, b = seconds[0] / 1024, seconds[1] / 3072
    position = max(0.0, (b - a) / 1024)
    return replace(
        SMOLLM2_CPU,
        token_s=a - position * 512,
        position_s=position,
        load_s=read / prefix.nbytes,
        open_s=0.0,
        token_bytes=token_bytes,
    )


if __name__ == "__main__":
    main()
