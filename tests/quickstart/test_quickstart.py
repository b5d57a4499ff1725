"""The main job as a user runs it: `memos quickstart` and the commands it recommends, with the real models."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memos_core import MemOS

pytestmark = pytest.mark.model


def memos(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the console script as a person would. The timeout only ends a hang."""
    line = [sys.executable, "-m", "memos_core.cli", *map(str, words)]
    wide = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=1500, check=False, env=wide)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def printed(home: Path) -> str:
    """What the whole quickstart prints."""
    done = memos("quickstart", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_session_2_is_another_process_and_answers_from_memory(printed: str) -> None:
    first, second = re.findall(r"Session \d: process (\d+)", printed)
    assert first != second
    answers = printed.split("before any question")[1]
    for word in ("peanuts", "Biscuit", "Oslo", "fourteenth"):
        assert word in answers


def test_the_same_tokens_cold_and_preloaded_with_1500_tokens_of_memory(printed: str) -> None:
    rows = re.findall(r"([\d,]+) +([\d,]+) +[\d.]+ +[\d.]+ +[\d.]+ +(yes|NO)", printed)
    assert len(rows) == 4
    for prompt, preloaded, identical in rows:
        assert int(preloaded.replace(",", "")) >= 1500
        assert int(prompt.replace(",", "")) > int(preloaded.replace(",", ""))
        assert identical == "yes"


def test_it_shows_typed_cubes_and_why_the_scheduler_acted(printed: str) -> None:
    assert re.search(r"Fact +activated .*I am allergic to peanuts", printed)
    assert re.search(r"Preference +activated .*I prefer short answers", printed)
    assert re.search(r"maya +preload +\d+ +1,\d+", printed)
    assert "its KV was on disk" in " ".join(printed.split())


def test_the_commands_it_recommends_work(printed: str, home: Path) -> None:
    vault = ["--vault", ".memos/quickstart"]
    listed = memos(*vault, "ls", cwd=home)
    assert listed.returncode == 0
    short = re.search(r"^ ([0-9a-f]{8}) .*I prefer short", listed.stdout, re.MULTILINE)
    assert short
    shown = memos(*vault, "show", short[1], cwd=home)
    assert "resident in the prompt" in shown.stdout
    found = memos(*vault, "search", "--user", "maya", "what is her boat called?", cwd=home)
    assert "Petrel" in found.stdout
    kv = memos(*vault, "kv", cwd=home)
    assert ".safetensors" in kv.stdout


def test_a_killed_session_loses_nothing_and_can_be_run_again(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    with _session("1", vault) as process:
        assert process.stdout is not None
        turns = 0
        for line in process.stdout:
            turns += "stored:" in line
            if turns == 2:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    with MemOS.open(vault, user="maya", embedder=None) as memory:
        facts = [c.text for c in memory.find(not_types=("message", "kv"))]
        assert any("Gothenburg" in t for t in facts)
        assert any("allergic to peanuts" in t for t in facts)
        assert len(memory.find(types=["message"])) >= 4
    with _session("1", vault, turns="2") as process:  # the first session of a quickstart that is run again
        assert process.stdout is not None
        assert process.stdout.read().count("stored:") == 2
    assert process.wait() == 0
    with MemOS.open(vault, user="maya", embedder=None) as memory:
        texts = [c.text for c in memory.find(not_types=("message", "kv"))]
        assert len(texts) == len(set(texts))  # told twice, remembered once
        assert set(facts) <= set(texts)


def _session(number: str, vault: Path, turns: str = "10") -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "memos_core.quickstart.session", number, str(vault), "smollm2-135m", turns]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)


def _newer(vault: Path) -> None:
    import sqlite3

    MemOS.open(vault, embedder=None).close()
    with sqlite3.connect(vault / "vault.db") as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.close()


def _file(vault: Path) -> None:
    vault.write_text("no folder")


@pytest.mark.parametrize(
    ("prepare", "words", "says"),
    [
        (None, ["quickstart", "--vault", "VAULT", "--model", "no/such/model"], "no/such/model"),
        (_newer, ["quickstart", "--vault", "VAULT"], "schema version 999"),
        (_newer, ["--vault", "VAULT", "ls"], "schema version 999"),
        (_file, ["quickstart", "--vault", "VAULT"], "VAULT"),
        (None, ["--vault", "VAULT", "ls"], "there is no vault"),
        (None, ["kv", "--check", "VAULT"], "VAULT"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    tmp_path: Path, prepare: object, words: Sequence[str], says: str
) -> None:
    vault = tmp_path / "vault"
    if callable(prepare):
        prepare(vault)
    done = memos(*[str(vault) if w == "VAULT" else w for w in words], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("memos: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert says.replace("VAULT", str(vault)) in done.stderr


def test_kv_of_another_model_is_refused_in_one_sentence(printed: str, home: Path, tmp_path: Path) -> None:
    from activation.tiny import make_model, make_tokenizer

    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    [file] = (home / ".memos" / "quickstart" / "kv").glob("*/*.safetensors")
    assert memos("kv", "--check", file, cwd=home).returncode == 0
    done = memos("kv", "--check", file, "--model", tmp_path / "tiny", cwd=home)
    assert done.returncode == 1
    assert done.stderr.startswith("memos: ")
    assert "was made with model" in done.stderr
