"""What is not asked for is not imported, and what is missing is named with the command that installs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import run_script

HEAVY = (
    "torch",
    "transformers",
    "chromadb",
    "langchain_core",
    "langgraph",
    "llama_index",
    "mem0",
    "sentence_transformers",
    "psycopg",
    "pgvector",
)

LIGHT = """
import sys
{statement}
loaded = sorted({{name.split(".")[0] for name in sys.modules}} & set({heavy!r}))
print(loaded)
"""

USE = """
from memos_core import MemOS
from support import bag_of_words
with MemOS.open(":memory:", user="u", embedder=bag_of_words) as memos:
    memos.remember([{"role": "user", "content": "I like green tea a lot."}])
    memos.search("tea")
    memos.prompt([{"role": "user", "content": "which tea?"}])
    memos.scheduler.wait_idle()
"""


@pytest.mark.parametrize("statement", ["import memos_core", "from memos_core import MemOS", USE])
def test_nothing_heavy_is_imported(statement: str) -> None:
    done = run_script(LIGHT.format(statement=statement, heavy=HEAVY))
    assert done.stdout == "[]\n", done.stderr


# Hides packages the way a missing installation does, and the way some import hooks do.
BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
from memos_core import MemOS
from memos_core.errors import MissingExtra
from support import bag_of_words
"""

NO_MODEL = """
with MemOS.open(sys.argv[1], user="u", embedder="all-minilm-l6-v2") as memos:
    memos.write("the heron")
    try:
        memos.search("heron")
    except MissingExtra as err:
        print(err)
    print(len(memos.find()))
"""

AUTO = """
with MemOS.open(sys.argv[1], user="u", embedder="auto") as memos:
    memos.write("the heron")
    print(memos.search("heron")[0].cube.text, memos.has_embedder)
    memos.search("heron")
"""

CHROMA = """
try:
    MemOS.open(sys.argv[1], user="u", embedder=bag_of_words, index="chroma")
except MissingExtra as err:
    print(err)
with MemOS.open(sys.argv[1], user="u", embedder=bag_of_words) as memos:
    memos.write("the heron")
    from memos_core.retrieval import retriever
    retriever.EXACT_BELOW = 0
    print(memos.search("heron")[0].cube.text)
    print(memos.search("heron")[0].cube.text)
"""


def blocked(code: str, folder: Path, *hidden: str) -> tuple[list[str], list[str]]:
    done = run_script(BLOCK.format(hidden=hidden) + code, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_a_missing_embedding_library_is_named_at_the_first_search(tmp_path: Path) -> None:
    out, _ = blocked(NO_MODEL, tmp_path, "sentence_transformers")
    assert out == [
        "sentence-transformers is not installed; in the MemOS checkout, run: pip install -c constraints.txt -e '.[hf]'",
        "1",
    ]


def test_auto_without_the_library_searches_by_words_and_warns_once(tmp_path: Path) -> None:
    out, err = blocked(AUTO, tmp_path, "sentence_transformers", "chromadb")
    assert out == ["the heron False"]
    assert [line for line in err if line.startswith("WARNING")] == [
        "WARNING search is by words only, without an embedding model: sentence-transformers is not installed; "
        "in the MemOS checkout, run: pip install -c constraints.txt -e '.[hf]'"
    ]


def test_chroma_is_missed_only_by_who_asked_for_it(tmp_path: Path) -> None:
    out, err = blocked(CHROMA, tmp_path, "chromadb")
    assert out == [
        "chromadb is not installed; in the MemOS checkout, run: pip install -c constraints.txt -e '.[chroma]'",
        "the heron",
        "the heron",
    ]
    assert sum("searched exactly" in line for line in err) == 1


def test_an_unknown_name_is_an_attribute_error() -> None:
    import memos_core

    with pytest.raises(AttributeError, match="Nonsense"):
        memos_core.Nonsense  # noqa: B018
    assert set(dir(memos_core)) >= {"MemOS", "MemCube", "Scope"}
    for name in memos_core.__all__:
        assert getattr(memos_core, name) is not None
