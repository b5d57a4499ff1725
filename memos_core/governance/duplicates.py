"""What to do when a new cube says what is stored already, and how the contents of several become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from memos_core.cube import MemCube, Plaintext
from memos_core.cube.content import normal_text
from memos_core.errors import InvalidArgument

Action = Literal["keep", "link", "merge", "reject"]


@dataclass(frozen=True)
class DuplicatePolicy:
    """What happens at a write to a cube of the same scope that says the same.

    The actions: "keep" stores both; "link" stores both, the new one naming the old one as its source (and erased
    with it); "merge" makes one cube of both; "reject" stores nothing and answers with the old one.

    A cube is compared with what can stand for it: of the same scope and namespace, holding now, living as long. One
    that is written to an address (a key) is never compared. What others were granted is never merged into.

    Args:
        exact: for equal content (see `content_hash`).
        near: for a text whose embedding has at least `similarity`.
        similarity: cosine, above 0 and at most 1.
        skip_types: semantic types that are never compared: what is said twice in a conversation was said twice.

    Raises:
        InvalidArgument: an unknown action, or a similarity outside its range.
    """

    exact: Action = "keep"
    near: Action = "keep"
    similarity: float = 0.92
    skip_types: frozenset[str] = frozenset({"message", "item", "kv"})

    def __post_init__(self) -> None:
        for name in ("exact", "near"):
            value = getattr(self, name)
            if value not in get_args(Action):
                raise InvalidArgument(f"{name} must be one of {', '.join(get_args(Action))}, got {value!r}")
        value = self.similarity
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InvalidArgument(f"similarity must be a number above 0 and at most 1, got {value!r}")
        if isinstance(self.skip_types, str):
            raise InvalidArgument(f"skip_types must be a set of strings, got {self.skip_types!r}")
        object.__setattr__(self, "skip_types", frozenset(self.skip_types))

    @property
    def looks(self) -> bool:
        """Whether a write has to look for duplicates at all."""
        return (self.exact, self.near) != ("keep", "keep")

    def covers(self, cube: MemCube) -> bool:
        """Whether this cube is compared with others: plaintext that says something, of a type not skipped."""
        return (
            isinstance(cube.payload, Plaintext)
            and cube.semantic_type not in self.skip_types
            and bool(cube.text.strip() or cube.data is not None)
        )


def merge_text(texts: Sequence[str]) -> str:
    """One text of several: a line each, in the order given (oldest first, so that the last word comes last).

    A text that another one contains, word for word, is left out; of texts that differ only in case and spacing
    the last stays.

    Args:
        texts: of the cubes to merge, oldest first.
    """
    said = [text.strip() for text in texts]
    plain = [f" {_words(text)} " for text in said]
    kept = [
        text
        for i, text in enumerate(said)
        if plain[i].strip()
        and not any(
            plain[i] in other and (plain[i] != other or j > i) for j, other in enumerate(plain) if j != i
        )
    ]
    return "\n".join(kept)


def merge_data(cubes: Sequence[MemCube], text: str) -> Any:
    """The data of the merged cube: JSON objects or instances of one structure joined field by field, the newest
    value of a field winning; a field that repeats its cube's text gets the merged text. None where the cubes
    hold data of different kinds, or none: the text says it all, and the sources keep theirs.

    Args:
        cubes: plaintext, oldest first. text: the merged text.
    """
    # A plain text beside typed ones has nothing to add to their fields but its text.
    found = [cube for cube in cubes if cube.data is not None]
    if not found:
        return None
    kinds = {type(cube.data) for cube in found}
    newest = found[-1].data
    if len(kinds) > 1:
        return None
    if not isinstance(newest, dict | BaseModel):
        same = all(cube.data == newest for cube in found)
        return newest if same else None
    merged: dict[str, Any] = {}
    for cube in found:
        for name, value in cube.json_data.items():
            if value is not None or name not in merged:
                merged[name] = text if _repeats(value, cube) else value
    if isinstance(newest, dict):
        return merged
    try:
        return type(newest).model_validate(merged)
    except ValidationError:
        return None  # fields of several make no valid whole


def merge_content(cubes: Sequence[MemCube]) -> tuple[str, Any]:
    """The text and data of one cube that says what all of these say; see `merge_text` and `merge_data`.

    Args:
        cubes: plaintext; taken in order of what was said first.

    Raises:
        InvalidArgument: none, or one that is no plaintext.
    """
    if not cubes:
        raise InvalidArgument("ids must name at least one cube to merge")
    for cube in cubes:
        if not isinstance(cube.payload, Plaintext):
            raise InvalidArgument(f"ids: cube {cube.id} is {cube.payload.kind}, only plaintext is merged")
    ordered = sorted(cubes, key=lambda c: (said_at(c), c.id))
    text = merge_text([cube.text for cube in ordered])
    return text, merge_data(ordered, text)


def said_at(cube: MemCube) -> datetime:
    """When a plaintext cube was said: `spoken_at`, else when it was last written."""
    spoken = cube.payload.spoken_at if isinstance(cube.payload, Plaintext) else None
    return spoken or cube.header.descriptive.updated_at


def _repeats(value: Any, cube: MemCube) -> bool:
    return isinstance(value, str) and bool(value.strip()) and normal_text(value) == normal_text(cube.text)


def _words(text: str) -> str:
    """For containment: without the punctuation at the end, which the containing text may not have there."""
    return normal_text(text).rstrip(".!… ")
