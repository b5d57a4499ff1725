"""MemOS: the one object everything else holds. A view of a vault for one principal in one scope."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from pydantic import BaseModel

from memos_core.cube import (
    Activation,
    Descriptive,
    Governance,
    Header,
    MemCube,
    Namespace,
    Origin,
    Plaintext,
    Principal,
    Scope,
    Source,
    StructureRegistry,
    dump_json,
    now,
    text_of,
)
from memos_core.errors import AccessDenied, InvalidArgument, NotFound
from memos_core.governance import effective_scope
from memos_core.prompt import ChatMessage, compose
from memos_core.reader import MEMORIES, MESSAGES, Extractor, MemReader, extract_statements, structure_text
from memos_core.retrieval import Hit, IndexKind, Retriever, resolve
from memos_core.scheduler import MemScheduler
from memos_core.vault import Actor, AuditRecord, CubeFilter, Order, Vault

if TYPE_CHECKING:
    from memos_core.activation import ActivationEngine

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

ENV_VAULT = "MEMOS_VAULT"
DEFAULT_VAULT = ".memos/vault"
# What a search or a prompt is not about unless asked: the verbatim conversation, and records of KV caches.
NOT_MEMORIES = ("message", "kv")


def _async(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """The async twin of a method: the same code, in a worker thread."""

    @wraps(method)
    async def twin(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    twin.__doc__ = f"Async form of `{method.__name__}`."
    return twin


@dataclass(frozen=True)
class Prompt:
    """What to send to a model, and what of it is memory."""

    messages: list[ChatMessage]
    resident: tuple[MemCube, ...]
    recalled: tuple[Hit, ...]


class _Core:
    """What all views of one open vault share."""

    def __init__(self, vault: Vault, retriever: Retriever, reader: MemReader, model: Any) -> None:
        self.vault = vault
        self.retriever = retriever
        self.reader = reader
        self.scheduler = MemScheduler(vault, retriever)
        self.model = model
        self.engine: ActivationEngine | None = None
        self.lock = threading.Lock()
        self.closed = False

    @property
    def kv_dir(self) -> Path | None:
        home = self.vault.location.home
        return home / "kv" if home else None

    def load_engine(self) -> ActivationEngine:
        with self.lock:
            if self.engine is None:
                if self.model is None:
                    raise InvalidArgument("this MemOS has no model; pass model= to MemOS.open, e.g. model='smollm2-135m'")
                from memos_core.activation import ActivationEngine, LoadedModel

                if isinstance(self.model, ActivationEngine):
                    self.engine = self.model
                elif isinstance(self.model, LoadedModel):
                    self.engine = ActivationEngine(self.model, kv_dir=self.kv_dir)
                else:
                    self.engine = ActivationEngine.open(self.model, kv_dir=self.kv_dir)
                self.scheduler.attach(self.engine)
            return self.engine


class MemOS:
    """Memory for one principal in one scope. Open it once, make narrower views with `scoped`.

    A view is cheap, immutable and safe from many threads. All views of one `open` share the vault, its
    indexes, the scheduler and the model. Methods with an `a` in front are their async forms.

    Use `MemOS.open`; the constructor is for views.
    """

    def __init__(self, core: _Core, scope: Scope, principal: Principal, adapter: str) -> None:
        self._core = core
        self._scope = effective_scope(principal, scope)
        self._principal = principal
        self._actor = Actor(principal.label, adapter)

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str] | None = None,
        *,
        tenant: str = "default",
        user: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        principal: Principal | None = None,
        model: Any = None,
        embedder: Any = "auto",
        index: IndexKind = "auto",
        extractor: Extractor | None = None,
        structures: Iterable[type[BaseModel]] = (),
    ) -> Self:
        """Open a vault, making it where it does not exist.

        Args:
            url: a folder, a `.db` file, `sqlite:///PATH` or `:memory:`; None takes the environment variable
                `MEMOS_VAULT`, else `.memos/vault` in the current folder.
            tenant, user, agent, session: the scope of this view; a part left out matches all.
            principal: who acts; None is the operator, that is, the application itself.
            model: for KV memory: a name ("smollm2-135m", a folder, a hub id), a `LoadedModel` or an
                `ActivationEngine`. Loaded at first use.
            embedder: "auto", None, a model name, an object with `embed_documents`, or a function.
            index: "auto", "chroma" or "exact"; see `memos_core.retrieval.Retriever`.
            extractor: from a user's message to typed structures; None takes rules for first-person statements.
            structures: pydantic models whose instances can be a cube's data; see `register`.

        Raises:
            InvalidArgument: an argument cannot be used. VaultError, VaultNewer: the vault cannot be opened.
            AccessDenied: the principal may not act in this scope.
        """
        scope = _scope(tenant=tenant, user=user, agent=agent, session=session)
        registry = StructureRegistry()
        for structure in structures:
            registry.register(structure)
        resolved = resolve(embedder)
        vault = Vault(url if url is not None else os.environ.get(ENV_VAULT, DEFAULT_VAULT), registry)
        try:
            retriever = Retriever(vault, resolved, index=index)
            core = _Core(vault, retriever, MemReader(registry, extractor or extract_statements), model)
            return cls(core, scope, principal or Principal(tenant=tenant), "memos")
        except BaseException:
            vault.close()
            raise

    def scoped(
        self, *, user: str | None = None, agent: str | None = None, session: str | None = None, adapter: str | None = None
    ) -> Self:
        """A narrower view of the same vault.

        Args:
            user, agent, session: parts to fix. A part that is fixed already cannot become another.
            adapter: the name that the audit log uses for writes through this view.

        Raises:
            AccessDenied: the part is fixed to another value: a scope can be narrowed, never widened or moved.
        """
        try:
            scope = self._scope.narrow(user=user, agent=agent, session=session)
        except InvalidArgument as err:
            raise AccessDenied(str(err)) from None
        except ValueError as err:
            raise InvalidArgument(_scope_error(err)) from None
        return type(self)(self._core, scope, self._principal, adapter or self._actor.adapter)

    # -- what it holds -------------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """The scope of this view."""
        return self._scope

    @property
    def vault(self) -> Vault:
        """The database, for adapters that store what is not a cube (LangGraph's checkpoints)."""
        return self._core.vault

    @property
    def scheduler(self) -> MemScheduler:
        """The scheduler that all views share."""
        return self._core.scheduler

    @property
    def has_model(self) -> bool:
        """Whether `engine` can be had."""
        return self._core.model is not None

    @property
    def engine(self) -> ActivationEngine:
        """The activation engine over the model; loads the model at first use.

        Raises:
            InvalidArgument: opened without `model=`. MissingExtra, ModelError: it cannot be loaded.
        """
        return self._core.load_engine()

    def register(self, structure: type[BaseModel], *, name: str | None = None, version: int = 1) -> None:
        """Make a pydantic model known, so that cubes can hold instances of it and give them back typed.

        Raises:
            InvalidArgument: see `StructureRegistry.register`.
        """
        self._core.vault.structures.register(structure, name=name, version=version)

    def close(self) -> None:
        """Stop the scheduler and close the vault, for all views. Safe to call twice."""
        core = self._core
        if core.closed:
            return
        core.closed = True
        core.scheduler.stop()
        core.retriever.close()
        core.vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- write ---------------------------------------------------------------------------------------------

    def cube(
        self,
        content: Any,
        *,
        text: str | None = None,
        namespace: Namespace = (MEMORIES,),
        key: str = "",
        semantic_type: str | None = None,
        tags: Sequence[str] = (),
        origin: Origin = "user",
        ttl: timedelta | None = None,
        priority: int = 0,
        sensitivity: Sequence[str] = (),
        spoken_at: datetime | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        derived_from: Sequence[MemCube] = (),
    ) -> MemCube:
        """Make a plaintext cube in this scope, without storing it; `put` stores it.

        Args:
            content: a text, a JSON value, or an instance of a registered structure.
            text: what is searched; defaults to the content's own text (see `memos_core.cube.text_of`).
            namespace, key: its address, unique for the user; without a key the cube's id is its key.
            semantic_type: "fact", "preference", …; defaults to the structure's name, else "fact".
            tags, origin, priority, sensitivity: see `Header`.
            ttl: how long it lives. spoken_at, valid_from, valid_to: see `Plaintext`.
            derived_from: cubes it was made from.

        Raises:
            InvalidArgument: content that is no JSON, an unregistered structure, an empty text, a ttl of 0 or less.
        """
        if ttl is not None and ttl <= timedelta(0):
            raise InvalidArgument(f"ttl must be positive, got {ttl}")
        structure, version, data = None, None, None
        if isinstance(content, BaseModel):
            structure, version = self._core.vault.structures.name_of(type(content))
            data, found = content, structure_text(content)
        elif isinstance(content, str):
            found = content
        else:
            dump_json(content, "content")
            data, found = content, text_of(content)
        searchable = found if text is None else text
        if isinstance(content, str) and not searchable.strip():
            raise InvalidArgument("content must not be empty")
        moment = now()
        return MemCube(
            scope=self._scope,
            namespace=tuple(namespace),
            key=key,
            payload=Plaintext[Any](
                text=searchable,
                data=data,
                structure=structure,
                structure_version=version,
                spoken_at=spoken_at,
                valid_from=valid_from,
                valid_to=valid_to,
            ),
            header=Header(
                descriptive=Descriptive(
                    created_at=moment,
                    updated_at=moment,
                    origin=origin,
                    semantic_type=semantic_type or (structure.lower() if structure else "fact"),
                    tags=tuple(tags),
                ),
                governance=Governance(
                    owner=self._principal.label,
                    expires_at=moment + ttl if ttl else None,
                    priority=priority,
                    sensitivity=tuple(sensitivity),
                ),
            ),
            derived_from=tuple(Source(id=c.id, version=c.version) for c in derived_from),
        )

    def put(self, cubes: Sequence[MemCube], *, expected_version: int | None = None) -> list[MemCube]:
        """Store cubes in one transaction, all or none; see `Vault.put`. When this returns, they are on the
        disk, and the next search finds them.

        Raises:
            AccessDenied: a cube's scope is outside this view's. InvalidArgument, VersionConflict, VaultError.
        """
        for cube in cubes:
            if not self._scope.contains(cube.scope):
                raise AccessDenied(f"a cube of scope {cube.scope} may not be written through a view of {self._scope}")
        stored = self._core.vault.put(cubes, self._actor, expected_version=expected_version)
        self.scheduler.wrote(self._scope, stored)
        return stored

    def write(self, content: Any, **details: Any) -> MemCube:
        """Make a cube and store it: `put([cube(content, …)])`. Takes what `cube` takes."""
        return self.put([self.cube(content, **details)])[0]

    def update(self, cube_id: str, content: Any = None, *, expected_version: int | None = None, **details: Any) -> MemCube:
        """Make the next version of a cube.

        Args:
            cube_id: which one. content: its new content; None keeps it.
            expected_version: refuse if it is not the stored one.
            details: any of `text`, `semantic_type`, `tags`, `ttl`, `priority`, `sensitivity`, `spoken_at`,
                `valid_from`, `valid_to`; what is not named stays as it is.

        Raises:
            NotFound: not in this scope. InvalidArgument: as for `cube`, or it is no plaintext cube.
        """
        old = self.read(cube_id)
        if not isinstance(old.payload, Plaintext):
            raise InvalidArgument(f"cube {cube_id} is {old.payload.kind}, only plaintext cubes are updated by content")
        d, g, p = old.header.descriptive, old.header.governance, old.payload
        kept: dict[str, Any] = {
            "semantic_type": d.semantic_type,
            "tags": d.tags,
            "priority": g.priority,
            "sensitivity": g.sensitivity,
            "spoken_at": p.spoken_at,
            "valid_from": p.valid_from,
            "valid_to": p.valid_to,
        }
        if content is None:
            content = p.text if p.data is None else p.data
            kept["text"] = p.text
        unknown = set(details) - {*kept, "text", "ttl"}
        if unknown:
            raise InvalidArgument(f"update cannot change {', '.join(sorted(unknown))}")
        fresh = self.cube(content, namespace=old.namespace, key=old.key, origin=d.origin, **{**kept, **details})
        governance = fresh.header.governance.model_copy(
            update={"owner": g.owner, **({} if details.get("ttl") else {"expires_at": g.expires_at})}
        )
        header = fresh.header.model_copy(update={"governance": governance})
        changed = fresh.model_copy(update={"scope": old.scope, "header": header, "derived_from": old.derived_from})
        return self.put([changed], expected_version=expected_version or old.version)[0]

    def delete(self, ids: str | Sequence[str]) -> list[str]:
        """Remove cubes of this scope for good: text, versions, vectors, and KV caches made from them.

        Returns:
            The ids that were removed; ids not in this scope are not among them.
        """
        wanted = [ids] if isinstance(ids, str) else list(ids)
        mine = self._core.vault.get(CubeFilter(self._scope, states=None), wanted)
        return self._forget(self._core.vault.delete(mine, self._actor))

    def delete_where(self, *, namespace: Namespace = (), types: Sequence[str] | None = None) -> list[str]:
        """Remove every cube of this scope that matches; see `delete`."""
        which = CubeFilter(self._scope, namespace=tuple(namespace), types=types, states=None)
        return self._forget(self._core.vault.delete_where(which, self._actor))

    def _forget(self, gone: Sequence[MemCube]) -> list[str]:
        ids = [c.id for c in gone]
        core = self._core
        core.retriever.forget(ids)
        if core.engine is not None:
            core.engine.store.drop(cube_ids=ids)
        for payload in (c.payload for c in gone):
            if isinstance(payload, Activation) and core.kv_dir is not None:
                (core.kv_dir / payload.model[:16] / f"{payload.key}.safetensors").unlink(missing_ok=True)
        core.scheduler.forgot(self._scope, ids)
        return ids

    # -- read ----------------------------------------------------------------------------------------------

    def read(self, cube_id: str) -> MemCube:
        """One cube by its id.

        Raises:
            NotFound: there is none in this scope.
        """
        found = self._core.vault.get(CubeFilter(self._scope, states=None), [cube_id])
        if not found:
            raise NotFound(f"cube {cube_id!r} does not exist in {self._scope}")
        self.scheduler.read(self._scope, list(found))
        return found[cube_id]

    def at(self, namespace: Namespace, key: str) -> MemCube | None:
        """The cube at an address, or None."""
        which = CubeFilter(self._scope, namespace=tuple(namespace), exact_namespace=True, keys=[key], states=None)
        found = self._core.vault.find(which, limit=1)
        self.scheduler.read(self._scope, [c.id for c in found])
        return found[0] if found else None

    def find(
        self,
        *,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        order: Order = "created",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[MemCube]:
        """Cubes of this scope, live ones, without a query.

        Args:
            namespace: at or below this prefix. types, not_types: semantic types. kinds: payload kinds.
            order: "created", "-created" (newest first) or "-updated".
        """
        which = CubeFilter(self._scope, namespace=tuple(namespace), types=types, not_types=not_types, kinds=kinds)
        return self._core.vault.find(which, order=order, limit=limit, offset=offset)

    def namespaces(self, prefix: Namespace = ()) -> list[Namespace]:
        """The namespaces in use at or below a prefix, sorted."""
        return self._core.vault.namespaces(CubeFilter(self._scope, namespace=tuple(prefix)))

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = NOT_MEMORIES,
        min_similarity: float | None = None,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """The cubes of this scope nearest to a question, by meaning and by words, best first.

        Args:
            query: the question. k: how many at most. namespace: at or below this prefix.
            types, not_types: semantic types; messages are left out unless `types` names them.
            min_similarity: see `Retriever.search`. accept: an extra condition.
        """
        skipped = () if types is not None else not_types
        which = CubeFilter(self._scope, namespace=tuple(namespace), types=types, not_types=skipped, kinds=["plaintext"])
        hits = self._core.retriever.search(query, which, k=k, min_similarity=min_similarity, accept=accept)
        self.scheduler.read(self._scope, [h.cube.id for h in hits])
        return hits

    def history(self, cube_id: str) -> list[MemCube]:
        """All versions of a cube, oldest first.

        Raises:
            NotFound: there is none in this scope.
        """
        self.read(cube_id)
        return self._core.vault.history(cube_id)

    def audit_log(self, *, cube_id: str | None = None, limit: int = 100) -> list[AuditRecord]:
        """Who did what to which cube of this scope, newest first."""
        return self._core.vault.audit_log(self._scope, cube_id=cube_id, limit=limit)

    # -- conversations -------------------------------------------------------------------------------------

    def remember(self, messages: Sequence[Any], *, extract: bool = True) -> list[MemCube]:
        """Store a finished turn: each message verbatim, and what the user stated as typed cubes, in one
        transaction. A statement this user made before, word for word, is not stored twice.

        Args:
            messages: `Message`s or dicts with "role" ("user", "assistant", …), "content" and, optionally, "raw".
            extract: False stores the messages alone.

        Returns:
            The cubes stored: messages first, then statements.
        """
        episodes = self._core.reader.messages(messages, self._scope, self._principal.label)
        statements = self._new_statements(self._core.reader.statements(episodes)) if extract else []
        stored = self.put([*episodes, *statements])
        self.turn_finished()
        return stored

    def _new_statements(self, statements: list[MemCube]) -> list[MemCube]:
        if not statements:
            return []
        about = self._scope.model_copy(update={"agent": None, "session": None})
        which = CubeFilter(about, namespace=(MEMORIES,), exact_namespace=True, keys=[c.key for c in statements], states=None)
        known = {c.key for c in self._core.vault.find(which)}
        return list({c.key: c for c in statements if c.key not in known}.values())

    def conversation(self) -> list[MemCube]:
        """The messages of this scope's session, in order; of all its sessions where it has none."""
        return self.find(namespace=(MESSAGES,), types=["message"])

    def recall(self, query: str, *, k: int = 5) -> list[Hit]:
        """The user's memories for a question: `search` across the user's sessions, for a prompt."""
        if not query.strip():
            return []
        about = self._scope.model_copy(update={"session": None})
        return type(self)(self._core, about, self._principal, self._actor.adapter).search(query, k=k)

    def prompt(self, messages: Sequence[ChatMessage], *, k: int = 2) -> Prompt:
        """Lay out a prompt with memory in it, stable parts first: the session's resident memory behind the
        system text, and `k` memories recalled for the last user message in front of its question.

        Args:
            messages: `{"role", "content"}` dicts, oldest first, with or without a system message.
        """
        resident = self.scheduler.resident(self._scope)
        last = messages[-1] if messages else {}
        recalled = self.recall(last["content"], k=k) if last.get("role") == "user" and k else []
        return Prompt(compose(messages, resident, [h.cube for h in recalled]), tuple(resident), tuple(recalled))

    def turn_finished(self, *, system: str | None = None) -> None:
        """Tell the scheduler that a turn of this scope is over, so that it prepares the next one.

        Args:
            system: the system text the agent uses, where known: prompts begin with it.
        """
        self.scheduler.turn(self._scope, system)

    awrite = _async(write)
    aput = _async(put)
    aupdate = _async(update)
    adelete = _async(delete)
    aread = _async(read)
    aat = _async(at)
    afind = _async(find)
    asearch = _async(search)
    aremember = _async(remember)
    aconversation = _async(conversation)
    arecall = _async(recall)
    aprompt = _async(prompt)


def _scope(**parts: str | None) -> Scope:
    try:
        return Scope.model_validate(parts)
    except ValueError as err:
        raise InvalidArgument(_scope_error(err)) from None


def _scope_error(err: ValueError) -> str:
    errors: Any = err.errors() if hasattr(err, "errors") else [{"loc": ("scope",), "msg": str(err)}]
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors)
