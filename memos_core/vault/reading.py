"""Rows to cubes, and the latest of them once more without taking the row apart again."""

from __future__ import annotations

from typing import Any

from memos_core.cube import Behaviour, Descriptive, Governance, Header, MemCube, Plaintext, StructureRegistry
from memos_core.vault.rows import behaviour_of, from_row, trusted

_MAX_KEPT = 2_000
_MAX_LENGTH = 8_000  # characters of text and data


class CubeReader:
    """Makes cubes of rows. A row that is what it was before gives an equal cube, which shares with the one before
    nothing that can be changed. Safe from many threads.

    Args:
        structures: how stored data becomes typed data. Typed data is made anew each time.
    """

    def __init__(self, structures: StructureRegistry) -> None:
        self._structures = structures
        self._kept: dict[str, tuple[tuple[Any, ...], MemCube]] = {}

    def cube(self, row: Any) -> MemCube:
        """The cube of a row of all columns of `cubes` and then `BEHAVIOUR`.

        Raises:
            CubeDamaged: the row is not what was written.
        """
        columns = tuple(row[:-3])
        kept = self._kept.get(row.id)
        if kept is not None and kept[0] == columns:
            return _copied(kept[1], behaviour_of(row))
        cube = from_row(row, self._structures)
        payload = cube.payload
        if isinstance(payload, Plaintext) and (
            payload.structure is None and len(row.text) + len(row.payload) <= _MAX_LENGTH
        ):
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[row.id] = (columns, _copied(cube, cube.header.behaviour))
        return cube

    def forget(self) -> None:
        """Drop what is kept: something was deleted."""
        self._kept.clear()


def _copied(cube: MemCube, behaviour: Behaviour) -> MemCube:
    header, payload = cube.header, cube.payload
    if isinstance(payload, Plaintext) and isinstance(payload.data, dict | list):
        payload = trusted(Plaintext[Any], **{**payload.__dict__, "data": _plain(payload.data)})
    parts = {
        **cube.__dict__,
        "payload": payload,
        "header": trusted(
            Header,
            descriptive=trusted(Descriptive, **header.descriptive.__dict__),
            governance=trusted(Governance, **header.governance.__dict__),
            behaviour=behaviour,
        ),
    }
    return trusted(MemCube, **parts)


def _plain(data: Any) -> Any:
    """A copy of JSON data."""
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list) else data
