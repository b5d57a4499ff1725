"""`python -m mem0_memos script.py …` and `python -m mem0_memos -m module …`: run a program whose `import mem0` is this
package."""

from __future__ import annotations

import os
import runpy
import sys

from mem0_memos.modules import install

USAGE = (
    "usage: python -m mem0_memos SCRIPT [ARGUMENT …]\n       python -m mem0_memos -m MODULE [ARGUMENT …]\n"
)


def main() -> None:
    """Run what the command line names, as `python` itself would.

    Raises:
        SystemExit: it names nothing.
    """
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    program = arguments[1:] if as_module else arguments
    if not program or program[0].startswith("-"):
        asked = program[:1] in (["-h"], ["--help"])
        (sys.stdout if asked else sys.stderr).write(USAGE)
        raise SystemExit(0 if asked else 2)
    install()
    sys.argv = program
    if as_module:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(program[0]))  # a script imports from its own folder
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()
