"""What the shim raises. Each is a `MemOSError`, and also what callers of mem0 2.2 catch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_core.errors import InvalidArgument, ModelError, NotFound


class ValidationError(InvalidArgument):
    """The input of a call is not usable. Has the attributes of `mem0.exceptions.ValidationError`.

    Args:
        message: what is wrong. error_code: mem0's code, e.g. "VALIDATION_001".
        details: the values concerned. suggestion: what to do.
    """

    def __init__(
        self,
        message: str,
        error_code: str,
        details: Mapping[str, Any] | None = None,
        suggestion: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.details = dict(details or {})
        self.suggestion = suggestion
        self.debug_info: dict[str, Any] = {}


class MemoryNotFound(NotFound, ValueError):
    """No memory has this id in the scope of this `Memory` (mem0 raises a bare ValueError)."""


class LLMError(ModelError):
    """The language model could not be asked, or said nothing. Nothing was stored. Has the attributes of
    `mem0.exceptions.LLMError`; what the model's client raised is its `__cause__`."""

    error_code = "LLM_001"
    suggestion = "Please try again later or check the configuration of the language model"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {}
        self.debug_info: dict[str, Any] = {}
