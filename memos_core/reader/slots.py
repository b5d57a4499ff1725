"""What a statement is about, where only one answer holds at a time: a newer answer ends an older one.

Rules for English, made to be right rather than complete: a sentence that says two things, or whose answer may stand
beside another ("my sister is called Ada"), has no slot, and nothing is ended by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel

from memos_core.cube import Fact, Preference, Slot
from memos_core.cube.content import normal_text
from memos_core.errors import InvalidArgument
from memos_core.reader.attributes import attribute
from memos_core.reader.life import life
from memos_core.reader.tastes import taste
from memos_core.reader.wording import plain

_LONGEST_KEY = 200
_SPEAKER = re.compile(r"\b(?:i|my|we|me)\b")
# A second claim in the same sentence: ending one would end the other.
_SECOND_CLAIM = re.compile(
    r"(?<=.)(?<!since )\b(?:i|we)\b"
    r"|\b(?:and|but|while|although|though|whereas|or|yet|so)\b,? (?:my|our|she|he|it|they|you|that|there|also|then"
    r"|still|not|no|never|have|had|am|was|do|did|work|live|love|hate|like|moved|joined|got)\b"
)


def slot_of(structure: BaseModel | None, text: str) -> Slot | None:
    """The slot of a statement, or None if it has none. Of two statements with the same key at most one holds (see
    `memos_core.cube.contradiction.contradicts`).

    A structure of your own has the slot it declares: `memos_slot: ClassVar[tuple[str, ...]] = ("person",)` names the
    fields that say what it is about; the other fields are the answer. With `()` there is one answer per structure.

    Args:
        structure: the typed data of the statement: a `Fact`, a `Preference`, None for a plain text, or one of your
            own; others have no slot.
        text: the statement.

    Raises:
        InvalidArgument: `memos_slot` does not name fields of its class.
    """
    if structure is not None and hasattr(type(structure), "memos_slot"):
        return _declared(structure)
    if not isinstance(structure, Fact | Preference | None):
        return None
    said = plain(text)
    polarity = structure.polarity if isinstance(structure, Preference) else None
    if not said or (polarity is None and not _SPEAKER.search(said)):
        return None
    found = life(said) or attribute(said) or taste(said, polarity)
    return found if found and not _SECOND_CLAIM.search(said) else None


def slot_fields(cls: type[BaseModel]) -> tuple[str, ...] | None:
    """The fields that `cls` names in `memos_slot`; None if it declares no slot.

    Raises:
        InvalidArgument: it is no tuple of names of its fields.
    """
    declared = getattr(cls, "memos_slot", None)
    if declared is None:
        return None
    known = isinstance(declared, tuple | list) and all(name in cls.model_fields for name in declared)
    if not known:
        raise InvalidArgument(
            f"memos_slot of {cls.__name__} must be a tuple of its field names ({', '.join(cls.model_fields)}), "
            f"got {declared!r}"
        )
    return tuple(declared)


def _declared(structure: BaseModel) -> Slot | None:
    cls = type(structure)
    fields = slot_fields(cls)
    if fields is None:
        return None
    data = {name: _plain_data(value) for name, value in structure.model_dump(mode="json").items()}
    about = [data.pop(name, None) for name in fields]
    if fields and all(part in (None, "") for part in about):
        return None  # it is about nothing known
    return Slot(key=_key(cls.__name__, about), value=_dump(data))


def _key(name: str, about: Sequence[Any]) -> str:
    key = f"{name}:{_dump(about)}"
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{name[:100]}:{blake2b(key.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


def _plain_data(data: Any) -> Any:
    if isinstance(data, str):
        return normal_text(data)
    if isinstance(data, dict):
        return {key: _plain_data(value) for key, value in data.items()}
    return [_plain_data(value) for value in data] if isinstance(data, list) else data


def _dump(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
