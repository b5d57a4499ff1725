"""Every notebook in recipes/ runs top to bottom, in a folder of its own, without output of an error."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PRINTS = {
    "one_memory_under_every_framework": ["Biscuit", "peanuts"],
    "the_same_answers_sooner": ["the same answer", "image/png", "4 began with stored KV"],
}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.ipynb"))


def test_there_are_recipes() -> None:
    assert [path.stem for path in RECIPES] == sorted(PRINTS)


@pytest.mark.model
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_runs_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit recipes without outputs"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(
        o.get("text", "") + str(o.get("data", "")) for c in notebook.cells for o in c.get("outputs", [])
    )
    for words in PRINTS[path.stem]:
        assert words in printed
