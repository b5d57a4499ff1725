"""MemCube: the unit of memory. Pure data, no I/O (MemOS paper, section 4.3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal

from pydantic import BaseModel, ConfigDict, Field

from memos_core.cube.ids import new_id
from memos_core.cube.lifecycle import State
from memos_core.cube.payload import Activation, Parametric, Plaintext, T
from memos_core.cube.scope import Scope

Origin = Literal["user", "extraction", "tool", "import", "distilled"]
Namespace = tuple[str, ...]

# The semantic types that a search or a prompt is not about unless asked: the verbatim conversation, records of KV
# caches, and a model's replies that are kept to be given again.
NOT_MEMORIES = ("message", "kv", "cache")


def now() -> datetime:
    """The current moment, aware, in UTC."""
    return datetime.now(UTC)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Descriptive(_Part):
    """What it is: when it came, where from, which kind of meaning (paper: descriptive identifiers)."""

    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)
    origin: Origin = "user"
    semantic_type: str = "fact"
    tags: tuple[str, ...] = ()
    source_messages: tuple[str, ...] = ()


class Governance(_Part):
    """Who owns it, how long it lives, how sensitive it is (paper: governance attributes).

    `ttl` is what `expires_at` was made from; who extends the life of what is read needs to know it.
    """

    owner: str = "operator"
    expires_at: datetime | None = None
    ttl: timedelta | None = None
    priority: int = 0
    sensitivity: tuple[str, ...] = ()


class Behaviour(_Part):
    """How it is used (paper: behavioural usage indicators). Kept by the scheduler, not by writers.

    `frequency` is the number of reads, decayed with the scheduler's half-life up to `last_read`.
    """

    reads: int = 0
    last_read: datetime | None = None
    frequency: float = 0.0


class Header(_Part):
    """The three groups of metadata of the paper."""

    descriptive: Descriptive = Field(default_factory=Descriptive)
    governance: Governance = Field(default_factory=Governance)
    behaviour: Behaviour = Field(default_factory=Behaviour)


class Source(BaseModel):
    """One version of a cube that another was derived from."""

    model_config = ConfigDict(frozen=True)

    id: str
    version: int


class MemCube(BaseModel, Generic[T]):
    """A memory with everything needed to find, trust, govern and move it.

    `MemCube[Preference]` is a cube whose `data` is a `Preference`. Treat a cube as a value: change one
    through `MemOS.update`, which makes a new version.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=new_id)
    version: int = Field(default=1, ge=1)
    scope: Scope = Field(default_factory=Scope)
    namespace: Namespace = ()
    key: str = ""
    payload: Annotated[Plaintext[T] | Activation | Parametric, Field(discriminator="kind")]
    header: Header = Field(default_factory=Header)
    state: State = State.GENERATED
    frozen: bool = False
    derived_from: tuple[Source, ...] = ()

    @property
    def text(self) -> str:
        """The text of a plaintext cube, "" for the other kinds."""
        return self.payload.text if isinstance(self.payload, Plaintext) else ""

    @property
    def data(self) -> Any:
        """The typed structure or JSON of a plaintext cube, None for the other kinds."""
        return self.payload.data if isinstance(self.payload, Plaintext) else None

    @property
    def json_data(self) -> Any:
        """`data` as plain JSON, whatever its structure."""
        return self.data.model_dump(mode="json") if isinstance(self.data, BaseModel) else self.data

    @property
    def semantic_type(self) -> str:
        """Short for `header.descriptive.semantic_type`."""
        return self.header.descriptive.semantic_type
