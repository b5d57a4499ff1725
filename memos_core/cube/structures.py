"""Typed structures: pydantic models that a cube's data may be an instance of, stored with their version."""

from __future__ import annotations

from collections.abc import Iterable
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
            raise InvalidArgument(f"structure {name!r} is already registered as {known[0]!r}; pass another name= or a higher version=")
        self._by_name[name] = (cls, version)

    def name_of(self, cls: type[BaseModel]) -> tuple[str, int]:
        """The name and version `cls` is registered under.

        Raises:
            InvalidArgument: it is not registered.
        """
        for name, (known, version) in self._by_name.items():
            if known is cls:
                return name, version
        raise InvalidArgument(f"structure {cls.__name__} is not registered; call memos.register({cls.__name__}) first")

    def validate(self, cls: type[BaseModel], data: Any) -> BaseModel:
        """`data` as an instance of `cls`.

        Raises:
            SchemaError: it does not validate; the message names the fields.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as err:
            raise SchemaError(f"data is not a valid {cls.__name__}: {_fields(err.errors())}") from None

    def load(self, name: str | None, version: int | None, data: Any) -> Any:
        """Stored JSON as its typed form; an unknown or newer structure stays plain data."""
        known = self._by_name.get(name) if name else None
        if known is None or (version or 1) > known[1]:
            return data
        try:
            return known[0].model_validate(data)
        except ValidationError:
            return data  # written under an older shape that no longer validates: readable as plain data


def _fields(errors: Iterable[Any]) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in errors)
