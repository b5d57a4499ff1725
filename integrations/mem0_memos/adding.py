"""From messages to memories: word for word, as statements, or as what an agent did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from mem0_memos import record
from mem0_memos.inference import find_memories, write_procedure
from mem0_memos.messages import Turn
from mem0_memos.models import Ask, configured_llm
from mem0_memos.statements import Alike, add_statements, same_text, same_words
from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS
from memos_core.reader import Extractor

PROCEDURAL = "procedural_memory"
_KNOWN = 10  # memories that the language model is told of


@dataclass(frozen=True)
class Adding:
    """What `add` does with messages. All methods take the view that the ids name, the fields of each new memory, and
    when it was said, and return the events of `add`.

    Args:
        llm: finds what is worth remembering; None: `extract` does. instructions: for the llm.
    """

    llm: Ask | None
    extract: Extractor
    instructions: str | None

    @staticmethod
    def verbatim(
        view: MemOS, said: Sequence[Turn], extra: record.Payload, moment: datetime
    ) -> list[dict[str, Any]]:
        """Keep every message but the system's, in one transaction."""
        cubes, said = [], [turn for turn in said if turn.role != "system"]
        for turn in said:
            who = {"role": turn.role, **({"actor_id": turn.name} if turn.name else {})}
            cubes.append(
                view.cube(
                    {**extra, **who, record.TEXT: turn.text},
                    text=turn.text,
                    spoken_at=moment,
                    valid_to=record.end_of(extra.get("expiration_date")),
                )
            )
        return [
            {"id": c.id, "memory": c.text, "event": "ADD", "actor_id": turn.name, "role": turn.role}
            for c, turn in zip(view.put(cubes), said, strict=True)
        ]

    def procedure(
        self,
        view: MemOS,
        said: Sequence[dict[str, Any]],
        extra: record.Payload,
        moment: datetime,
        prompt: str | None,
        llm: Any = None,
    ) -> list[dict[str, Any]]:
        """Have the language model write down how an agent did its task.

        Args:
            said: from `for_model`. llm: another model than this one's, see `Memory`.
        """
        ask = self.llm if llm is None else configured_llm(llm)
        if ask is None:
            raise InvalidArgument(
                "memory_type: a procedural memory is written by a language model; pass llm="
            )
        text = write_procedure(ask, said, prompt)
        content = {**extra, "memory_type": PROCEDURAL, record.TEXT: text}
        until = record.end_of(extra.get("expiration_date"))
        cube = view.write(content, text=text, origin="extraction", spoken_at=moment, valid_to=until)
        return [{"id": cube.id, "memory": text, "event": "ADD"}]

    def statements(
        self,
        view: MemOS,
        said: Sequence[Turn],
        extra: record.Payload,
        moment: datetime,
        prompt: str | None,
        *,
        dated: bool,
    ) -> list[dict[str, Any]]:
        """Keep what is worth remembering and not known yet, in one transaction."""
        found, alike = self._inferred(view, said, moment, prompt)
        stored = add_statements(view, [(s, {**extra, **who}) for s, who in found], alike, moment, dated=dated)
        return [{"id": c.id, "memory": c.text, "event": "ADD"} for c in stored]

    def _inferred(
        self, view: MemOS, said: Sequence[Turn], moment: datetime, prompt: str | None
    ) -> tuple[list[tuple[BaseModel, record.Payload]], Alike]:
        """What is worth remembering of messages, with the fields that say who said it, and which of it is known."""
        if self.llm is not None and said:
            known = view.search(
                "\n".join(turn.text for turn in said), k=_KNOWN, shared=False, accept=_unexpired
            )
            found = find_memories(
                self.llm,
                said,
                [hit.cube.text for hit in known],
                at=moment,
                instructions=prompt or self.instructions,
                of_agent=view.scope.user is None and view.scope.agent is not None,
            )
            if found is not None:
                return [
                    (
                        record.statement_of(f.text),
                        {"attributed_to": f.attributed_to} if f.attributed_to else {},
                    )
                    for f in found
                ], same_text
        # Without a model, and where its reply is of no use: nothing that a user plainly stated is lost.
        return [(s, {}) for turn in said if turn.role == "user" for s in self.extract(turn.text)], same_words


def _unexpired(cube: MemCube) -> bool:
    return not record.is_expired(record.payload_of(cube))
