"""`install()`: programs that import mem0 run on the vault, each in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from client_server import KEY, Hosted
from mem0_kit import embed
from support import TESTS

from memos_core import MemOS

FOLDERS = [TESTS.parent, TESTS.parent / "integrations", TESTS, TESTS / "mem0"]

# Fails if anything of mem0ai was loaded, or anything was connected to beside this machine.
GUARD = """
import os, socket, sys
os.environ.pop("MEM0_TELEMETRY", None)
real = socket.socket.connect
def connect(self, address):
    assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", address
    return real(self, address)
socket.socket.connect = connect
def no_mem0ai():
    for name, module in list(sys.modules.items()):
        if name == "posthog" or name.split(".")[0] == "mem0":
            assert getattr(module, "__file__", None) is None, (name, module)
"""
# A crew's storage and an agent's memory, calling mem0 as CrewAI 1.2 and AutoGen 0.7 do.
CREW = """
from collections import defaultdict
from mem0 import Memory, MemoryClient

class Storage:
    def __init__(self, config):
        self.config = config
        if config.get("api_key"):
            self.memory = MemoryClient(api_key=config["api_key"], **config.get("project", {}))
            self.memory.update_project(custom_categories=[{"food": "what they eat"}])
        else:
            local = config.get("local_mem0_config")
            self.memory = Memory.from_config(local) if local else Memory()

    def save(self, value):
        params = {"metadata": {"type": "external"}, "infer": False, "user_id": "maya", "agent_id": "cook"}
        if isinstance(self.memory, MemoryClient):
            params |= {"includes": None, "excludes": None, "output_format": "v1.1", "version": "v2"}
        self.memory.add([{"role": "assistant", "content": value}], **params)

    def search(self, query):
        narrow = defaultdict(list)
        narrow["AND"].append({"user_id": "maya"})
        params = {"query": query, "limit": 5, "version": "v2", "output_format": "v1.1", "user_id": "maya",
                  "metadata": {"type": "external"}, "filters": narrow, "threshold": 0.1}
        if isinstance(self.memory, Memory):
            del params["metadata"], params["version"], params["output_format"]
        return [m["memory"] for m in self.memory.search(**params)["results"]]

def crew(config):
    storage = Storage(config)
    storage.save("Maya eats no meat")
    print("crew", storage.search("what does maya eat?"))
    return storage
"""
AGENT = """
from datetime import datetime
from mem0 import Memory as Memory0
from mem0 import MemoryClient

def agent(is_cloud, config=None, api_key=None):
    client = MemoryClient(api_key=api_key) if is_cloud else Memory0.from_config(config_dict=config)
    extra = {} if client.__class__.__name__ == "Memory" else {"output_format": "v1.1"}
    said = [{"role": "user", "content": "My dog is called Bo."}]
    client.add(said, user_id="tom", metadata={"source": "chat"}, **extra)
    found = client.search("what is the dog called?", user_id="tom", limit=10)
    found = found["results"] if isinstance(found, dict) and "results" in found else found
    for memory in found:
        assert isinstance(datetime.fromisoformat(memory["created_at"]), datetime)
        assert memory["metadata"]["source"] == "chat"
    print("agent", [m["memory"] for m in found])
    client.delete_all(user_id="tom")
    print("cleared", client.search("dog", user_id="tom", limit=10)["results"])
"""
SAID = "crew ['Maya eats no meat']\nagent ['My dog is called Bo.']\ncleared []\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hosted]:
    with MemOS.open(tmp_path / "served", embedder=embed) as memos, Hosted(memos) as hosted:
        yield hosted


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in that folder, with its own vault and home."""
    paths = [*map(str, FOLDERS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(folder), **variables}
    environment["MEMOS_VAULT"] = str(folder / "vault")
    environment.pop("MEM0_API_KEY", None)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=folder,
        check=False,
    )


def done(folder: Path, code: str, *arguments: str) -> str:
    """What code printed that must end well."""
    ended = run(folder, "-W", "error::ImportWarning", "-c", code, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_mem0_is_this_package(tmp_path: Path) -> None:
    """All module paths, the identities that callers check, no telemetry, no file in the home folder; and back."""
    code = (
        GUARD
        + """
import mem0_memos
mem0_memos.install()
mem0_memos.install()
import mem0
assert mem0.memory.main.Memory is mem0.Memory and mem0.exceptions.MemoryError and mem0.configs.base.MemoryConfig
assert not hasattr(mem0, "nothing") and not hasattr(mem0.memory, "nothing")
import mem0.memory.main, mem0.client.main, mem0.configs.base
from mem0.client.utils import api_error_handler
from mem0.configs.base import AzureConfig, mem0_dir
from mem0.memory.main import VectorStoreError, capture_event, logger
from mem0.memory.telemetry import client_telemetry
from mem0.memory.utils import extract_json, remove_code_blocks
from unittest import mock
with mock.patch("mem0.memory.main.capture_event"):
    pass
assert api_error_handler(len) is len and AzureConfig(api_key="k").azure_endpoint is None
client_telemetry.capture_event("x")
fenced = "<think>hm</think>```json\\n[1]\\n```"
assert remove_code_blocks(fenced) == "[1]" == extract_json("so: " + fenced)
from mem0 import AsyncMemory, AsyncMemoryClient, Memory, MemoryClient
from mem0.client.project import AsyncProject, Project
from mem0.client.types import SearchMemoryOptions
from mem0.client.utils import APIError
from mem0.configs.base import EmbedderConfig, LlmConfig, MemoryConfig, MemoryItem, VectorStoreConfig
from mem0.configs.enums import MemoryType
from mem0.configs.rerankers.config import RerankerConfig
from mem0.exceptions import LLMError, MemoryError, MemoryNotFoundError, RateLimitError, ValidationError
from mem0.memory.base import MemoryBase
from mem0.memory.setup import get_user_id, setup_config
from mem0.memory.telemetry import MEM0_TELEMETRY, capture_client_event, capture_event
from mem0.memory.utils import parse_messages

assert mem0.Memory is mem0.memory.main.Memory is mem0_memos.Memory
assert mem0.AsyncMemory is mem0.memory.main.AsyncMemory is mem0_memos.AsyncMemory
assert mem0.MemoryClient is mem0.client.main.MemoryClient is mem0_memos.MemoryClient
assert mem0.AsyncMemoryClient is mem0.client.main.AsyncMemoryClient is mem0_memos.AsyncMemoryClient
assert issubclass(RateLimitError, MemoryError) and APIError is MemoryError and mem0.__version__ == "2.2.1"
setup_config()
assert get_user_id() == "anonymous_user" and MEM0_TELEMETRY is False
assert capture_event("mem0.init", None) is capture_client_event("x", None) is None
assert parse_messages([{"role": "user", "content": "hi"}, {"role": "tool"}]) == "user: hi\\n"

config = MemoryConfig(embedder=EmbedderConfig(provider="langchain", config={"model": None}), custom_instructions="x")
memory = Memory(config=MemoryConfig())
assert isinstance(memory, mem0.Memory) and isinstance(memory, MemoryBase)
assert isinstance(AsyncMemory(MemoryConfig(url=":memory:")), MemoryBase)
try:
    memory.add("i like tea")
except ValidationError as err:
    assert isinstance(err, MemoryError) and err.error_code == "VALIDATION_001"
else:
    raise SystemExit("added for nobody")
try:
    memory.delete("none")
except ValueError as err:
    assert "not found" in str(err)
else:
    raise SystemExit("deleted nothing")
added = memory.add("i like tea", user_id="u", infer=False)["results"]
assert MemoryItem(**memory.get(added[0]["id"])).memory == "i like tea"
memory.close()
for name in ("mem0.vector_stores.qdrant", "mem0.nothing"):
    try:
        __import__(name)
    except ModuleNotFoundError as err:
        assert err.name == name and "uninstall()" in str(err)
    else:
        raise SystemExit(name)
no_mem0ai()
assert ".mem0" not in os.listdir(os.environ["HOME"])

mem0_memos.uninstall()
mem0_memos.uninstall()
assert not [name for name in sys.modules if name.split(".")[0] == "mem0"]
import importlib.util
theirs = importlib.util.find_spec("mem0")
assert theirs is None or theirs.origin != "mem0_memos"
mem0_memos.install()
import mem0
assert mem0.Memory is mem0_memos.Memory
print("good")
"""
    )
    assert done(tmp_path, code) == "good\n"


def test_install_after_mem0_was_imported_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mem0.py").write_text("Memory = 'somebody else'")
    code = """
import sys
sys.path.insert(0, ".")
from mem0 import Memory
import mem0_memos
from mem0_memos.errors import AlreadyImported
try:
    mem0_memos.install()
except AlreadyImported as err:
    assert "python -m mem0_memos" in str(err)
    import mem0
    assert mem0.Memory == Memory
    print("refused")
"""
    assert done(tmp_path, code) == "refused\n"


def test_callers_of_crewai_and_autogen_run_unchanged(tmp_path: Path) -> None:
    program = GUARD + CREW + AGENT + "config = {'path': ':memory:', 'memos': {'embedder': None}}\n"
    program += "crew({'local_mem0_config': config}).memory.reset()\nagent(False, config)\nno_mem0ai()\n"
    (tmp_path / "program.py").write_text(program)
    ended = run(tmp_path, "-m", "mem0_memos", "program.py")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == SAID


def test_the_same_callers_with_a_hosted_client(tmp_path: Path, server: Hosted) -> None:
    code = (
        GUARD
        + "import mem0_memos; mem0_memos.install(); import mem0_memos.client; mem0_memos.client.HOST = sys.argv[1]\n"
        + CREW
        + AGENT
        + f"crew({{'api_key': {KEY!r}, 'project': {{'org_id': 'o', 'project_id': 'p'}}}})\n"
        + f"agent(True, api_key={KEY!r})\nno_mem0ai()\n"
    )
    assert done(tmp_path, code, server.host) == SAID


@pytest.mark.skipif(find_spec("llama_index.memory.mem0") is None, reason="llama-index-memory-mem0 is missing")
def test_llama_index_runs_unchanged(tmp_path: Path, server: Hosted) -> None:
    code = (
        GUARD
        + f"""
import mem0_memos
mem0_memos.install()
from llama_index.core.llms import ChatMessage
from llama_index.memory.mem0 import Mem0Memory
context = {{"user_id": "maya"}}
for memory in (
    Mem0Memory.from_config(context=context, config={{"memos": {{"embedder": None}}}}),
    Mem0Memory.from_client(context=context, api_key={KEY!r}, host=sys.argv[1]),
):
    memory.put(ChatMessage(role="user", content="My dog is called Bo."))
    memory.set([*memory.get_all(), ChatMessage(role="user", content="I live in Oslo.")])
    told, *said = memory.get("what is my dog called, and where do I live?")
    assert "My dog is called Bo." in told.content and "I live in Oslo." in told.content, told.content
    assert [m.content for m in said] == ["My dog is called Bo.", "I live in Oslo."]
    assert memory.model_dump()["context"] == context
    memory.reset()
    print(type(memory._client).__name__, len(memory.get_all()))
no_mem0ai()
"""
    )
    assert done(tmp_path, code, server.host) == "Memory 0\nMemoryClient 0\n"


def test_python_m_runs_scripts_and_modules(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "beside.py").write_text("import mem0\nWHOSE = mem0.Memory.__module__\n")
    said = "import sys, beside\nif __name__ == '__main__': print(beside.WHOSE, sys.argv[1:])\nsys.exit(3)\n"
    (folder / "script.py").write_text(said)
    (tmp_path / "program.py").write_text("import mem0, sys\nprint(mem0.Memory.__module__, sys.argv[1:])\n")
    script = run(tmp_path, "-m", "mem0_memos", "src/script.py", "-m", "x")
    assert (script.returncode, script.stdout) == (3, "mem0_memos.memory ['-m', 'x']\n"), script.stderr
    module = run(tmp_path, "-m", "mem0_memos", "-m", "program", "--help")
    assert (module.returncode, module.stdout) == (0, "mem0_memos.memory ['--help']\n"), module.stderr
    nothing = run(tmp_path, "-m", "mem0_memos")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("usage:")
    asked = run(tmp_path, "-m", "mem0_memos", "--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("usage:")


def test_the_package_needs_no_httpx_until_a_client_is_made(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["httpx"] = None
from mem0_memos import Memory, MemoryClient
from memos_core.errors import MissingExtra
try:
    MemoryClient("key")
except MissingExtra as err:
    assert "[mem0]" in str(err)
    print("named")
"""
    assert done(tmp_path, code) == "named\n"
