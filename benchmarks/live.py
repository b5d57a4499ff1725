"""Eight LangGraph agents of eight users on one engine, with the scheduler and without it.

    python -m benchmarks.live [--quick] [--seconds N] [--verify N] [--json FILE]

Each user talks to their own agent (`ChatMemOS` in a graph over `MemOSSaver`, one vault, one SmolLM2-135M): a question,
a pause, the next question; a new conversation every five turns. KV in memory has room for about half of them. `without`
is the same vault with the same resident memories and arrivals, its scheduler stopped: KV is what requests left.

After each run a sample of its requests is computed again without any KV: `wrong` are those whose tokens differ.
`over budget` counts the samples (every 20 ms) at which KV in memory was more than allowed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.corpus import Sentences
from benchmarks.report import parser, show
from langchain_memos import ChatMemOS
from langgraph.checkpoint.memos import MemOSSaver
from memos_core import MemOS
from memos_core.activation import ActivationEngine, Chunk, GenerateOptions, LoadedModel, Usage, load_model
from memos_core.cube import Scope

USERS, FACTS, TURNS, REPLY = 8, 30, 5, 16
PAUSE = (8.0, 20.0)  # seconds between a reply and the next question
BUDGET = 160 << 20
_DEFAULTS = GenerateOptions()
_SPEED = ("scheduler", "requests", "prompt tokens", "from KV", "ttft p50 s", "ttft p95 s")
_RIGHT = ("scheduler", "peak MB", "over budget", "wrong", "built", "loaded", "errors", "close s")
SYSTEM = "You are a helpful assistant who remembers what the user has told you."


@dataclass(frozen=True)
class Request:
    """A request as the engine saw it, and what it answered."""

    prompt: list[int]
    tokens: list[int]
    usage: Usage


class Recorder(ActivationEngine):
    """The engine, with a list of what it answered."""

    def __init__(self, loaded: LoadedModel, **how: Any) -> None:
        super().__init__(loaded, **how)
        self.answered: list[Request] = []

    def stream(
        self, prompt: Any, scope: Scope, options: GenerateOptions = _DEFAULTS, **how: Any
    ) -> Generator[Chunk, None, None]:
        """See `ActivationEngine.stream`."""
        ids = list(prompt) if isinstance(prompt[0], int) else self.encode(prompt)
        tokens: list[int] = []
        for chunk in super().stream(ids, scope, options, **how):
            tokens += chunk.token_ids
            if chunk.usage is not None:
                self.answered.append(Request(ids, tokens, chunk.usage))
            yield chunk


class Watch(threading.Thread):
    """Looks every 20 ms at how much KV is in memory."""

    def __init__(self, engine: ActivationEngine) -> None:
        super().__init__(daemon=True)
        self._engine, self._end = engine, threading.Event()
        self.peak = self.over = 0

    def run(self) -> None:
        """Until `stop`."""
        while not self._end.wait(0.02):
            used = sum(self._engine.store.usage().values())
            self.peak = max(self.peak, used)
            self.over += used > self._engine.store.memory_budget

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


def main() -> None:
    """Run both, and print the table."""
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--seconds", type=float, help="of each run (600; with --quick 45)")
    made.add_argument("--verify", type=int, default=100, help="requests of each run that are computed again")
    options = made.parse_args()
    seconds = options.seconds or (45.0 if options.quick else 600.0)
    loaded = load_model("smollm2-135m")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "vault")
        rows = []
        for name in ("without", "with"):
            home = Path(folder) / name
            shutil.copytree(Path(folder) / "vault", home)
            engine = Recorder(loaded, kv_dir=home / "kv", memory_budget=BUDGET)
            rows.append(run(name, home, engine, seconds, options.verify))
    first = [row["ttft p95 s"] for row in rows]
    show(
        f"{USERS} agents on one engine for {seconds:.0f} s, KV in memory up to {BUDGET >> 20} MB",
        rows,
        [],
        options.json,
        [f"p95 of the first token with the scheduler: {first[1] / first[0]:.2f} of that without it"],
        {
            f"{USERS} agents on one engine for {seconds:.0f} s, KV in memory up to {BUDGET >> 20} MB": _SPEED,
            "The same runs": _RIGHT,
        },
    )


def prepare(home: Path) -> None:
    """A vault in which every user has a resident plan. No model: no KV yet."""
    sentences = Sentences(1)
    with MemOS.open(home, embedder=None) as memos:
        for n in range(USERS):
            view = memos.scoped(user=f"user {n}")
            view.put([view.cube(f"User {n} notes: {next(sentences)}") for _ in range(FACTS)])
            view.turn_finished(system=SYSTEM)
        memos.scheduler.wait_idle()


def run(name: str, home: Path, engine: Recorder, seconds: float, verify: int) -> dict[str, Any]:
    """One run: the agents talk for so many seconds."""
    with MemOS.open(home, embedder=None, model=engine) as memos:
        assert memos.engine is engine
        if name == "without":
            memos.scheduler.stop()
        else:
            memos.scheduler.wait_idle()  # what a process does when it begins
        watch = Watch(engine)
        watch.start()
        graph = agent(memos)
        end = time.monotonic() + seconds
        failures: list[BaseException] = []
        threads = [threading.Thread(target=talk, args=(graph, n, end, failures)) for n in range(USERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        watch.stop()
        decisions = {action: times for action, (times, _) in memos.scheduler.totals().items()}
        closing = time.perf_counter()
    closing = time.perf_counter() - closing
    if failures:
        raise failures[0]
    answered = list(engine.answered)
    ttft = sorted(r.usage.ttft_s for r in answered)
    return {
        "scheduler": name,
        "requests": len(answered),
        "prompt tokens": sum(r.usage.prompt_tokens for r in answered) // len(answered),
        "from KV": sum(r.usage.cached_tokens for r in answered)
        / sum(r.usage.prompt_tokens for r in answered),
        "ttft p50 s": ttft[len(ttft) // 2],
        "ttft p95 s": ttft[int(0.95 * len(ttft))],
        "peak MB": watch.peak / (1 << 20),
        "over budget": watch.over,
        "wrong": wrong(engine, random.Random(1).sample(answered, min(verify, len(answered)))),
        "built": decisions.get("build", 0),
        "loaded": decisions.get("preload", 0),
        "errors": decisions.get("error", 0),
        "close s": closing,
    }


def agent(memos: MemOS) -> Any:
    """A graph that answers; every step goes through the saver, every turn into memory."""
    model = ChatMemOS(memos=memos, max_tokens=REPLY, remember=True)

    def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [model.invoke([("system", SYSTEM), *state["messages"]], config)]}

    graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    return graph.compile(checkpointer=MemOSSaver(memos))


def talk(graph: Any, n: int, end: float, failures: list[BaseException]) -> None:
    """One user, until the end."""
    draw, sentences = random.Random(n), Sentences(100 + n)
    try:
        turn = 0
        time.sleep(draw.uniform(0.0, PAUSE[1]))
        while time.monotonic() < end:
            thread = {"user_id": f"user {n}", "thread_id": f"{n}-{turn // TURNS}"}
            graph.invoke(
                {"messages": [HumanMessage(f"What do you know about this: {next(sentences)}?")]},
                {"configurable": thread},
            )
            turn += 1
            time.sleep(draw.uniform(*PAUSE))
    except BaseException as err:
        failures.append(err)
        raise


def wrong(engine: ActivationEngine, requests: Iterable[Request]) -> int:
    """How many were answered otherwise than without any stored KV."""
    plain = GenerateOptions(max_new_tokens=REPLY, reuse=False, keep=False)
    nobody = Scope(user="nobody")
    return sum(
        request.tokens
        != [t for chunk in engine.stream(request.prompt, nobody, plain) for t in chunk.token_ids]
        for request in requests
    )


if __name__ == "__main__":
    main()
