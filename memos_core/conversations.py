"""Conversations: messages word for word, in order, and what users stated in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from memos_core import arguments
from memos_core.cube import LIVE, MemCube, Message, Source, State, id_between, new_id, now
from memos_core.errors import InvalidArgument
from memos_core.memory import Matching, Memory
from memos_core.reader import MEMORIES, MESSAGES
from memos_core.reader.reader import addresses, statement_key
from memos_core.settle import ended_by, has_ended
from memos_core.vault import CubeFilter, Writer

_CORRECTED = 8  # addresses of one statement that are looked at


class Conversations(Memory):
    """The messages of one scope."""

    def remember(
        self,
        messages: Sequence[Any],
        *,
        extract: bool | Callable[[str], bool] = True,
        again: bool = True,
        namespace: str = MESSAGES,
        delete: Sequence[str] | Matching = (),
        keys: Sequence[str | None] | None = None,
    ) -> list[MemCube]:
        """Store a finished turn: each message verbatim, and what the user stated as typed cubes, in one
        transaction. A statement this user made before, word for word, is not stored twice.

        Args:
            messages: `Message`s or dicts with "role" ("user", "assistant", …), "content" and maybe "raw".
            extract: False stores the messages alone; a function says of a message's text whether to look for
                statements in it.
            again: False for messages that are moved and not said anew: a statement that was known once is not stored
                again, though it may hold no more.
            namespace: where the messages go; only those in the default one are the `conversation`.
            delete: see `put`; e.g. the messages that these replace.
            keys: by what the caller knows the messages, one each, or None: one whose key this session has already was
                remembered before, and is left out.

        Returns:
            The cubes stored: messages first, then statements.
        """
        where = arguments.name(namespace, "namespace")
        episodes = self._core.reader.messages(messages, self._scope, self._principal.label, namespace=where)
        if keys is not None:
            episodes = self._not_remembered(episodes, keys)
        heard = [e for e in episodes if (extract(e.text) if callable(extract) else extract)]
        statements = self._new_statements(self._core.reader.statements(heard), again)
        stored = self.put([*episodes, *statements], delete=delete)
        self.turn_finished()
        return stored

    def _not_remembered(self, episodes: list[MemCube], keys: Sequence[str | None]) -> list[MemCube]:
        """Those whose keys are new, at their keys. Addresses are the user's: each agent has its own."""
        if isinstance(keys, str) or not isinstance(keys, Sequence) or len(keys) != len(episodes):
            raise InvalidArgument(f"keys must be a list with one for each message, got {keys!r:.80}")
        prefix = f"{self._scope.agent}\x1f" if self._scope.agent is not None else ""
        keys = [None if key is None else prefix + arguments.name(key, "keys") for key in keys]
        named = [key for key in keys if key is not None]
        known: set[str] = set()
        if named and episodes:
            which = self._which(
                namespace=episodes[0].namespace, exact_namespace=True, keys=named, states=None
            )
            known = {cube.key for cube in self._core.vault.find(which)}
        new: list[MemCube] = []
        for episode, key in zip(episodes, keys, strict=True):
            if key is None:
                new.append(episode)
            elif key not in known:
                known.add(key)
                new.append(episode.model_copy(update={"key": key}))
        return new

    def _new_statements(self, statements: list[MemCube], again: bool) -> list[MemCube]:
        if not statements:
            return []
        about = self._scope.home.model_copy(update={"agent": None})
        which = CubeFilter(
            about,
            namespace=(MEMORIES,),
            exact_namespace=True,
            keys=[key for c in statements for key in addresses(c.key, 0, _CORRECTED)],
            states=None,
        )
        at = now()
        there = {c.key: c for c in self._core.vault.find(which)}
        new: dict[str, MemCube] = {}
        for cube in statements:
            key, known = _address(cube, there)
            if not again and cube.key in there:
                continue  # it was said before, whatever became of it
            if ended_by(cube, new.values()):  # contradicted a moment ago and said once more: the last word
                new.pop(key, None)
            # What held once and is said again holds again.
            elif known is not None and not (again and has_ended(known, at)):
                continue
            new.setdefault(key, cube.model_copy(update={"key": key}))
        return list(new.values())

    def conversation(self) -> list[MemCube]:
        """The messages of this scope's session, in order; of all its sessions where it has none."""
        return self.find(namespace=(MESSAGES,), types=["message"])

    def replace_messages(self, messages: Sequence[Any], *, states: Sequence[State] = LIVE) -> list[MemCube]:
        """Store messages in the place of the `conversation`, in one transaction: of two at the same moment, in whatever
        process, the second replaces what the first stored. What is stored anew was said before, and is no statement
        now.

        Args:
            messages: as for `remember`. states: life-cycle states of the messages that go.

        Returns:
            As `remember`.
        """
        told = {c.text for c in self.find(namespace=(MESSAGES,), types=["message"], states=states)}
        gone = Matching((MESSAGES,), ["message"], states)
        if not messages:
            return self.put([], delete=gone)
        return self.remember(messages, extract=lambda text: text not in told, delete=gone)

    def insert(self, index: int, message: Message | dict[str, Any]) -> MemCube:
        """Store a message at a position of the `conversation`, as `list.insert` does, in one transaction: the others
        stay what and where they are, whoever adds or deletes some meanwhile.

        Args:
            index: how many messages stand before it; from the end where it is negative.
            message: as for `remember`.

        Returns:
            The cube of the message.
        """
        if isinstance(index, bool) or not isinstance(index, int):
            raise InvalidArgument(f"index must be a whole number, got {index!r:.80}")
        [episode] = self._core.reader.messages([message], self._scope, self._principal.label)
        statements = self._new_statements(self._core.reader.statements([episode]), True)
        which = self._which(namespace=(MESSAGES,), types=["message"])

        def placed(writer: Writer, new: list[MemCube]) -> list[MemCube]:
            there = sorted(writer.ids(which))
            at = max(0, len(there) + index) if index < 0 else min(index, len(there))
            if at == len(there):
                return new
            # Most who insert do so behind the system message or before the last one, again and again.
            near: Literal["low", "high"] | None = (
                "high" if at == 1 else "low" if at == len(there) - 1 else None
            )
            id_ = id_between(there[at - 1] if at else None, there[at], near)
            if id_ is None:
                raise InvalidArgument(f"index: there is no place for a message before {there[at]!r:.80}")
            return _renamed(new, id_)

        stored = self._store([episode, *statements], arrange=placed)
        self.turn_finished()
        return stored[0]

    def turn_finished(self, *, system: str | None = None) -> None:
        """Tell the scheduler that a turn of this scope is over, so that it prepares the next one.

        Args:
            system: the system text the agent uses, where known: prompts begin with it.
        """
        if system is not None:
            arguments.text(system, "system")
        self.scheduler.turn(self._scope, system)


def _address(cube: MemCube, there: Mapping[str, MemCube]) -> tuple[str, MemCube | None]:
    """Where a statement belongs, and the memory there that says it."""
    for key in addresses(cube.key, 0, _CORRECTED):
        found = there.get(key)
        if found is None or statement_key(found.text) == statement_key(cube.text):
            return key, found
    return f"{cube.key}-{new_id()}", None


def _renamed(new: Sequence[MemCube], id_: str) -> list[MemCube]:
    """A message that is not stored yet under another id, and what was stated in it."""
    message, *statements = new
    renamed = [message.model_copy(update={"id": id_})]
    for one in statements:
        about = one.header.descriptive.model_copy(update={"source_messages": (id_,)})
        header = one.header.model_copy(update={"descriptive": about})
        renamed.append(
            one.model_copy(update={"header": header, "derived_from": (Source(id=id_, version=1),)})
        )
    return renamed
