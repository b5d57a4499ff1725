"""What the shim raises: the classes of `mem0.exceptions`. Each is also a `MemOSError`, and what callers of mem0
2.2 catch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_core.errors import InvalidArgument, MemOSError, ModelError, NotFound


class MemoryError(MemOSError):
    """Base class, with the attributes of mem0's. (Like mem0's it has the name of a builtin: import it by its
    module.)

    Args:
        message: what is wrong. error_code: mem0's code, e.g. "VALIDATION_001" or "HTTP_404".
        details: the values concerned, or what the server said. suggestion: what to do.
        debug_info: of a request: its status, URL and method; of a refusal, `retry_after` in seconds.
    """

    def __init__(
        self,
        message: str,
        error_code: str,
        details: Mapping[str, Any] | None = None,
        suggestion: str | None = None,
        debug_info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.details = dict(details or {})
        self.suggestion = suggestion
        self.debug_info = dict(debug_info or {})

    def __repr__(self) -> str:
        shown = ("message", "error_code", "details", "suggestion", "debug_info")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class ValidationError(MemoryError, InvalidArgument):
    """The input of a call is not usable."""


class AuthenticationError(MemoryError):
    """The server does not know the key, or the key may not do this."""


class RateLimitError(MemoryError):
    """Too many requests. `debug_info["retry_after"]` is how many seconds to wait, where the server says."""


class MemoryNotFoundError(MemoryError, NotFound):
    """The server has nothing of this id."""


class NetworkError(MemoryError):
    """The server could not be reached, or did not answer."""


class ConfigurationError(MemoryError):
    """The configuration is not usable."""


class MemoryQuotaExceededError(MemoryError):
    """The request is too large, or the quota is used up."""


class MemoryNotFound(NotFound, ValueError):
    """No memory has this id in the scope of this `Memory`. (mem0 raises a bare ValueError, so it is no MemoryError.)"""


class _Coded(MemoryError):
    """One with a code and a suggestion of its own, which may be left out."""

    _CODE, _SUGGESTION = "", ""

    def __init__(
        self,
        message: str,
        error_code: str | None = None,
        details: Mapping[str, Any] | None = None,
        suggestion: str | None = None,
        debug_info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            message, error_code or self._CODE, details, suggestion or self._SUGGESTION, debug_info
        )


class LLMError(_Coded, ModelError):
    """The language model could not be asked. Nothing was stored. What the model's client raised is its
    `__cause__`."""

    _CODE, _SUGGESTION = "LLM_001", "Please check your LLM configuration and API key"


class EmptyReply(LLMError, ValueError):
    """The language model wrote nothing for a procedural memory. (mem0 raises a bare ValueError.)"""


class MemoryCorruptionError(MemoryError):
    """Here so that it can be caught. What is damaged in a vault is a `memos_core.errors.VaultError`."""


class VectorSearchError(MemoryError):
    """Here so that it can be caught; nothing raises it."""


class VectorStoreError(_Coded):
    """Here so that it can be caught; nothing raises it."""

    _CODE = "VECTOR_001"
    _SUGGESTION = "Please check your vector store configuration and connection"


class CacheError(MemoryError):
    """Here so that it can be caught; nothing raises it."""


class EmbeddingError(_Coded):
    """Here so that it can be caught. An embedder that fails raises a `memos_core.errors.ModelError`."""

    _CODE, _SUGGESTION = "EMBED_001", "Please check your embedding model configuration"


class DatabaseError(_Coded):
    """Here so that it can be caught. A vault that fails raises a `memos_core.errors.VaultError`."""

    _CODE, _SUGGESTION = "DB_001", "Please check your database configuration and connection"


class DependencyError(_Coded):
    """Here so that it can be caught. What is not installed is a `memos_core.errors.MissingExtra`."""

    _CODE, _SUGGESTION = "DEPS_001", "Please install the required dependencies"


class AlreadyImported(MemOSError, RuntimeError):
    """`import mem0` was done before `install()`; what was imported would stay mem0's."""


# By HTTP status; a status that is not here is a plain MemoryError.
BY_STATUS: Mapping[int, type[MemoryError]] = {
    400: ValidationError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: MemoryNotFoundError,
    408: NetworkError,
    409: ValidationError,
    413: MemoryQuotaExceededError,
    422: ValidationError,
    429: RateLimitError,
    500: MemoryError,
    502: NetworkError,
    503: NetworkError,
    504: NetworkError,
}
_SUGGESTIONS = {
    400: "Please check your request parameters and try again",
    401: "Please check your API key and authentication credentials",
    403: "You don't have permission to perform this operation",
    404: "The requested resource was not found",
    408: "Request timed out. Please try again",
    409: "Resource conflict. Please check your request",
    413: "Request too large. Please reduce the size of your request",
    422: "Invalid request data. Please check your input",
    429: "Rate limit exceeded. Please wait before making more requests",
    500: "Internal server error. Please try again later",
    502: "Service temporarily unavailable. Please try again later",
    503: "Service unavailable. Please try again later",
    504: "Gateway timeout. Please try again later",
}


def create_exception_from_response(
    status_code: int,
    response_text: str,
    error_code: str | None = None,
    details: Mapping[str, Any] | None = None,
    debug_info: Mapping[str, Any] | None = None,
) -> MemoryError:
    """The exception for an answer of the server, as mem0 builds it.

    Args:
        status_code: its HTTP status. response_text: what it says is wrong.
        error_code: "HTTP_" and the status by default. details, debug_info: see `MemoryError`.
    """
    return BY_STATUS.get(status_code, MemoryError)(
        response_text or f"HTTP {status_code} error",
        error_code or f"HTTP_{status_code}",
        details,
        _SUGGESTIONS.get(status_code, "Please try again later"),
        debug_info,
    )
