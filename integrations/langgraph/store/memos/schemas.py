"""Typed namespaces: which pydantic model the values of a namespace must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from memos_core.cube import dump_json, validation_message
from memos_core.errors import InvalidArgument, SchemaError
from memos_core.memos import MemOS

Pattern = tuple[str, ...]


class Schemas:
    """The models of a store, by namespace.

    Args:
        memos: where the models are registered, so that its cubes have the typed objects.
        schemas: a pattern of a whole namespace ("*" is any one label) and its model; of two that match the first
            one counts.

    Raises:
        InvalidArgument: a pattern is no tuple of labels, a model no pydantic model, or both its short and its full name
            are taken by others.
    """

    def __init__(self, memos: MemOS, schemas: Mapping[Pattern, type[BaseModel]] | None) -> None:
        self._models = dict(schemas or {})
        for pattern, model in self._models.items():
            labels = isinstance(pattern, tuple) and pattern and all(isinstance(x, str) and x for x in pattern)
            if not labels:
                raise InvalidArgument(
                    f'schemas: each namespace must be a tuple like ("users", "*", "preferences"), got {pattern!r}'
                )
            _register(memos, model)

    def typed(self, namespace: Pattern, value: dict[str, Any], name: str) -> BaseModel | None:
        """A value as an instance of its namespace's model; None where there is none.

        Args:
            name: how an error calls the value.

        Raises:
            SchemaError: it does not validate, or has a field that the model would drop. Names the field.
        """
        model = next((m for pattern, m in self._models.items() if _matches(pattern, namespace)), None)
        if model is None:
            return None
        try:
            # From JSON text: strict models take a date or a tuple only in its JSON form.
            return model.model_validate_json(
                dump_json(value),
                by_alias=True,
                by_name=True,
                extra=None if model.model_config.get("extra") == "allow" else "forbid",
            )
        except ValidationError as err:
            raise SchemaError(f"{name} is not a valid {model.__name__}: {validation_message(err)}") from None


def _register(memos: MemOS, model: type[BaseModel]) -> None:
    try:
        memos.register(model)
    except InvalidArgument:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise
        # Its short name is another's: MemOS has a Preference itself.
        memos.register(model, name=f"{model.__module__}.{model.__qualname__}")


def _matches(pattern: Pattern, namespace: Pattern) -> bool:
    return len(pattern) == len(namespace) and all(
        wanted in ("*", label) for wanted, label in zip(pattern, namespace, strict=True)
    )
