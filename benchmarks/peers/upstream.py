"""Upstream MemOS's own KVCacheMemory (PyPI MemoryOS), measured in an environment of its own. Imports nothing of ours.

Its classes take text: the tokens are given to it as the text that they spell, through a chat template that adds
nothing, and what its tokenizer makes of it is compared with the tokens.
"""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.lines import serve

NOTHING_ADDED = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


class Upstream:
    """A KVCacheMemory over the model, with one context in it.

    Args:
        model: folder of the model, as transformers 5 saves it.
        scratch: a folder of this peer's: the dump, and a view of the model that transformers 4 can read.
        threads: for torch.
    """

    def __init__(self, model: str, scratch: str, threads: int) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # its tokenizer is loaded with force_download=True
        import torch
        from memos.configs.memory import KVCacheMemoryConfig
        from memos.memories.activation.kv import KVCacheMemory

        torch.set_num_threads(threads)
        self._dump = f"{scratch}/dump"
        settings = {
            "model_name_or_path": _readable(Path(model), Path(scratch, "model")),
            "add_generation_prompt": False,
        }
        self.memory_ = KVCacheMemory(
            KVCacheMemoryConfig(extractor_llm={"backend": "huggingface", "config": settings})
        )
        self.llm = self.memory_.llm
        self._ask(
            "the harbour keeps a record of every boat", None
        )  # the first passes of a process are slower

    def prepare(self, context: list[int], query: list[int]) -> dict[str, Any]:
        """Compute the context's KV, keep it aside, and dump a memory that holds it."""
        self.context, self.query = self._text(context), self._text(query)
        from memos.memories.activation.item import KVCacheItem

        cache = self.llm.build_kv_cache([{"role": "system", "content": self.context}])
        self.item = KVCacheItem(memory=cache)
        self._remember()
        self.memory_.dump(self._dump)
        return {"stored": cache.get_seq_length()}

    def memory(self) -> dict[str, Any]:
        """The first question to the context."""
        self._remember()
        return self._timed()

    def again(self) -> dict[str, Any]:
        """The same question once more, to the memory as the first one left it."""
        return self._timed()

    def file(self, context: list[int], query: list[int]) -> dict[str, Any]:
        """The question to a memory that is loaded from the dump, the loading included."""
        self.query = self._text(query)
        return self._timed(load=True)

    def _remember(self) -> None:
        """Make the memory hold the context's KV as it was computed, and nothing else."""
        self.memory_.delete_all()
        self.memory_.add([copy.deepcopy(self.item)])

    def _timed(self, load: bool = False) -> dict[str, Any]:
        started = time.perf_counter()
        if load:
            self.memory_.load(self._dump)
        found = self.memory_.get_all()
        if not found:
            raise RuntimeError("KVCacheMemory.load left the memory empty")
        before = found[0].memory.get_seq_length()
        cache = self.memory_.get_cache([found[0].id])
        text = self._ask(self.query, cache)
        return {"seconds": time.perf_counter() - started, "text": text, "cached": before}

    def _ask(self, text: str, cache: Any) -> str:
        """The first token of its answer, as text."""
        answer: str = self.llm.generate(
            [{"role": "user", "content": text}], past_key_values=cache, max_tokens=1
        )
        return answer

    def _text(self, ids: list[int]) -> str:
        """The text that its tokenizer turns into these tokens."""
        text: str = self.llm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if self.llm.tokenizer.encode(text, add_special_tokens=False) != ids:
            raise ValueError("these tokens are not what their text becomes; choose a prompt of whole words")
        return text


def _readable(model: Path, view: Path) -> str:
    """The model's folder with the tokenizer's settings in transformers 4's terms; the weights are the same file."""
    if view.is_dir():
        return str(view)
    view.mkdir()
    for path in model.iterdir():
        if path.name not in ("tokenizer_config.json", "chat_template.jinja"):
            (view / path.name).symlink_to(path)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": NOTHING_ADDED,
    }
    (view / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(view)


if __name__ == "__main__":
    serve(Upstream)
