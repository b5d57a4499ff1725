"""`install()`: from then on `import mem0` is this package, for programs that cannot be changed.

It makes mem0's module paths resolve to the classes of `mem0_memos`, whether mem0ai is installed or not, and nothing of
mem0ai is imported. A path that is not here is not found, also where mem0ai has it: half of each would be neither.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

from mem0_memos.aio import AsyncMemory
from mem0_memos.errors import AlreadyImported
from mem0_memos.inference import bare
from mem0_memos.memory import Memory

_F = TypeVar("_F")
ROOT = "mem0"
MEM0_TELEMETRY = False
VERSION = "2.2.1"  # of mem0ai: the one that the shim is tested against


class MemoryBase(ABC):
    """mem0's base class; `Memory` and `AsyncMemory` count as subclasses."""

    @abstractmethod
    def get(self, memory_id: str) -> Any:
        """One memory."""

    @abstractmethod
    def get_all(self) -> Any:
        """All memories."""

    @abstractmethod
    def update(self, memory_id: str, data: Any) -> Any:
        """Change a memory."""

    @abstractmethod
    def delete(self, memory_id: str) -> Any:
        """Remove a memory."""

    @abstractmethod
    def history(self, memory_id: str) -> Any:
        """What happened to a memory."""


MemoryBase.register(Memory)
MemoryBase.register(AsyncMemory)


def get_user_id() -> str:
    """Nobody: mem0 keeps an id of the machine's user for its telemetry."""
    return "anonymous_user"


def setup_config() -> None:
    """Nothing is set up: mem0 writes that id into a file."""


def capture_event(event_name: str, memory_instance: Any, additional_data: Any = None) -> None:
    """Nothing is sent."""


def remove_code_blocks(content: Any) -> str:
    """A model's reply without the fence around it and its thoughts, as mem0's function of this name."""
    if isinstance(content, list):
        content = "".join(p if isinstance(p, str) else str(p.get("text", "")) for p in content)
    return bare(content) if isinstance(content, str) else ""


def extract_json(text: str) -> str:
    """The part of a model's reply that looks like JSON: between fences, else between the outermost braces."""
    text = text.strip()
    if fenced := re.search(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL):
        return fenced[1]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def api_error_handler(func: _F) -> _F:
    """The function as it is: the client here raises the exceptions of `mem0.exceptions` itself."""
    return func


class _NoTelemetry:
    """Stands for mem0's sender of usage data: nothing is sent."""

    def capture_event(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is sent."""

    def close(self) -> None:
        """There is nothing to close."""


client_telemetry = _NoTelemetry()
logger = logging.getLogger("mem0_memos")
# Where mem0 keeps its files; nothing is made or written there.
mem0_dir = os.environ.get("MEM0_DIR") or os.path.join(os.path.expanduser("~"), ".mem0")


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as text, a line each, as mem0 writes them for its prompts."""
    known = ("system", "user", "assistant")
    told = [m for m in messages if m.get("role") in known and m.get("content") is not None]
    return "".join(f"{m['role']}: {m['content']}\n" for m in told)


_CONFIGS = "MemoryConfig MemoryItem LlmConfig EmbedderConfig VectorStoreConfig RerankerConfig"
_OPTIONS = (
    "AddMemoryOptions SearchMemoryOptions GetAllMemoryOptions DeleteAllMemoryOptions UpdateMemoryOptions "
    "ProjectUpdateOptions"
)
_ERRORS = (
    "MemoryError AuthenticationError RateLimitError ValidationError MemoryNotFoundError NetworkError "
    "ConfigurationError MemoryQuotaExceededError MemoryCorruptionError VectorSearchError CacheError VectorStoreError "
    "EmbeddingError LLMError DatabaseError DependencyError HTTP_STATUS_TO_EXCEPTION=BY_STATUS "
    "create_exception_from_response"
)
_CLIENTS = "MemoryClient AsyncMemoryClient"
# mem0's modules: what is in each, by the module of ours that has it. "theirs=ours" where the names differ.
_MODULES: Mapping[str, Mapping[str, str]] = {
    "mem0": {"memory": "Memory", "aio": "AsyncMemory", "client": _CLIENTS, "modules": "__version__=VERSION"},
    "mem0.client": {},
    "mem0.client.main": {
        "client": _CLIENTS,
        "project": "Project AsyncProject",
        "options": _OPTIONS,
        "modules": "api_error_handler capture_client_event=capture_event logger",
    },
    "mem0.client.project": {"project": "BaseProject Project AsyncProject"},
    "mem0.client.types": {"options": _OPTIONS},
    "mem0.client.utils": {"errors": "APIError=MemoryError", "modules": "api_error_handler"},
    "mem0.configs": {},
    "mem0.configs.base": {"configs": f"{_CONFIGS} AzureConfig", "modules": "mem0_dir"},
    "mem0.configs.enums": {"configs": "MemoryType"},
    "mem0.configs.rerankers": {},
    "mem0.configs.rerankers.config": {"configs": "RerankerConfig"},
    "mem0.embeddings": {},
    "mem0.embeddings.configs": {"configs": "EmbedderConfig"},
    "mem0.exceptions": {"errors": _ERRORS},
    "mem0.llms": {},
    "mem0.llms.configs": {"configs": "LlmConfig"},
    "mem0.memory": {},
    "mem0.memory.base": {"modules": "MemoryBase"},
    "mem0.memory.main": {
        "memory": "Memory",
        "aio": "AsyncMemory",
        "modules": "MemoryBase MEM0_TELEMETRY capture_event extract_json logger mem0_dir parse_messages "
        "remove_code_blocks setup_config",
        "configs": "MemoryConfig MemoryItem MemoryType",
        "errors": "Mem0ValidationError=ValidationError LLMError VectorStoreError",
    },
    "mem0.memory.setup": {"modules": "get_user_id mem0_dir setup_config"},
    "mem0.memory.telemetry": {
        "modules": "capture_event capture_client_event=capture_event client_telemetry MEM0_TELEMETRY"
    },
    "mem0.memory.utils": {"modules": "extract_json parse_messages remove_code_blocks"},
    "mem0.vector_stores": {},
    "mem0.vector_stores.configs": {"configs": "VectorStoreConfig"},
}


def _below(package: str, name: str) -> ModuleType:
    """A module of a package that is asked for as its attribute."""
    if f"{package}.{name}" not in _MODULES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
    return importlib.import_module(f"{package}.{name}")


class _Finder(MetaPathFinder, Loader):
    """Finds and fills mem0's modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ROOT and not fullname.startswith(f"{ROOT}."):
            return None
        if fullname not in _MODULES:
            raise ModuleNotFoundError(
                f"mem0_memos has no {fullname}. While it is installed, `import mem0` is mem0_memos, which has none "
                "of mem0's own stores and models; use mem0_memos.uninstall() for mem0ai itself",
                name=fullname,
            )
        package = any(name.startswith(f"{fullname}.") for name in _MODULES)
        return ModuleSpec(fullname, self, origin="mem0_memos", is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = f"`{module.__name__}` by mem0_memos."
        # `import mem0` alone gives all of `mem0.memory.main`, as with mem0ai.
        module.__dict__["__getattr__"] = partial(_below, module.__name__)
        for source, names in _MODULES[module.__name__].items():
            ours = importlib.import_module(f"mem0_memos.{source}")
            for name in names.split():
                theirs, _, own = name.partition("=")
                setattr(module, theirs, getattr(ours, own or theirs))


_finder = _Finder()


def install() -> None:
    """Make `import mem0`, and mem0's modules under it, resolve to this package. Doing it twice is fine.

    `python -m mem0_memos script.py` does it before a program starts.

    Raises:
        AlreadyImported: something has imported mem0ai before; the names that it took would stay mem0ai's.
    """
    if _finder in sys.meta_path:
        return
    if ROOT in sys.modules:
        raise AlreadyImported(
            f"mem0 is already imported, from {getattr(sys.modules[ROOT], '__file__', None)}; call "
            "mem0_memos.install() before anything imports it, or run: python -m mem0_memos script.py"
        )
    sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo `install`: the next `import mem0` is mem0ai, if that is installed. What was imported meanwhile stays ours
    where it is held."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    for name in [name for name in sys.modules if name == ROOT or name.startswith(f"{ROOT}.")]:
        del sys.modules[name]
