"""What a cube says, apart from who said it, where and when: the hash that finds exact duplicates."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any
from unicodedata import normalize

from pydantic import BaseModel

from memos_core.cube.cube import MemCube
from memos_core.cube.payload import Activation, Parametric, Plaintext
from memos_core.errors import InvalidArgument


def normal_text(text: str) -> str:
    """A text without what makes no difference: case, spacing, and how Unicode composes its letters."""
    if text.isascii():
        return " ".join(text.lower().split())
    return normalize("NFC", " ".join(normalize("NFC", text).casefold().split()))


def content_hash(cube: MemCube) -> str:
    """128 bits, in hex, that two cubes share if they say the same.

    For plaintext: the text (see `normal_text`), and what the data says beyond it with the name of its structure.
    For the other kinds: which model it belongs to and which tensors it names. Id, version, scope, address, header,
    validity and the structure's schema version are no content. The value is stored: it must stay what it is.

    Raises:
        InvalidArgument: the data has no JSON form.
    """
    payload = cube.payload
    said: list[Any]
    match payload:
        case Activation():
            said = [payload.kind, payload.model, payload.tokenizer, payload.key]
        case Parametric():
            said = [payload.kind, payload.base_model, payload.format, list(payload.modules), payload.blob]
        case Plaintext():
            text = normal_text(payload.text)
            said = [payload.kind, text]
            if adds_to_text(cube):
                said += [payload.structure, _without_text(_stored_data(cube), text)]
    return blake2b(_canonical(said).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def adds_to_text(cube: MemCube) -> bool:
    """Whether the data of a plaintext cube says more than its text: a `Fact` does not, a `Preference` does."""
    data = _stored_data(cube)
    if isinstance(data, dict) and len(data) == 1:
        [data] = data.values()
    if isinstance(data, str):
        return normal_text(data) != normal_text(cube.text)
    return data is not None


def _stored_data(cube: MemCube) -> Any:
    """The data as it is stored, so that a vault that does not know the structure comes to the same hash."""
    data = cube.data
    return data.model_dump(mode="json", round_trip=True) if isinstance(data, BaseModel) else data


def _without_text(data: Any, text: str) -> Any:
    """The data with every string that only repeats the text in the text's normal form."""
    if isinstance(data, dict):
        return {normalize("NFC", k): _without_text(v, text) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_without_text(v, text) for v in data]
    if isinstance(data, str):
        return text if normal_text(data) == text else normalize("NFC", data)
    return data


def _canonical(data: Any) -> str:
    try:
        return _encode(data)
    except (TypeError, ValueError, RecursionError) as err:
        raise InvalidArgument(f"data must be JSON: {err}") from None


_encode = json.JSONEncoder(allow_nan=False, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
