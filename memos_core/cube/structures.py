"""Typed structures: pydantic models that a cube's data may be an instance of, stored with their version."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from memos_core.errors import InvalidArgument, SchemaError


class Fact(BaseModel):
    """Something that is so, as it was said."""

    statement: str


class Preference(BaseModel):
    """Something the speaker likes or wants, or does not."""

    statement: str
    polarity: Literal["like", "dislike"]


class Message(BaseModel):
    """One message of a conversation, verbatim. `raw` is the framework's own JSON form of it, if any."""

    role: str
    content: str
    raw: Any = None


class StructureRegistry:
    """The structures one `MemOS` knows, by name. `Fact`, `Preference` and `Message` are always there."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[type[BaseModel], int]] = {}
        for cls in (Fact, Preference, Message):
            self.register(cls)

    def register(self, cls: type[BaseModel], *, name: str | None = None, version: int = 1) -> None:
        """Make `cls` known, under its class name unless another is given.

        Raises:
            InvalidArgument: not a pydantic model, a bad version, or the name belongs to another model.
        """
        if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
            raise InvalidArgument(f"structure must be a pydantic BaseModel class, got {cls!r}")
        if version < 1:
            raise InvalidArgument(f"version must be 1 or more, got {version}")
        name = name or cls.__name__
        known = self._by_name.get(name)
        if known and known[0] is not cls and known[1] >= version:
            raise InvalidArgument(
                f"structure {name!r} is already registered as {known[0]!r}; "
                "pass another name= or a higher version="
            )
        self._by_name[name] = (cls, version)

    def name_of(self, cls: type[BaseModel]) -> tuple[str, int]:
        """The name and version `cls` is registered under.

        Raises:
            InvalidArgument: it is not registered.
        """
        for name, (known, version) in list(self._by_name.items()):
            if known is cls:
                return name, version
        raise InvalidArgument(
            f"structure {cls.__name__} is not registered; call memos.register({cls.__name__}) first"
        )

    def validate(self, cls: type[BaseModel], data: Any) -> BaseModel:
        """`data` as an instance of `cls`.

        Raises:
            SchemaError: it does not validate; the message names the fields.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as err:
            raise SchemaError(f"data is not a valid {cls.__name__}: {validation_message(err)}") from None

    def load(self, name: str | None, version: int | None, data: Any) -> Any:
        """Stored JSON as its typed form; an unknown or newer structure stays plain data."""
        known = self._by_name.get(name) if name else None
        if known is None or (version or 1) > known[1]:
            return data
        try:
            return _from_json(known[0], data)
        except ValidationError:
            return data  # written under an older shape that no longer validates: readable as plain data


def to_json(structure: BaseModel) -> Any:
    """A structure as the JSON that `StructureRegistry.load` makes an equal one from.

    Raises:
        InvalidArgument: a field holds what JSON has no form for, or the model does not take its own JSON.
    """
    name = type(structure).__name__
    try:
        data = structure.model_dump(mode="json", round_trip=True)
        _from_json(type(structure), data)
    except ValidationError as err:
        raise InvalidArgument(f"{name} does not take its own JSON back: {validation_message(err)}") from None
    except (ValueError, RecursionError) as err:
        raise InvalidArgument(f"{name} must be JSON: {err}") from None
    # pydantic writes NaN and infinity as null.
    if not _is_finite(structure.model_dump(round_trip=True)):
        raise InvalidArgument(f"{name} must be JSON: it holds a number that is not finite")
    return data


def _from_json(cls: type[BaseModel], data: Any) -> BaseModel:
    # From JSON text: strict models take a date or a tuple only in its JSON form.
    return cls.model_validate_json(json.dumps(data), by_alias=True, by_name=True)


def _is_finite(data: Any) -> bool:
    if isinstance(data, dict):
        return all(_is_finite(v) for v in data.values())
    if isinstance(data, list | tuple | set | frozenset):
        return all(_is_finite(v) for v in data)
    return not isinstance(data, float) or math.isfinite(data)


def validation_message(err: ValidationError) -> str:
    """What pydantic complains about, as one line: `field: problem; field: problem`."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in err.errors())
