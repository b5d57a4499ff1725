"""`Memory`: mem0's class over a MemOS vault."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from mem0_memos import record, times
from mem0_memos.adding import PROCEDURAL, Adding
from mem0_memos.config import open_memos
from mem0_memos.errors import MemoryNotFound, ValidationError
from mem0_memos.ids import Ids, entity_ids, ids_to_write
from mem0_memos.messages import for_model, turns
from mem0_memos.models import configured_llm
from mem0_memos.project import LocalProject
from mem0_memos.request import Request
from memos_core.cube import MemCube, now
from memos_core.errors import InvalidArgument, NotFound, VersionConflict
from memos_core.memos import NOT_MEMORIES, MemOS
from memos_core.reader import Extractor, extract_statements
from memos_core.retrieval import Hit

log = logging.getLogger("mem0_memos")

_AUDIT_LIMIT = 10_000
_KEEP: Final = object()


class Memory:
    """mem0's `Memory` over the vault that all MemOS adapters share.

    Args:
        memos: an open `MemOS`; it stays the caller's to close. Memories are read and written within its
            scope. (A mem0 configuration is taken here too, where mem0 takes it.)
        config: a mem0 configuration, as a dict or `MemoryConfig`; see `mem0_memos.config.open_options`. One
            warning names the parts that have no effect here.
        url: the vault to open, as for `MemOS.open`.
        llm: for `add(infer=True)` and procedural memories: a LangChain chat model, a function from a list of
            `{"role", "content"}` dicts to the reply's text, an object with mem0's `generate_response`, the URL of an
            OpenAI-compatible server, or mem0's `{"provider", "config"}`; None takes the configuration's.
        extractor: for `add(infer=True)` without one, from the text of a user's message to the statements worth
            keeping.
        strict: refuse the call forms before 2.0 (ids and `limit` as arguments of `search` and `get_all`).

    Raises:
        InvalidArgument: more than one of them says which vault, or one cannot be used.
        VaultError, VaultNewer: see `MemOS.open`.
    """

    def __init__(
        self,
        memos: MemOS | Any | None = None,
        config: Any = None,
        url: str | os.PathLike[str] | None = None,
        *,
        llm: Any = None,
        extractor: Extractor = extract_statements,
        strict: bool | None = None,
    ) -> None:
        asked = None if llm is None else configured_llm(llm)
        if llm is not None and asked is None:
            raise InvalidArgument(
                f"llm: provider {llm.get('provider')!r} has no OpenAI-compatible endpoint; pass a function or a "
                "LangChain chat model"
            )
        opened, self._owned, settings = open_memos(memos, config, url)
        self._memos = opened.scoped(adapter="mem0")
        self._adding = Adding(asked or settings.llm, extractor, settings.instructions)
        self._strict = settings.strict if strict is None else strict

    @classmethod
    def from_config(cls, config_dict: Mapping[str, Any]) -> Self:
        """Open from a mem0 configuration; see the class."""
        return cls(config=config_dict)

    @property
    def memos(self) -> MemOS:
        """The MemOS underneath."""
        return self._memos

    # -- write ---------------------------------------------------------------------------------------------

    def add(
        self,
        messages: Any,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: Any = None,
        expiration_date: Any = None,
        infer: bool = True,
        memory_type: str | None = None,
        prompt: str | None = None,
    ) -> dict[str, Any]:
        """Store what messages say, in one transaction, as memories of the ids given.

        Args:
            messages: a text, a message dict, or a list of them.
            user_id, agent_id, run_id: whose memory it is; at least one.
            metadata: JSON fields stored with each memory. An id in it is ignored, as in mem0.
            expiration_date: the last day (YYYY-MM-DD) on which search and get_all show it.
            infer: False keeps every message as it is. True keeps what is worth remembering, each statement once
                within the same ids: what the language model finds, in one call; without one, what the user stated
                in the first person, by rules.
            timestamp: when it was said, where that is not now: Unix seconds, a date or an ISO text. It becomes
                the memories' `created_at`.
            memory_type: "procedural_memory", with an agent_id: the language model writes down how the agent did
                its task.
            prompt: for the language model: what else to look for, or how to write a procedural memory.

        Returns:
            `{"results": [{"id", "memory", "event": "ADD", …}]}`, one entry a new memory.

        Raises:
            ValidationError: no id, unusable messages or memory_type.
            InvalidArgument: another argument cannot be used. LLMError: the language model cannot be asked; nothing
                was stored.
        """
        return self._add(
            messages,
            user_id=user_id,
            agent_id=agent_id,
            run_id=run_id,
            metadata=metadata,
            timestamp=timestamp,
            expiration_date=expiration_date,
            infer=infer,
            memory_type=memory_type,
            prompt=prompt,
        )

    def _add(
        self,
        messages: Any,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: Any = None,
        expiration_date: Any = None,
        infer: bool = True,
        memory_type: str | None = None,
        prompt: str | None = None,
        llm: Any = None,
    ) -> dict[str, Any]:
        """`add`, as `AsyncMemory` has it. `llm` writes a procedural memory, in the place of this memory's own model: a
        LangChain chat model, as mem0's takes it, or what `Memory` takes."""
        moment = now() if timestamp is None else times.moment(timestamp, "timestamp")
        until = record.expiration(expiration_date)
        ids = ids_to_write(user_id, agent_id, run_id)
        if memory_type is not None and memory_type != PROCEDURAL:
            raise ValidationError(
                f"Invalid 'memory_type'. Please pass {PROCEDURAL} to create procedural memories.",
                "VALIDATION_002",
                {"provided_type": memory_type, "valid_type": PROCEDURAL},
                f"Use '{PROCEDURAL}' to create procedural memories.",
            )
        extra = _metadata(metadata, "add()")
        if until is not None:
            extra["expiration_date"] = until
        view = self._view(ids)
        said = turns(messages)
        if memory_type is not None and "agent_id" in ids:
            results = self._adding.procedure(view, for_model(messages), extra, moment, prompt, llm)
        elif infer:
            dated = timestamp is not None
            results = self._adding.statements(view, said, extra, moment, prompt, dated=dated)
        else:
            results = self._adding.verbatim(view, said, extra, moment)
        view.turn_finished()
        return {"results": results}

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        expiration_date: Any = _KEEP,
        data: str | None = None,
    ) -> dict[str, str]:
        """Change a memory. Each change is made on the newest version, so that concurrent ones are all kept.

        Args:
            memory_id: which one. text: what it shall say (data: the same, before 2.0).
            metadata: fields to add or replace; the ids and the time of creation stay as they are.
            expiration_date: as for `add`; None removes it.

        Raises:
            InvalidArgument: nothing to change. MemoryNotFound (a ValueError): there is no such memory.
        """
        text = data if text is None else text
        if text is None and metadata is None and expiration_date is _KEEP:
            raise InvalidArgument("At least one of text, metadata, or expiration_date must be provided.")
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise InvalidArgument("text must be a non-empty string")
        fields = _metadata(metadata, "update()")
        if expiration_date is not _KEEP:
            fields["expiration_date"] = record.expiration(expiration_date)
        while True:
            view, cube = self._existing(
                memory_id, "Memory with id {} not found. Please provide a valid 'memory_id'"
            )
            said = cube.text if text is None else text
            content = record.changed_content(cube, said, fields, view.vault.structures)
            try:
                kind = record.semantic_type(content, cube)
                redated = "expiration_date" in fields
                anew = record.revalidated(cube, said, fields.get("expiration_date"), redated)
                view.update(
                    cube.id, content, text=said, semantic_type=kind, expected_version=cube.version, **anew
                )
            except VersionConflict:
                continue  # somebody wrote in between: change what is there now
            return {"message": "Memory updated successfully!"}

    def delete(self, memory_id: str) -> dict[str, str]:
        """Remove a memory for good, its text in `history` included.

        Raises:
            MemoryNotFound (a ValueError): there is no such memory.
        """
        view, cube = self._existing(memory_id, "Memory with id {} not found")
        if not view.delete(cube.id):  # somebody else did, a moment ago
            raise MemoryNotFound(f"Memory with id {memory_id} not found")
        return {"message": "Memory deleted successfully!"}

    def delete_all(
        self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> dict[str, str]:
        """Remove every memory that `get_all` would list for these ids, however many there are.

        Raises:
            InvalidArgument: no id, or one that cannot be used.
        """
        ids = entity_ids(user_id, agent_id, run_id)
        if not ids:
            raise InvalidArgument(
                "At least one filter is required to delete all memories. "
                "If you want to delete all memories, use the `reset()` method."
            )
        self._view(ids, reading=True).delete_where(not_types=NOT_MEMORIES)
        return {"message": "Memories deleted successfully!"}

    def reset(self) -> None:
        """Remove every memory in the scope of this `Memory`, of all its users, other adapters' included.
        Conversations and checkpoints stay."""
        log.warning("Resetting all memories")
        self._view({}, reading=True).delete_where(not_types=NOT_MEMORIES)

    # -- read ----------------------------------------------------------------------------------------------

    def get(self, memory_id: str) -> dict[str, Any] | None:
        """One memory, or None."""
        found = self._locate(memory_id)
        return record.item_of(found[1]) if found else None

    def get_all(
        self,
        /,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The memories that match, newest first.

        Args:
            filters: at least one of user_id, agent_id, run_id; anything else as `mem0_memos.filters` says.
            top_k: how many at most; 20 by default.
            show_expired: include those whose expiration date is past.
            kwargs: the form of 0.1 and 1.x: `user_id`, `agent_id`, `run_id`, `limit` (100 by default).

        Raises:
            InvalidArgument: no id, a filter or a number that cannot be used.
        """
        asked = Request.parse("get_all", filters, kwargs, top_k, show_expired, strict=self._strict)
        view, take = self._view(asked.ids, reading=True), asked.top_k
        if not asked.top_k:
            return {"results": []}
        while True:
            cubes = view.find(kinds=["plaintext"], not_types=NOT_MEMORIES, order="-created", limit=take)
            found = [(c, payload) for c in cubes if (payload := asked.accepted(c)) is not None]
            if len(found) >= asked.top_k or len(cubes) < take:
                return {"results": [record.listed_item(*one) for one in found[: asked.top_k]]}
            take *= 4

    def search(
        self,
        /,
        query: str,
        *,
        top_k: int | None = None,
        filters: dict[str, Any] | None = None,
        threshold: float | None = None,
        rerank: bool = False,
        explain: bool = False,
        reference_date: Any = None,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The memories nearest to a question. MemOS chooses them by meaning and by words; they come in the
        order of their `score`, the cosine to the question. Without an embedder they are found by words
        alone: then a score compares results of one search, and no threshold applies.

        Args:
            query: the question. top_k: how many at most; 20 by default.
            filters, show_expired: see `get_all`.
            threshold: the lowest score, 0 to 1; 0.1 by default.
            rerank: without effect, as in mem0 without a reranker. explain: add `score_details`.
            reference_date: ask as on this day (a date, an ISO text, Unix seconds): only what was said by then,
                held then and had not expired counts, and where the query names a time ("last week", "in May"), what
                was said in it comes first.
            kwargs: the form of 0.1 and 1.x: `user_id`, `agent_id`, `run_id`, `limit` (100 by default; that
                form has no threshold unless one is passed).

        Raises:
            InvalidArgument: no id, an empty query, a filter or a number that cannot be used.
        """
        at = (
            None
            if reference_date is None
            else times.moment(reference_date, "reference_date", end_of_day=True)
        )
        asked = Request.parse("search", filters, kwargs, top_k, show_expired, strict=self._strict, at=at)
        lowest = asked.lowest_score(threshold)
        if not isinstance(query, str):
            raise InvalidArgument("Invalid query: must be a non-empty string.")
        if not query.strip():
            raise InvalidArgument("Invalid query: cannot be empty or whitespace-only.")
        view = self._view(asked.ids, reading=True)
        known: dict[str, record.Payload] = {}
        hits = self._hits(view, query.strip(), asked, lowest, known) if asked.top_k else []
        period = times.period(query, at.date()) if at is not None else None
        if period is not None and asked.top_k:
            within = self._hits(view, query.strip(), asked, lowest, known, period)
            first = {hit.cube.id for _, hit in within}
            hits = [*within, *(found for found in hits if found[1].cube.id not in first)][: asked.top_k]
        return {
            "results": [
                record.found_item(hit, known[hit.cube.id], score, lowest if explain else None)
                for score, hit in hits
            ]
        }

    @staticmethod
    def _hits(
        view: MemOS,
        query: str,
        asked: Request,
        lowest: float,
        known: dict[str, record.Payload],
        period: times.Period | None = None,
    ) -> list[tuple[float, Hit]]:
        """What is found, by its score; the fields of it are noted in `known`, by its id."""
        by_meaning, k = view.has_embedder, asked.top_k

        def accept(cube: MemCube) -> bool:
            said_then = period is None or period.holds(record.said_at(cube))
            shown = said_then and not (asked.show_expired and record.is_over(cube, asked.at))
            payload = asked.accepted(cube) if shown else None
            if payload is not None:
                known[cube.id] = payload
            return payload is not None

        while True:
            hits = view.search(
                query,
                k=k,
                min_similarity=lowest or None,
                accept=accept,
                shared=False,
                valid_at=None if asked.show_expired else asked.at or "now",
            )
            scored = [(min(1.0, max(0.0, h.similarity or 0.0)) if by_meaning else h.score, h) for h in hits]
            kept = [(score, hit) for score, hit in scored if score >= lowest or not by_meaning]
            if len(kept) >= asked.top_k or len(hits) < k:
                return sorted(kept[: asked.top_k], key=lambda pair: -pair[0])
            k *= 4

    def history(self, memory_id: str) -> list[dict[str, Any]]:
        """What happened to a memory, oldest first; [] if there never was one. Of a deleted memory the events
        remain, without their texts: what is deleted is gone."""
        found = self._locate(memory_id)
        if found is not None:
            view, cube = found
            return record.history_of(view.history(cube.id))
        records = self._view({}, reading=True).audit_log(cube_id=memory_id, limit=_AUDIT_LIMIT)
        return record.history_of_deleted(records[::-1])

    def chat(self, query: str) -> Any:
        """Not there, as in mem0.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Chat function not implemented yet.")

    @property
    def project(self) -> LocalProject:
        """What only the hosted client can change; see `LocalProject`."""
        return LocalProject()

    # -- close ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the MemOS, if this `Memory` opened it. Safe to call twice."""
        if self._owned:
            self._memos.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- scope ---------------------------------------------------------------------------------------------

    def _view(self, ids: Ids, *, reading: bool = False) -> MemOS:
        """The part of the vault that ids name. A read that names no user is about all users, as in mem0,
        where this `Memory` is the operator's; a MemOS of one user stays that user's."""
        user = ids.get("user_id")
        everyone = reading and user is None and self._memos.scope.user is None
        base = self._memos.all_users() if everyone else self._memos
        return base.scoped(user=user, agent=ids.get("agent_id"), session=ids.get("run_id"))

    def _locate(self, memory_id: str) -> tuple[MemOS, MemCube] | None:
        """A memory by its id, with the view of its owner."""
        view = self._view({}, reading=True)
        try:
            cube = view.read(str(memory_id) if isinstance(memory_id, UUID) else memory_id)
        except NotFound:
            return None
        if cube.payload.kind != "plaintext" or cube.semantic_type in NOT_MEMORIES:
            return None
        if not view.scope.contains(cube.scope):
            return None  # another user's, granted to this one: mem0 knows no such thing
        return (self._memos if cube.scope.user is None else self._memos.scoped(user=cube.scope.user)), cube

    def _existing(self, memory_id: str, message: str) -> tuple[MemOS, MemCube]:
        found = self._locate(memory_id)
        if found is None:
            raise MemoryNotFound(message.format(memory_id))
        return found


def _metadata(metadata: Mapping[str, Any] | None, call: str) -> record.Payload:
    allowed, refused = record.clean_metadata(metadata)
    for key in refused:
        log.warning("%s: ignoring metadata['%s'] - identity fields cannot be set through metadata", call, key)
    return allowed
