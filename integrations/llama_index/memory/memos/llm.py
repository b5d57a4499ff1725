"""MemOSLLM: a LlamaIndex LLM over the activation engine of a MemOS."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from typing import Any

from memos_core.activation import Chunk, GenerateOptions
from memos_core.chat import ChatTurn, options_of
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.memos import MemOS

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
    )
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.custom import CustomLLM
except ImportError:
    raise missing_extra("llama-index-core", "llama-index") from None

from pydantic import Field

_ROLES = {MessageRole.DEVELOPER: "system", MessageRole.FUNCTION: "tool", MessageRole.CHATBOT: "assistant"}
_TEXT = ("text", "thinking", "tool_call")  # by name: llama-index-core 0.13 has not all of these classes


class MemOSLLM(CustomLLM):  # type: ignore[misc]
    """A Hugging Face chat model that remembers (interface: `llama_index.core.llms.CustomLLM`).

    Takes the place of `HuggingFaceLLM`. `chat` and its like put the user's resident memories behind the system message
    and recalled memories in front of the last question, then generate from the longest stored KV prefix. `complete`
    continues a text as it is, also from stored KV, with no memory in it.

        llm = MemOSLLM(memos=MemOS.open(model="smollm2-135m"), user="maya", session="s1")
        llm.chat([ChatMessage(role="user", content="What is my dog called?")])

    Args:
        memos: an open view with a model. user, session: whose memories, within the scope of `memos`.
        temperature: 0 is greedy. top_p, seed: for sampling. max_tokens: the most tokens of a reply. stop: strings that
            end one. A call may give these four and `stop` too.
        recall_k: how many memories to recall for a question; leave it at 0 beside a `MemOSMemory`, which recalls too.
        remember: store the last user message and the reply, where no `MemOSMemory` does.

    Raises:
        InvalidArgument: `memos` has no model, or a message has no text form. AccessDenied: `memos` is another user's.
    """

    memos: MemOS = Field(exclude=True, repr=False)
    user: str | None = None
    session: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 256
    stop: list[str] | None = None
    recall_k: int = 0
    remember: bool = False

    def __init__(self, memos: MemOS, **fields: Any) -> None:
        if not isinstance(memos, MemOS) or not memos.has_model:
            raise InvalidArgument(
                "memos must be an open MemOS with a model, e.g. MemOS.open(model='smollm2-135m')"
            )
        super().__init__(memos=memos, **fields)
        self._view()  # a scope that cannot be is an error now, not in the first chat

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises it under."""
        return "MemOSLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """See `LLM.metadata`. The model is loaded to know its context."""
        return LLMMetadata(
            context_window=self.memos.generator.context_length,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.memos.model_name or "memos",
        )

    # -- chat ------------------------------------------------------------------------------------------------

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """See `LLM.chat`."""
        return _whole(list(self._chat(messages, kwargs)))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """See `LLM.stream_chat`."""
        return self._chat(messages, kwargs)

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """See `LLM.achat`."""
        return _whole([response async for response in self._achat(messages, kwargs)])

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """See `LLM.astream_chat`."""
        return self._achat(messages, kwargs)

    def _chat(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> Generator[ChatResponse, None, None]:
        turn = ChatTurn(*self._request(messages, kwargs), recall_k=self.recall_k, remember=self.remember)
        text = ""
        for chunk in turn.stream():
            text += chunk.text
            yield _chat_response(text, chunk)

    async def _achat(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        turn = await ChatTurn.abegin(
            *self._request(messages, kwargs), recall_k=self.recall_k, remember=self.remember
        )
        text = ""
        async with aclosing(turn.astream()) as chunks:
            async for chunk in chunks:
                text += chunk.text
                yield _chat_response(text, chunk)

    # -- completion ------------------------------------------------------------------------------------------

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """See `LLM.complete`."""
        return _whole(list(self._complete(prompt, kwargs)))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """See `LLM.stream_complete`."""
        return self._complete(prompt, kwargs)

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """See `LLM.acomplete`."""
        return _whole([response async for response in self._acomplete(prompt, kwargs)])

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """See `LLM.astream_complete`."""
        return self._acomplete(prompt, kwargs)

    def _complete(self, prompt: str, kwargs: dict[str, Any]) -> Generator[CompletionResponse, None, None]:
        engine, view = self.memos.generator, self._view()
        text = ""
        for chunk in engine.stream(prompt, view.scope, options_of(self, kwargs)):
            text += chunk.text
            yield CompletionResponse(text=text, delta=chunk.text, raw=_raw(chunk))

    async def _acomplete(
        self, prompt: str, kwargs: dict[str, Any]
    ) -> AsyncGenerator[CompletionResponse, None]:
        engine, view = self.memos.generator, self._view()
        chunks = engine.astream(prompt, view.scope, options_of(self, kwargs))
        text = ""
        async with aclosing(chunks):
            async for chunk in chunks:
                text += chunk.text
                yield CompletionResponse(text=text, delta=chunk.text, raw=_raw(chunk))

    # -- both ------------------------------------------------------------------------------------------------

    def _view(self) -> MemOS:
        return self.memos.scoped(user=self.user, session=self.session, adapter="llama_index")

    def _request(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> tuple[MemOS, list[dict[str, Any]], GenerateOptions]:
        return self._view(), [_to_dict(m, i) for i, m in enumerate(messages)], options_of(self, kwargs)


def _to_dict(message: ChatMessage, index: int) -> dict[str, Any]:
    """A message in the form that chat templates take.

    Raises:
        InvalidArgument: it holds more than text.
    """
    odd = [block.block_type for block in message.blocks if block.block_type not in _TEXT]
    if odd:
        raise InvalidArgument(
            f"messages[{index}] holds {odd[0]!r}, which this model cannot read; pass text only"
        )
    return {"role": _ROLES.get(message.role, message.role.value), "content": message.content or ""}


def _chat_response(text: str, chunk: Chunk) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=chunk.text, raw=_raw(chunk))


def _raw(chunk: Chunk) -> dict[str, Any] | None:
    """The usage in OpenAI's form, which LlamaIndex's token counters read, and what is ours."""
    usage = chunk.usage
    if usage is None:
        return None
    return {
        "finish_reason": usage.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
        "memos": {"ttft_s": round(usage.ttft_s, 4), "kv_tier": usage.tier},
    }


def _whole(responses: list[Any]) -> Any:
    """What a stream came to."""
    return responses[-1].model_copy(update={"delta": None})
