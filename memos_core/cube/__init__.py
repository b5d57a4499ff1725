"""The unit of memory: pure data and pure rules, no I/O."""

from memos_core.cube.cube import (
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
from memos_core.cube.ids import new_id
from memos_core.cube.lifecycle import LIVE, State
from memos_core.cube.payload import Activation, Parametric, Plaintext, dump_json, text_of
from memos_core.cube.scope import ANY_USER, Principal, Scope
from memos_core.cube.structures import Fact, Message, Preference, StructureRegistry

__all__ = [
    "ANY_USER",
    "LIVE",
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
    "Source",
    "State",
    "StructureRegistry",
    "dump_json",
    "new_id",
    "now",
    "text_of",
]
