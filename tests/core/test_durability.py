"""What was acknowledged survives: SIGKILL at any moment, many threads, many processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import bag_of_words, environment, run_script

from memos_core import MemOS

# Forks writers one after another, reads some of the ids that each acknowledges, and kills it.
KILLER = """
import os, random, signal, sys
from support import bag_of_words
from memos_core import MemOS
from memos_core.core import Core

url, seed = sys.argv[1], int(sys.argv[2])
random.seed(seed)

def write_for_ever(out):
    memos = MemOS.open(url, user="u", embedder=bag_of_words, index="exact")
    n = 0
    while True:
        n += 1
        if n % 3 == 0:
            cubes = memos.put([memos.cube(f"pair {n} one"), memos.cube(f"pair {n} two")])
        elif n % 7 == 0:
            cubes = memos.remember([{"role": "user", "content": f"I own {n} {os.getpid()} boats."}])
        else:
            cubes = [memos.write(f"fact {n} of {os.getpid()}")]
        if n % 5 == 0:
            cubes = [memos.update(cubes[-1].id, "changed text"), *cubes[:-1]]
        os.write(out, "".join(f"{c.id} {c.version}\\n" for c in cubes).encode())

for _ in range(20):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            write_for_ever(write)
        finally:
            os._exit(1)
    os.close(write)
    lines, wanted = b"", random.randint(1, 30)
    with os.fdopen(read, "rb") as stream:
        for _ in range(wanted):
            lines += stream.readline()
        os.kill(child, signal.SIGKILL)
        lines += stream.read()  # what it acknowledged before it died
    os.waitpid(child, 0)
    for line in lines.split(b"\\n")[:-1]:
        print(line.decode())
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    done = run_script(KILLER, tmp_path, 7)
    assert done.returncode == 0, done.stderr
    acknowledged = dict(line.split() for line in done.stdout.splitlines())
    assert len(acknowledged) > 20
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
        stored = {c.id: c for c in memos.find()}
        missing = {i for i, v in acknowledged.items() if i not in stored or stored[i].version < int(v)}
        assert missing == set()
        assert all(len(memos.history(i)) == c.version for i, c in stored.items())
        pairs = [c.text for c in stored.values() if c.text.startswith("pair")]
        changed = sum(c.text == "changed text" and c.version == 2 for c in stored.values())
        assert (
            len([t for t in pairs if t.endswith("one")]) - len([t for t in pairs if t.endswith("two")])
            <= changed
        )
        with memos.vault.db.read() as conn:
            # Each cube has its current vector, or is queued with its current version; and nothing else is.
            broken = conn.exec_driver_sql(
                "SELECT c.id FROM cubes c LEFT JOIN vectors v ON v.cube_id = c.id AND v.version = c.version "
                "LEFT JOIN index_queue q ON q.cube_id = c.id AND q.version = c.version "
                "WHERE (v.cube_id IS NULL) = (q.cube_id IS NULL)"
            ).scalars()
            assert list(broken) == []
            conn.exec_driver_sql("INSERT INTO cube_fts(cube_fts, rank) VALUES ('integrity-check', 1)")
            assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        for cube in list(stored.values())[::25]:
            assert cube.id in {h.cube.id for h in memos.search(cube.text, k=500, types=[cube.semantic_type])}
        assert all(
            r.action in ("write", "update") or r.action.startswith("state")
            for r in memos.audit_log(limit=9999)
        )


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


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_two_processes_with_four_threads_each_lose_nothing(tmp_path: Path, index: str) -> None:
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
        memos.write({"n": 0}, key="counter")
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
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
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
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


def test_many_processes_may_make_and_close_a_vault_at_the_same_moment(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path / "new")],
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
    with MemOS.open(tmp_path / "new", user="u", embedder=None) as memos:
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
