"""One session of the quickstart, a process of its own: `python -m memos_core.quickstart.session 1 VAULT MODEL 10`."""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from memos_core.cube import NOT_MEMORIES, new_id
from memos_core.errors import MemOSError
from memos_core.memos import MemOS
from memos_core.quickstart.agent import SYSTEM, build
from memos_core.quickstart.script import QUESTIONS, TURNS, USER
from memos_core.render import console, cube_table, decision_table, table

_ROUNDS = 3  # a preloaded prompt is quick to measure, and one slow moment of the machine should not count
_REPLY = 32  # tokens: a small model says what it has to say at once, or not at all


@dataclass(frozen=True)
class Timing:
    """The same prompt, computed in full and with the memory's KV in place."""

    question: str
    prompt_tokens: int
    cached_tokens: int
    cold_s: float
    preloaded_s: float
    identical: bool


def main(arguments: Sequence[str]) -> int:
    """Run session 1 or 2 on a vault.

    Args:
        arguments: the session's number, the vault's folder, the model's name, how many turns to tell.
    """
    number, vault, model, turns = arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; how it ended is said below
    out = console()
    try:
        with MemOS.open(vault, model=model) as memos:
            if number == "1":
                tell(memos, out, TURNS[: int(turns)])
            else:
                ask(memos, out)
    except MemOSError as err:
        console(stderr=True).print(f"memos: {err}", markup=False, soft_wrap=True)
        return 1
    return 0


def tell(memos: MemOS, out: Console, turns: Sequence[str]) -> None:
    """Session 1: Maya tells the agent about herself, turn by turn."""
    thread = f"tell-{new_id()}"
    agent = _ready(memos, out, 1, thread)
    view = memos.scoped(user=USER)
    before = {c.id for c in view.find(not_types=NOT_MEMORIES)}
    for turn in turns:
        message = _say(agent, thread, turn)
        known = {c.id for c in view.find(not_types=NOT_MEMORIES)}
        _show(out, f"{turn[:100]}…", message)
        out.print(
            f"           stored: {len(known - before)} typed memories, 2 messages, 1 turn of the thread\n",
            style="dim",
        )
        before = known
    with out.status("The scheduler prepares the next session…"):
        memos.scheduler.wait_idle()
    _no_errors(memos)
    out.print(cube_table(view.find(not_types=NOT_MEMORIES), "Typed cubes in the vault"))
    built = [d for d in memos.scheduler.explain() if d.action != "plan"]
    out.print(decision_table(built, "What the scheduler did between the turns"))
    out.print(f"Process {os.getpid()} ends. Nothing of it stays but the vault.\n")


def ask(memos: MemOS, out: Console) -> None:
    """Session 2: another process, and a new thread for every question, so that only memory can answer."""
    agent = _ready(memos, out, 2, "one new thread for each question")
    with out.status("The scheduler preloads…"):
        memos.scheduler.wait_idle()
    _no_errors(memos)
    out.print(decision_table(memos.scheduler.explain(), "What the scheduler preloaded, before any question"))
    timings = []
    for question in QUESTIONS:
        thread = f"ask-{new_id()}"
        with out.status("Measuring the same prompt cold and preloaded…"):
            timings.append(measure(memos.scoped(user=USER, session=thread), question))
        _show(out, question, _say(agent, thread, question))
        out.print()
    out.print(_timing_table(timings, memos.model_name or ""))
    if not all(t.identical for t in timings):
        raise MemOSError("the tokens with preloaded memory differ from those without: please report this")


def measure(view: MemOS, question: str) -> Timing:
    """Time to first token of one prompt, with the KV in place and without any; nothing of it is kept."""
    from memos_core.activation import GenerateOptions, Usage

    prompt = view.prompt([{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}])

    def once(reuse: bool) -> tuple[list[int], Usage]:
        options = GenerateOptions(max_new_tokens=_REPLY, reuse=reuse, keep=False)
        chunks = list(view.engine.stream(prompt.messages, view.scope, options))
        usage = chunks[-1].usage
        assert usage is not None
        return [i for c in chunks for i in c.token_ids], usage

    warm, cold = [once(True) for _ in range(_ROUNDS)], once(False)
    return Timing(
        question,
        cold[1].prompt_tokens,
        warm[0][1].cached_tokens,
        cold[1].ttft_s,
        statistics.median(usage.ttft_s for _, usage in warm),
        all(ids == cold[0] for ids, _ in warm),
    )


def _no_errors(memos: MemOS) -> None:
    """The scheduler lives on after an error; the quickstart has nothing to show then, and says so."""
    errors = [d for d in memos.scheduler.explain() if d.action == "error"]
    if errors:
        raise MemOSError(errors[-1].reason)


def _ready(memos: MemOS, out: Console, number: int, thread: str) -> Any:
    started = time.perf_counter()
    with out.status(f"Loading {memos.model_name} (the first time, its weights are unpacked: some 20 s)…"):
        agent = build(memos, max_tokens=_REPLY)
        memos.engine  # noqa: B018 - loads the model now, not within the first turn
    spent = time.perf_counter() - started
    out.rule(f"[bold]Session {number}[/bold]: process {os.getpid()}, {thread}", align="left")
    out.print(f"Model loaded in {spent:.1f} s.\n", style="dim")
    return agent


def _say(agent: Any, thread: str, text: str) -> Any:
    config = {"configurable": {"thread_id": thread, "user_id": USER}}
    return agent.invoke({"messages": [("user", text)]}, config)["messages"][-1]


def _show(out: Console, said: str, reply: Any) -> None:
    usage, metadata = reply.usage_metadata, reply.response_metadata["memos"]
    out.print(f"[bold cyan]{USER:>9}[/bold cyan]  {escape(said)}")
    out.print(f"[bold green]{'agent':>9}[/bold green]  {escape(' '.join(reply.text.split()))}")
    out.print(
        f"           first token after {metadata['ttft_s']:.2f} s; {usage['input_token_details']['cache_read']:,} of "
        f"{usage['input_tokens']:,} prompt tokens came from KV memory",
        style="dim",
    )


def _timing_table(timings: list[Timing], model: str) -> Any:
    made = table(
        f"Time to first token of the same prompts, {model} (preloaded: median of {_ROUNDS})",
        "question",
        "prompt tokens",
        "preloaded",
        "cold s",
        "preloaded s",
        "ratio",
        "tokens identical",
        right=["prompt tokens", "preloaded", "cold s", "preloaded s", "ratio"],
    )
    for t in timings:
        made.add_row(
            t.question,
            f"{t.prompt_tokens:,}",
            f"{t.cached_tokens:,}",
            f"{t.cold_s:.2f}",
            f"{t.preloaded_s:.2f}",
            f"{t.preloaded_s / t.cold_s:.3f}",
            "yes" if t.identical else "NO",
        )
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
