"""vLLM, vLLM with LMCache, and llama.cpp, each over SmolLM2-135M: `make test-servers` installs and starts them.

What is preloaded is proved by the server's own count of cached tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.activation import GenerateOptions, ServedEngine

SERVERS = dict(entry.split("=", 1) for entry in os.environ.get("MEMOS_TEST_SERVERS", "").split())
FACTS = [
    f"Box number {n} in the boathouse holds {what}." for n, what in enumerate(["rope", "paint", "lamps"] * 12)
]
SHORT = GenerateOptions(max_new_tokens=8)
ASK = [{"role": "user", "content": "What does box number 4 hold?"}]

pytestmark = pytest.mark.skipif(not SERVERS, reason="no servers are running; make test-servers starts them")


@pytest.fixture(params=list(SERVERS) or ["none"])
def memos(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "v", embedder=None, model=SERVERS[request.param]) as opened:
        opened.generator  # noqa: B018 - connects
        yield opened


def salted(memos: MemOS) -> bool:
    engine = memos.generator
    assert isinstance(engine, ServedEngine)
    return engine.about.owner == "vllm"


def know(memos: MemOS, user: str) -> MemOS:
    """A user of this test's own, with resident memory, some turns ago."""
    view = memos.scoped(user=f"{user}-{os.urandom(4).hex()}")
    for fact in FACTS:
        view.write(f"{view.scope.user}: {fact}")
    view.turn_finished()
    assert memos.scheduler.wait_idle()
    return view.scoped(session="s")


def ask(memos: MemOS, view: MemOS) -> tuple[int, int, float]:
    """Cached tokens and tokens of a prompt, and the seconds to its first token."""
    prompt = view.prompt(ASK, k=0)
    _, usage = memos.generator.generate(prompt.messages, view.scope, SHORT)
    return usage.cached_tokens, usage.prompt_tokens, usage.ttft_s


def test_what_the_next_prompt_begins_with_is_there(memos: MemOS) -> None:
    cold = know(memos, "cold")
    engine = memos.generator
    assert isinstance(engine, ServedEngine)
    engine.erase(owners=[cold.scope])  # forgets what was preloaded, where salts keep users apart
    warm = know(memos, "warm")
    cached, tokens, seconds = ask(memos, warm)
    [build] = [d for d in warm.explain() if d.action == "build"]
    assert cached >= tokens - 160 > 300, build.reason  # vLLM keeps whole blocks, of 128 tokens on a CPU
    if salted(memos):
        none, _, slow = ask(memos, cold)
        assert none == 0
        print(
            f"\n{engine.base_url}: first token after {seconds:.2f} s preloaded, {slow:.2f} s cold; {cached} of {tokens}"
        )


def test_no_user_hits_anothers(memos: MemOS) -> None:
    if not salted(memos):
        pytest.skip("this server keeps no users apart")
    view = know(memos, "alice")
    prompt = view.prompt(ASK, k=0)
    memos.generator.generate(prompt.messages, view.scope, SHORT)
    mine = memos.generator.generate(prompt.messages, view.scope, SHORT)[1].cached_tokens
    other = memos.scoped(user=f"mallory-{os.urandom(4).hex()}")
    theirs = memos.generator.generate(prompt.messages, other.scope, SHORT)[1].cached_tokens
    assert theirs == 0 < mine


def test_the_same_reply_with_and_without_what_is_kept(memos: MemOS) -> None:
    view = know(memos, "alice")
    prompt = view.prompt(ASK, k=0)
    first = memos.generator.generate(prompt.messages, view.scope, SHORT)[0]
    fresh = GenerateOptions(max_new_tokens=8, reuse=False)
    assert memos.generator.generate(prompt.messages, view.scope, fresh)[0] == first
    assert memos.generator.generate("One, two, three,", view.scope, SHORT)[0].strip()
