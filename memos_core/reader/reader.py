"""MemReader: turns messages into cubes (MemOS paper, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel

from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    MemCube,
    Message,
    Plaintext,
    Scope,
    Source,
    StructureRegistry,
    now,
    text_of,
)
from memos_core.errors import InvalidArgument
from memos_core.reader.slots import slot_of
from memos_core.reader.statements import extract_statements

Extractor = Callable[[str], Sequence[BaseModel]]

MESSAGES = "messages"
MEMORIES = "memories"


class MemReader:
    """Makes one cube per message, verbatim, and one typed cube per statement found in what the user said.

    Args:
        structures: knows the types the extractor returns.
        extractor: from the text of a user's message to typed structures; each must have a text field
            (see `memos_core.cube.text_of`).
    """

    def __init__(self, structures: StructureRegistry, extractor: Extractor = extract_statements) -> None:
        self._structures = structures
        self._extract = extractor

    def messages(
        self,
        messages: Sequence[Message | dict[str, Any]],
        scope: Scope,
        owner: str,
        *,
        at: datetime | None = None,
        namespace: str = MESSAGES,
    ) -> list[MemCube]:
        """Episodes: one cube per message, in the namespace ("messages", session), or another than "messages".

        Raises:
            InvalidArgument: a message has no role or content.
        """
        if isinstance(messages, str | bytes | dict) or not isinstance(messages, Sequence):
            raise InvalidArgument(f"messages must be a list of messages, got {messages!r:.80}")
        path = (namespace, scope.session) if scope.session else (namespace,)
        moment = at or now()
        return [self._message(m, i, scope, owner, path, moment) for i, m in enumerate(messages)]

    def statements(self, episodes: Sequence[MemCube]) -> list[MemCube]:
        """Typed cubes for what users said in these message cubes, with the message as their source."""
        found = []
        for episode in episodes:
            message = episode.data
            if isinstance(message, Message) and message.role in ("user", "human"):
                found += [self._statement(s, episode) for s in self._extract(message.content)]
        return found

    def _message(
        self,
        message: Message | dict[str, Any],
        index: int,
        scope: Scope,
        owner: str,
        namespace: tuple[str, ...],
        at: datetime,
    ) -> MemCube:
        if not isinstance(message, Message):
            if (
                not isinstance(message, dict)
                or not isinstance(message.get("content"), str)
                or not isinstance(message.get("role"), str)
            ):
                raise InvalidArgument(
                    f"messages[{index}] must be a Message or a dict with the strings 'role' and 'content', "
                    f"got {message!r:.80}"
                )
            message = Message(role=message["role"], content=message["content"], raw=message.get("raw"))
        return MemCube(
            scope=scope,
            namespace=namespace,
            payload=Plaintext(
                text=message.content, data=message, structure="Message", structure_version=1, spoken_at=at
            ),
            header=Header(
                descriptive=Descriptive(semantic_type="message", origin="user", created_at=at, updated_at=at),
                governance=Governance(owner=owner),
            ),
        )

    def _statement(self, structure: BaseModel, episode: MemCube) -> MemCube:
        name, version = self._structures.name_of(type(structure))
        said = episode.header.descriptive.created_at
        return MemCube(
            scope=episode.scope,
            namespace=(MEMORIES,),
            key=statement_key(structure_text(structure), _keeper(episode.scope)),
            payload=Plaintext(
                text=structure_text(structure),
                data=structure,
                structure=name,
                structure_version=version,
                spoken_at=said,
                valid_from=said,
                slot=slot_of(structure, structure_text(structure)),
            ),
            header=Header(
                descriptive=Descriptive(
                    semantic_type=name.lower(), origin="extraction", source_messages=(episode.id,)
                ),
                governance=episode.header.governance,
            ),
            derived_from=(Source(id=episode.id, version=episode.version),),
        )


def _keeper(scope: Scope) -> str | None:
    """Who keeps statements of their own within the user, or within nobody."""
    session = scope.home.session
    return scope.agent if session is None else f"{scope.agent or ''}\x1f{session}"


def statement_key(text: str, keeper: str | None = None) -> str:
    """The key of a statement: the same words, whatever their case and spacing, have the same key. Each agent
    keeps its own: one does not see what another was told. So does each session of no user.

    Args:
        keeper: the agent, or agent and session.
    """
    words = " ".join(text.casefold().split()) + (f"\x1f{keeper}" if keeper else "")
    return blake2b(words.encode(errors="replace"), digest_size=16).hexdigest()


def addresses(key: str, first: int, count: int) -> list[str]:
    """Keys at which a statement may lie: its own, and others behind memories that said it once and were corrected.

    Args:
        key: from `statement_key`. first, count: from which one on, the own being 0, and how many.
    """
    return [f"{key}-{n}" if n else key for n in range(first, first + count)]


def structure_text(structure: BaseModel) -> str:
    """The searchable text of a typed structure."""
    return text_of(structure.model_dump(mode="json"))
