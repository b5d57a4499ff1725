"""From messages to cubes."""

from memos_core.reader.reader import MEMORIES, MESSAGES, Extractor, MemReader, structure_text
from memos_core.reader.slots import slot_fields, slot_of
from memos_core.reader.statements import extract_statements

__all__ = [
    "MEMORIES",
    "MESSAGES",
    "Extractor",
    "MemReader",
    "extract_statements",
    "slot_fields",
    "slot_of",
    "structure_text",
]
