"""MemOS: the one object everything else holds. A view of a vault for one principal in one scope."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ValidationError

from memos_core import arguments
from memos_core.conversations import Conversations
from memos_core.core import Core
from memos_core.cube import (
    ANY_USER,
    MemCube,
    Principal,
    Scope,
    StructureRegistry,
    validation_message,
)
from memos_core.cube import NOT_MEMORIES as NOT_MEMORIES
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.governance import DecayPolicy, DuplicatePolicy, LifecyclePolicy
from memos_core.governed import Governed
from memos_core.items import Items
from memos_core.memory import Memory
from memos_core.prompt import ChatMessage, asked, check_messages, compose
from memos_core.reader import Extractor, MemReader, extract_statements, slot_fields
from memos_core.retrieval import Embedder, Hit, IndexKind, Retriever, SentenceTransformerEmbedder, resolve
from memos_core.twins import in_thread
from memos_core.vault import Vault
from memos_core.vault.sealing import seal_for
from memos_core.versions import Versions

if TYPE_CHECKING:
    from memos_core.activation import ActivationEngine
    from memos_core.core import Engine

ENV_VAULT = "MEMOS_VAULT"
DEFAULT_VAULT = ".memos/vault"


@dataclass(frozen=True)
class Prompt:
    """What to send to a model, and what of it is memory."""

    messages: list[ChatMessage]
    resident: tuple[MemCube, ...]
    recalled: tuple[Hit, ...]

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """The cubes whose text is in the prompt, as (id, version)."""
        return tuple((c.id, c.version) for c in (*self.resident, *(hit.cube for hit in self.recalled)))


class MemOS(Conversations, Items, Versions, Governed):
    """Memory for one principal in one scope. Open it once, make narrower views with `scoped`.

    A view is cheap, immutable and safe from many threads. All views of one `open` share the vault, its
    indexes, the scheduler and the model. Methods with an `a` in front are their async forms.

    Use `MemOS.open`; the constructor is for views.
    """

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
        duplicates: DuplicatePolicy | None = None,
        lifecycle: LifecyclePolicy | Literal["default"] | None = "default",
        audit_reads: bool = False,
        encryption: bytes | bool = False,
    ) -> Self:
        """Open a vault, making it where it does not exist.

        Args:
            url: a folder, a `.db` file, `sqlite:///PATH`, `:memory:` or `postgresql://USER@HOST/DATABASE`; None
                takes the environment variable `MEMOS_VAULT`, else `.memos/vault` in the current folder.
            tenant, user, agent, session: the scope of this view. Agent and session left out match all;
                without a user it is the memory that belongs to no user; user="*" reads every user's.
            principal: who acts; None is the operator, that is, the application itself.
            model: for KV memory: a name ("smollm2-135m", a folder, a hub id), a `LoadedModel` or an
                `ActivationEngine`; for a server with KV of its own, its URL ("http://localhost:8000/v1") or a
                `ServedEngine`. Loaded at first use.
            embedder: "auto", None, a model name, an object with `embed_documents`, or a function.
            index: "auto", "chroma", "exact" or the URL of a Chroma server; see `memos_core.retrieval.Retriever`.
            extractor: from a user's message to typed structures; None takes rules (first person).
            structures: pydantic models whose instances can be a cube's data; see `register`.
            duplicates: what happens to what is known already; None keeps it, see `DuplicatePolicy`.
            lifecycle: when cubes are activated, archived and expired; the default is `DecayPolicy()`. None: only
                their ttl moves them.
            audit_reads: whether the audit log also says who read what; each read is then a write.
            encryption: of the KV files: a key of 16, 24 or 32 bytes; True takes that of `LANGGRAPH_AES_KEY`. For a
                `model` that is an `ActivationEngine`, give it to the engine.

        Raises:
            InvalidArgument: an argument cannot be used. VaultError, VaultNewer: the vault cannot be opened.
            AccessDenied: the principal may not act in this scope.
        """
        scope = _scope(tenant=tenant, user=user, agent=agent, session=session)
        if url is not None and not isinstance(url, os.PathLike):
            arguments.text(url, "url")
        policy = _check_open(principal, extractor, structures, duplicates, lifecycle)
        seal_for(encryption)
        registry = StructureRegistry()
        for structure in structures:
            _register(registry, structure)
        resolved = resolve(embedder)
        vault = Vault(url if url is not None else os.environ.get(ENV_VAULT, DEFAULT_VAULT), registry)
        try:
            retriever = Retriever(vault, resolved, index=index)
            core = Core(
                vault,
                retriever,
                MemReader(registry, extractor or extract_statements),
                model,
                duplicates=duplicates,
                lifecycle=policy,
                audit_reads=audit_reads,
                encryption=encryption,
            )
            return cls(core, scope, principal or Principal(tenant=tenant), "memos")
        except BaseException:
            vault.close()
            raise

    def scoped(
        self,
        *,
        user: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        adapter: str | None = None,
        clearance: Iterable[str] | None = None,
    ) -> Self:
        """A narrower view of the same vault.

        Args:
            user, agent, session: parts to fix. A part that is fixed already cannot become another.
            adapter: the name that the audit log uses for writes through this view.
            clearance: the sensitivity labels that may be read through it, of those that this view may read; None:
                the same.

        Raises:
            AccessDenied: the part is fixed to another value: a scope can be narrowed, never widened or moved.
        """
        for argument, value in (("user", user), ("agent", agent), ("session", session), ("adapter", adapter)):
            if value is not None:
                arguments.name(value, argument)
        if user == ANY_USER and self._scope.user != ANY_USER:
            raise AccessDenied(
                "user='*' is every user, which nobody is; the operator's view of them all is all_users()"
            )
        try:
            scope = self._scope.narrow(user=user, agent=agent, session=session)
        except InvalidArgument as err:
            raise AccessDenied(str(err)) from None
        except ValidationError as err:
            raise InvalidArgument(validation_message(err)) from None
        who = self._principal
        if clearance is not None:
            who = who.cleared_for(arguments.names(clearance, "clearance"))
        return type(self)(self._core, scope, who, adapter or self._actor.adapter)

    def all_users(self) -> Self:
        """The operator's view of every user's memory in this tenant, for reading. `scoped` never gives it, so that
        a user name that comes from a request cannot.

        Raises:
            AccessDenied: this view is fixed to a user, or the principal is one.
        """
        if self._scope.user not in (None, ANY_USER):
            raise AccessDenied(f"this view is fixed to user {self._scope.user!r}")
        scope = self._scope.model_copy(update={"user": ANY_USER})
        return type(self)(self._core, scope, self._principal, self._actor.adapter)

    # -- what it holds -------------------------------------------------------------------------------------

    @property
    def url(self) -> str | None:
        """What opens this vault again, also in another process; None for a vault in memory."""
        return self._core.vault.location.url

    @property
    def embedder(self) -> str:
        """What `MemOS.open(embedder=…)` takes in another process to search as here: a model's name, or "none"
        where there is no embedder or it is an object that only this process has."""
        used = self._core.retriever.embedder
        return (
            used.name.removeprefix("sentence-transformers/")
            if isinstance(used, SentenceTransformerEmbedder)
            else "none"
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called, on this view or another."""
        return self._core.closed

    @property
    def vault(self) -> Vault:
        """The database, for adapters that store what is not a cube (LangGraph's checkpoints)."""
        return self._core.vault

    @property
    def has_model(self) -> bool:
        """Whether `engine` can be had."""
        return self._core.model is not None

    @property
    def has_embedder(self) -> bool:
        """Whether search compares meanings. Without an embedder it finds by words only."""
        return self._core.retriever.embedder is not None

    @property
    def embedding(self) -> Embedder:
        """The embedder by which search compares meanings.

        Raises:
            InvalidArgument: opened without one.
        """
        used = self._core.retriever.embedder
        if used is None:
            raise InvalidArgument(
                "this MemOS has no embedder; pass embedder= to MemOS.open, e.g. embedder='all-minilm-l6-v2'"
            )
        return used

    @property
    def model_name(self) -> str | None:
        """The model's name, as it was given to `open`; None without a model."""
        model = self._core.model
        return model if model is None or isinstance(model, str) else str(model.name)

    @property
    def engine(self) -> ActivationEngine:
        """The activation engine over the model; loads the model at first use.

        Raises:
            InvalidArgument: opened without `model=`, or with a server's URL. MissingExtra, ModelError: it cannot be
                loaded.
        """
        from memos_core.activation import ServedEngine

        engine = self._core.load_engine()
        if isinstance(engine, ServedEngine):
            raise InvalidArgument(f"{engine!r} keeps its KV itself; use `generator` to generate with it")
        return engine

    @property
    def generator(self) -> Engine:
        """What replies are generated with: `engine`, or a `ServedEngine`; loaded at first use.

        Raises:
            InvalidArgument: opened without `model=`. MissingExtra, ModelError: it cannot be loaded.
        """
        return self._core.load_engine()

    @property
    def loaded_engine(self) -> Engine | None:
        """What `generator` is, if it is loaded."""
        return self._core.engine

    def register(self, structure: type[BaseModel], *, name: str | None = None, version: int = 1) -> None:
        """Make a pydantic model known, so that cubes can hold instances of it and give them back typed.

        Raises:
            InvalidArgument: see `StructureRegistry.register`.
        """
        _register(self._core.vault.structures, structure, name=name, version=version)

    def close(self) -> None:
        """Stop the scheduler and close the vault, for all views. Safe to call twice."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- prompts -------------------------------------------------------------------------------------------

    def recall(self, query: str, *, k: int = 5, accept: Callable[[MemCube], bool] | None = None) -> list[Hit]:
        """The user's memories for a question: `search` across the user's sessions, for a prompt. Without a user, what
        is this session's own and what belongs to no session (see `Scope.home`).

        Args:
            accept: an extra condition, e.g. `memos_core.prompt.unsaid` of the conversation the prompt shows.
        """
        if not isinstance(query, str):
            raise InvalidArgument(f"query must be a text, got {query!r:.80}")
        if not query.strip():
            return []
        view = type(self)(self._core, self._scope.home, self._principal, self._actor.adapter)
        view._sessionless = self._scope.user is None
        return view.search(query, k=k, accept=accept)

    def prompt(self, messages: Sequence[ChatMessage], *, k: int = 2, room_for: int = 0) -> Prompt:
        """Lay out a prompt with memory in it, stable parts first: the session's resident memory behind the
        system text, and `k` memories recalled for the last user message in front of its question; they stay there
        while tools are called for it.

        Args:
            messages: `{"role", "content"}` dicts, oldest first, with or without a system message.
            k: how many memories to recall.
            room_for: tokens to leave for the reply. Where the model is loaded and the prompt would not leave them,
                recalled memories are left out from the last on, then the resident ones; never a message.

        Raises:
            InvalidArgument: a message without a role, or a system message or question that is no text.
        """
        arguments.count(k, "k")
        arguments.count(room_for, "room_for")
        check_messages(messages)
        resident = self.scheduler.resident(self._scope, self._principal.clearance)
        at = asked(messages)
        recalled = self.recall(messages[at]["content"], k=k) if at is not None and k else []
        while True:
            laid_out = compose(messages, resident, [h.cube for h in recalled])
            if not (recalled or resident) or self._fits(laid_out, room_for):
                return Prompt(laid_out, tuple(resident), tuple(recalled))
            if recalled:
                recalled = recalled[:-1]
            else:
                resident = []

    def _fits(self, messages: Sequence[ChatMessage], room_for: int) -> bool:
        engine = self._core.engine
        if engine is None:
            return True
        # Tokens are at least a byte each: short prompts need no counting.
        said = sum(len(m["content"].encode()) for m in messages if isinstance(m["content"], str))
        if said + room_for < engine.context_length // 2:
            return True
        return engine.prompt_length(messages) + room_for <= engine.context_length

    amerge = in_thread(Versions.merge)
    adiff = in_thread(Versions.diff)
    aarchive = in_thread(Governed.archive)
    aactivate = in_thread(Governed.activate)
    afreeze = in_thread(Governed.freeze)
    aunfreeze = in_thread(Governed.unfreeze)
    agrants = in_thread(Governed.grants)
    aaudit_log = in_thread(Governed.audit_log)
    abackup = in_thread(Governed.backup)
    adoctor = in_thread(Governed.doctor)
    ahistory = in_thread(Versions.history)
    arollback = in_thread(Versions.rollback)
    agrant = in_thread(Governed.grant)
    arevoke = in_thread(Governed.revoke)
    awrite = in_thread(Memory.write)
    aput = in_thread(Memory.put)
    aupdate = in_thread(Memory.update)
    adelete = in_thread(Memory.delete)
    aread = in_thread(Memory.read)
    aat = in_thread(Memory.at)
    afind = in_thread(Memory.find)
    asearch = in_thread(Memory.search)
    aerase = in_thread(Governed.erase)
    aremember = in_thread(Conversations.remember)
    aconversation = in_thread(Conversations.conversation)
    ainsert = in_thread(Conversations.insert)
    areplace_messages = in_thread(Conversations.replace_messages)
    arecall = in_thread(recall)
    aprompt = in_thread(prompt)


def _register(registry: StructureRegistry, structure: type[BaseModel], **how: Any) -> None:
    if isinstance(structure, type) and issubclass(structure, BaseModel):
        slot_fields(structure)  # refuses a declaration that no cube could have
    registry.register(structure, **how)


def _check_open(
    principal: Any, extractor: Any, structures: Any, duplicates: Any, lifecycle: Any
) -> LifecyclePolicy | None:
    """Refuse what is of the wrong kind, before anything is opened; returns the policy that is meant."""
    if principal is not None and not isinstance(principal, Principal):
        raise InvalidArgument(f"principal must be a Principal, got {principal!r:.80}")
    if extractor is not None and not callable(extractor):
        raise InvalidArgument(
            f"extractor must be a function from a text to structures, got {extractor!r:.80}"
        )
    if isinstance(structures, str | type) or not isinstance(structures, Iterable):
        raise InvalidArgument(f"structures must be a list of pydantic models, got {structures!r:.80}")
    if duplicates is not None and not isinstance(duplicates, DuplicatePolicy):
        raise InvalidArgument(f"duplicates must be a DuplicatePolicy, got {duplicates!r:.80}")
    if isinstance(lifecycle, str) and lifecycle == "default":
        return DecayPolicy()
    if lifecycle is not None and not callable(getattr(lifecycle, "next_state", None)):
        raise InvalidArgument(f"lifecycle must be an object with next_state, or None, got {lifecycle!r:.80}")
    policy: LifecyclePolicy | None = lifecycle
    return policy


def _scope(**parts: str | None) -> Scope:
    for argument, value in parts.items():
        if value is not None or argument == "tenant":
            arguments.name(value, argument)
    try:
        return Scope.model_validate(parts)
    except ValidationError as err:
        raise InvalidArgument(validation_message(err)) from None


def given(memos: Any) -> MemOS:
    """What an adapter was given as `memos`.

    Raises:
        InvalidArgument: it is no MemOS.
    """
    if not isinstance(memos, MemOS):
        raise InvalidArgument(
            f"memos must be an open MemOS, got {type(memos).__name__}; pass memos=MemOS.open(...)"
        )
    return memos
