"""How a benchmark talks to a child process: one JSON object a line each way. Needs only the standard library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: children run here, so that `-m benchmarks.…` finds them."""


class ChildFailed(Exception):
    """The child could not do what it was asked to, or is gone; the message says why."""


class Child:
    """A child process that runs `serve`, seen from the benchmark.

    Args:
        python: the interpreter, e.g. that of a peer's environment.
        module: what it runs, e.g. ``"benchmarks.peers.upstream"``.
        settings: the arguments of what that module serves.

    Raises:
        ChildFailed: it did not start, or its constructor raised.
    """

    def __init__(self, python: Path | str, module: str, **settings: Any) -> None:
        self._module = module
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        # A PYTHONPATH for our environment would put our adapters before the peer's own packages.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [str(python), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        try:
            self.ask("open", **settings)
        except ChildFailed:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Call one method there and wait for what it returns.

        Raises:
            ChildFailed: it raised, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildFailed(f"{self._module} ended with code {self._process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def close(self) -> None:
        """Let it end; it does when its input ends."""
        self._process.communicate()
        self._stderr.close()


def serve(kind: Callable[..., Any]) -> None:
    """Answer requests until the input ends: the first makes an object of `kind`, the others call its methods.

    What libraries print goes to the standard error stream. An exception is an answer too; its traceback is printed
    there.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    served: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if do == "open":
                served, answer = kind(**request), {}
            else:
                answer = getattr(served, do)(**request)
        except Exception as err:  # noqa: BLE001 (the benchmark says it)
            traceback.print_exc()
            answer = {"error": f"{type(err).__name__}: {' '.join(str(err).split())}"}
        print(json.dumps(answer), file=answers, flush=True)


def spoken(command: Sequence[str]) -> str:
    """Run a command to its end; its output.

    Raises:
        ChildFailed: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildFailed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
