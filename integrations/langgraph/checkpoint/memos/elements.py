"""Lists of messages, fast: a message that was serialized or read before is not serialized or read again.

What is remembered never leaves: a message that is handed out is always a copy, which shares nothing that can change.
What is remembered of a message on its way in is found by its content, not by the object, so that a message that was
changed in place is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ormsgpack
from langchain_core import messages as lc
from langgraph.checkpoint.serde.base import SerializerProtocol
from pydantic import BaseModel

from langgraph.checkpoint.memos.serde import StrictSerializer
from memos_core.vault.chunking import LARGE, Cutter, Element, Entry, Made, Ref
from memos_core.vault.chunkstore import Rope

_MESSAGES = frozenset(
    {
        lc.HumanMessage,
        lc.AIMessage,
        lc.SystemMessage,
        lc.ToolMessage,
        lc.FunctionMessage,
        lc.ChatMessage,
        lc.HumanMessageChunk,
        lc.AIMessageChunk,
        lc.SystemMessageChunk,
        lc.ToolMessageChunk,
        lc.FunctionMessageChunk,
        lc.ChatMessageChunk,
    }
)
_SCALARS = frozenset({str, int, float, bool, type(None)})
# Everything that is not exactly a plain value raises: then nothing is remembered.
_PLAIN = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_REPLACE_SURROGATES
)
_LIMIT = 8 << 20  # bytes, of each half of a memory


class _NotPlain(Exception):
    """A message holds more than plain data."""


class _Memory(dict[Any, Any]):
    """What was used lately: two halves, the older of which is forgotten when the younger is full."""

    def __init__(self) -> None:
        super().__init__()
        self._old: dict[Any, Any] = {}
        self._size = 0

    def __missing__(self, key: Any) -> Any:
        found = self._old.get(key)
        if found is not None:
            self.keep(key, found[0], found[1])
        return found

    def keep(self, key: Any, value: Any, size: int) -> None:
        """Remember `value`, which is about `size` bytes."""
        self._size += size
        if self._size > _LIMIT:
            self._old, self._size = dict(self), size
            self.clear()
        self[key] = (value, size)


class Known:
    """A message that was read: `make` gives a new one each time, `data` is what it is stored as.

    Raises:
        Exception: what the serializer raises.
    """

    __slots__ = ("data", "make")

    make: Callable[[], Any]

    def __init__(self, data: bytes, serde: SerializerProtocol) -> None:
        self.data = data
        read = partial(serde.loads_typed, ("msgpack", data))
        first = [read()]

        def make() -> Any:
            try:
                return first.pop()  # only once, whoever comes first
            except IndexError:
                message = read()
            try:
                self.make = _copies(message)
            except _NotPlain:
                self.make = read
            return self.make()

        self.make = make


class Pins:
    """What one call has read, so that it is not forgotten while it is needed: messages, and nodes of nothing else."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.found: dict[Ref, Known | list[Known]] = {}

    def skip(self, ref: Ref) -> bool:
        """Whether a blob need not be read."""
        if ref in self.found:
            return True
        kept = self._memory[ref]
        if kept is None:
            return False
        self.found[ref] = kept[0]
        return True

    def data(self, ref: Ref) -> bytes | None:
        """The bytes of a blob that was skipped."""
        found = self.found.get(ref)
        if found is None:
            return None
        return found.data if isinstance(found, Known) else b"".join([known.data for known in found])


class Elements:
    """Dumps and loads lists of messages for one serializer.

    Args:
        cutter: cuts what is dumped.
    """

    def __init__(self, serde: SerializerProtocol, cutter: Cutter) -> None:
        self._serde = serde
        self._cutter = cutter
        self._dumped, self._read = _Memory(), _Memory()
        self.fast = type(serde) is StrictSerializer

    def pins(self) -> Pins:
        """For one call."""
        return Pins(self._read)

    # -- dump ----------------------------------------------------------------------------------------------

    def dump(self, value: Any) -> Made | None:
        """A list of messages, cut; None for anything else. It may raise what the serializer raises."""
        if not self.fast or type(value) is not list or not value:
            return None
        elements: list[Element] = []
        dumped, pack = self._dumped, ormsgpack.packb
        key: tuple[type, bytes] | None
        for message in value:
            kind = type(message)
            if kind not in _MESSAGES:
                return None
            try:
                key = (kind, pack((message.__dict__, message.__pydantic_extra__), option=_PLAIN))
                kept = dumped[key]
            except (ormsgpack.MsgpackEncodeError, RecursionError):
                key = kept = None
            if kept is None:
                element = self._new_element(key, message)
                if element is None:
                    return None
                elements.append(element)
            else:
                elements.append(kept[0])
        return self._cutter.array(elements)

    def _new_element(self, key: tuple[type, bytes] | None, message: Any) -> Element | None:
        _, data = self._serde.dumps_typed(message)
        if len(data) < LARGE:
            return None
        element = self._cutter.element(bytes(data))
        if key is not None:
            self._dumped.keep(key, element, 400 + len(key[1]) + 2 * len(data))
        return element

    # -- load ----------------------------------------------------------------------------------------------

    def load(self, rope: Rope, pins: Pins) -> Any:
        """A stored value. What it raises is the serializer's, or `VaultError`."""
        if self.fast and rope.kind == "msgpack" and (found := self._messages(rope, pins)) is not None:
            return found
        return self._serde.loads_typed((rope.kind, rope.bytes(pins.data)))

    def _messages(self, rope: Rope, pins: Pins) -> list[Any] | None:
        """A list of messages; None if it is something else."""
        entries: Sequence[Entry] = rope.entries
        if len(entries) == 1 and type(entries[0]) is Ref:
            if entries[0] in pins.found:
                return None
            below = rope.part(entries[0])
            if not isinstance(below, list):
                return None
            entries = below
        if not entries or type(entries[0]) is Ref:
            return None
        size = _array_size(entries[0])
        if size is None:
            return None
        flat = self._flat(rope, entries[1:], pins)
        if flat is None or len(flat) != size:
            return None
        return [known.make() for known in flat]

    def _flat(self, rope: Rope, entries: Sequence[Entry], pins: Pins) -> list[Known] | None:
        flat: list[Known] = []
        found = pins.found
        for entry in entries:
            if type(entry) is not Ref:
                return None
            known = found.get(entry)
            if known is None:
                known = self._known(rope, entry, pins)
                if known is None:
                    return None
                found[entry] = known
            if type(known) is list:
                flat += known
            else:
                flat.append(known)  # type: ignore[arg-type]
        return flat

    def _known(self, rope: Rope, ref: Ref, pins: Pins) -> Known | list[Known] | None:
        """A message, or the messages of a node; None for anything else."""
        held = rope.part(ref)
        first = held[0] if isinstance(held, list) else held
        if type(first) is Ref:
            assert isinstance(held, list)
            return self._flat(rope, held, pins)
        if not _typed(first):
            return None
        data = Rope("msgpack", [ref], rope.blobs, rope.what).bytes()
        if not _typed(data, len(data)):
            return None
        known = Known(data, self._serde)
        self._read.keep(ref, known, 1000 + 2 * len(data))
        return known


def _array_size(head: bytes) -> int | None:
    """How many elements an array has, if `head` is its beginning and nothing else."""
    first = head[0]
    if 0x90 <= first < 0xA0 and len(head) == 1:
        return first & 15
    if (first, len(head)) in ((0xDC, 3), (0xDD, 5)):
        return int.from_bytes(head[1:], "big")
    return None


def _typed(data: bytes, size: int | None = None) -> bool:
    """Whether bytes begin with a typed item; with `size`, whether it is so long."""
    first = data[0]
    if not 0xC7 <= first <= 0xC9:
        return False
    n = 1 << (first - 0xC7)
    return size is None or int.from_bytes(data[1 : 1 + n], "big") + n + 2 == size


# -- copies ----------------------------------------------------------------------------------------------------

_set = object.__setattr__


def _copies(message: Any) -> Callable[[], Any]:
    """What makes copies of a message that is not used otherwise.

    Raises:
        _NotPlain: it is no message of LangChain's own, or holds more than plain data.
    """
    kind = type(message)
    if kind not in _MESSAGES or message.__pydantic_private__ is not None:
        raise _NotPlain
    state: dict[str, Any] = message.__dict__
    changing = [(name, copy) for name, value in state.items() if (copy := _copier(value)) is not None]
    fields: set[str] = message.__pydantic_fields_set__
    extra = _copier(message.__pydantic_extra__)
    new = BaseModel.__new__

    def make() -> Any:
        made = new(kind)
        own = state.copy()
        for name, copy in changing:
            own[name] = copy()
        _set(made, "__dict__", own)
        _set(made, "__pydantic_fields_set__", fields.copy())
        _set(made, "__pydantic_extra__", None if extra is None else extra())
        _set(made, "__pydantic_private__", None)
        return made

    return make


def _copier(value: Any) -> Callable[[], Any] | None:
    """What makes copies of plain data; None if it cannot change."""
    kind = type(value)
    if kind in _SCALARS:
        return None
    if kind is list:
        return _copy_list(value) if value else list
    if kind is dict:
        return _copy_dict(value) if value else dict
    raise _NotPlain


def _copy_list(value: list[Any]) -> Callable[[], Any]:
    inner = [(i, copy) for i, item in enumerate(value) if (copy := _copier(item)) is not None]
    return partial(_changed, value, inner) if inner else value.copy


def _copy_dict(value: dict[Any, Any]) -> Callable[[], Any]:
    if any(type(key) not in _SCALARS for key in value):
        raise _NotPlain
    inner = [(key, copy) for key, item in value.items() if (copy := _copier(item)) is not None]
    return partial(_changed, value, inner) if inner else value.copy


def _changed(value: Any, inner: Sequence[tuple[Any, Callable[[], Any]]]) -> Any:
    made = value.copy()
    for key, copy in inner:
        made[key] = copy()
    return made
