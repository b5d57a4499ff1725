"""The unit of memory: pure data and pure rules, no I/O."""

from memos_core.cube.content import content_hash, normal_text
from memos_core.cube.cube import (
    NOT_MEMORIES,
    Behaviour,
    Descriptive,
    Governance,
    Header,
    MemCube,
    Namespace,
    Origin,
    Source,
    now,
)
from memos_core.cube.ids import id_between, new_id
from memos_core.cube.lifecycle import LIVE, State
from memos_core.cube.payload import MAX_DEPTH, Activation, Parametric, Plaintext, Slot, dump_json, text_of
from memos_core.cube.scope import ANY_USER, Principal, Scope
from memos_core.cube.structures import (
    Fact,
    Message,
    Preference,
    StructureRegistry,
    to_json,
    validation_message,
)

__all__ = [
    "ANY_USER",
    "LIVE",
    "MAX_DEPTH",
    "NOT_MEMORIES",
    "Activation",
    "Behaviour",
    "Descriptive",
    "Fact",
    "Governance",
    "Header",
    "MemCube",
    "Message",
    "Namespace",
    "Origin",
    "Parametric",
    "Plaintext",
    "Preference",
    "Principal",
    "Scope",
    "Slot",
    "Source",
    "State",
    "StructureRegistry",
    "content_hash",
    "dump_json",
    "new_id",
    "normal_text",
    "id_between",
    "now",
    "text_of",
    "to_json",
    "validation_message",
]
