"""Many threads and many processes at once lose nothing and get in nobody's way. Kills: `test_kill.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import bag_of_words, environment, run_script

from memos_core import MemOS

WRITER = """
import sys, threading
from support import bag_of_words
from memos_core import MemOS
from memos_core.errors import VersionConflict

url, name, threads, each = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
memos = MemOS.open(url, user="u", embedder=bag_of_words, index=sys.argv[5])
errors = []

def work(t):
    try:
        for i in range(each):
            memos.write(f"fact {name} {t} {i}", key=f"{name}-{t}-{i}")
            memos.search(f"fact {name} {t} {i}", k=1)
            while True:  # a shared counter, by optimistic locking
                counter = memos.at(("memories",), "counter")
                try:
                    memos.update(counter.id, {"n": counter.data["n"] + 1}, expected_version=counter.version)
                    break
                except VersionConflict:
                    pass
            if i % 4 == 3:
                memos.delete(memos.at(("memories",), f"{name}-{t}-{i}").id)
    except BaseException as err:
        errors.append(repr(err))

every = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
[t.start() for t in every]
[t.join() for t in every]
memos.close()
print(errors)
sys.exit(bool(errors))
"""


def test_two_processes_with_four_threads_each_lose_nothing(vault_url: str) -> None:
    write_from_two_processes(vault_url, "exact")


def test_two_processes_with_four_threads_each_and_chroma(tmp_path: Path) -> None:
    write_from_two_processes(str(tmp_path), "chroma")


def write_from_two_processes(url: str, index: str) -> None:
    with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
        memos.write({"n": 0}, key="counter")
    command = [sys.executable, "-c", WRITER, url]
    processes = [
        subprocess.Popen(
            [*command, name, "4", "8", index],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        for name in ("a", "b")
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert "locked" not in out + err
    with MemOS.open(url, user="u", embedder=bag_of_words, index="exact") as memos:
        counter = memos.at(("memories",), "counter")
        assert counter is not None
        assert (counter.data, counter.version) == ({"n": 64}, 65)
        expected = {f"{p}-{t}-{i}" for p in "ab" for t in range(4) for i in range(8) if i % 4 != 3}
        assert {c.key for c in memos.find()} - {"counter"} == expected
        assert len({c.id for c in memos.find()}) == len(expected) + 1
        for key in sorted(expected)[::7]:
            assert memos.search("fact " + key.replace("-", " "), k=1)[0].cube.key == key


OPENER = """
import os, sys
from memos_core import MemOS
print("ready", flush=True)
sys.stdin.readline()
for i in range(5):
    with MemOS.open(sys.argv[1], user="u", embedder=None) as memos:
        memos.write(f"fact {i} {os.getpid()}")
"""


def test_many_processes_may_make_and_close_a_vault_at_the_same_moment(vault_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, vault_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        for _ in range(5)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    with MemOS.open(vault_url, user="u", embedder=None) as memos:
        assert len(memos.find()) == 25


IN_MEMORY = """
import json, sys, threading
from support import bag_of_words
from memos_core import MemOS
memos = MemOS.open(":memory:", embedder=bag_of_words)
errors = []

def work(n):
    try:
        view = memos.scoped(user=f"u{n % 3}", session=f"s{n}")
        for i in range(15):
            view.remember([{"role": "user", "content": f"I own {i} boats named {n}."}])
            view.search("boats")
            view.prompt([{"role": "user", "content": "which boats?"}])
            view.delete(view.find(limit=1)[0].id)
    except BaseException as err:
        errors.append(repr(err))

every = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in every]
[t.join() for t in every]
assert memos.scheduler.wait_idle()
errors += [d.reason for d in memos.scheduler.explain() if d.action == "error"]
memos.close()
print(json.dumps(errors))
"""


def test_threads_and_the_scheduler_share_one_connection_in_memory() -> None:
    done = run_script(IN_MEMORY)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
