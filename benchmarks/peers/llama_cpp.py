"""llama.cpp's server with its prompt cache (PyPI xllamacpp), measured in an environment of its own. Imports nothing
of ours.

The weights are the GGUF's, unpacked to float32 as our loader unpacks them, and the KV is float32 too.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.peers.lines import serve


class LlamaCpp:
    """A llama.cpp server of one slot.

    Args:
        gguf: the packed weights.
        unpacked: the same in float32; written where it does not exist yet.
        scratch: folder for the saved slot.
        threads: as torch has.
        context_length: tokens of the slot.
    """

    def __init__(self, gguf: str, unpacked: str, scratch: str, threads: int, context_length: int) -> None:
        import xllamacpp

        if not Path(unpacked).is_file():
            _unpack(gguf, unpacked)
        settings = xllamacpp.CommonParams()
        settings.model.path = unpacked
        settings.n_ctx = context_length
        settings.n_parallel = 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.cache_ram_mib = 0  # copies of other prompts' slots; there is one prompt here
        settings.slot_save_path = f"{scratch}/"
        settings.endpoint_slots = True
        settings.port = 0
        self.server = xllamacpp.Server(settings)
        self._ask(list(range(100, 164)))  # the first passes of a process are slower

    def prepare(self, context: list[int], query: list[int]) -> dict[str, Any]:
        """Compute the context and save the slot."""
        self.context, self.query = context, query
        self._ask(context, n_predict=0)
        return self._slot("save")

    def full(self) -> dict[str, Any]:
        """The whole prompt, nothing cached."""
        return self._timed(self.context + self.query, cached=0, cache_prompt=False)

    def memory(self) -> dict[str, Any]:
        """The prompt with the slot holding exactly the context."""
        self._ask(self.context, n_predict=0)
        return self._timed(self.context + self.query, cached=len(self.context))

    def file(self, context: list[int], query: list[int]) -> dict[str, Any]:
        """The prompt with the context in a saved slot, the restoring included."""
        started = time.perf_counter()
        self._slot("restore")
        restored = time.perf_counter() - started
        answer = self._timed(context + query, cached=len(context))
        return {**answer, "seconds": answer["seconds"] + restored}

    def _timed(self, prompt: list[int], cached: int, **options: Any) -> dict[str, Any]:
        started = time.perf_counter()
        answer = self._ask(prompt, **options)
        seconds = time.perf_counter() - started
        if answer["timings"]["cache_n"] != cached:
            raise RuntimeError(f"{answer['timings']['cache_n']} tokens came from its cache, not {cached}")
        return {"seconds": seconds, "text": answer["choices"][0]["text"]}

    def _ask(self, prompt: list[int], **options: Any) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": 1, "temperature": 0, "cache_prompt": True, **options}
        answer: dict[str, Any] = self.server.handle_completions(request)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _slot(self, action: str) -> dict[str, Any]:
        """Save or restore the slot; only the server's HTTP side can."""
        request = urllib.request.Request(
            f"{self.server.listening_address}/slots/0?action={action}",
            json.dumps({"filename": "context.bin"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def _unpack(gguf: str, unpacked: str) -> None:
    """Write a GGUF's tensors as float32, under the same names and with the same metadata."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize

    reader = GGUFReader(gguf)
    partial = f"{unpacked}.{os.getpid()}"
    writer = GGUFWriter(partial, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, unpacked)


if __name__ == "__main__":
    serve(LlamaCpp)
