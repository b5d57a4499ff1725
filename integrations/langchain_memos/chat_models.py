"""ChatMemOS: a LangChain chat model over the activation engine of a MemOS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
    from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import ensure_config
except ImportError:
    from memos_core.errors import missing_extra

    raise missing_extra("langchain-core", "langchain") from None

from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from pydantic import ConfigDict, Field

from langchain_memos.scopes import ids_of
from memos_core.activation import GenerateOptions, Usage
from memos_core.chat import ChatTurn, options_of
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS, Prompt

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_TEXT_BLOCKS = ("text", "tool_use", "tool_call", "reasoning", "thinking")


class ChatMemOS(BaseChatModel):
    """A Hugging Face chat model that remembers (interface: `langchain_core.language_models.BaseChatModel`).

    Each call puts the user's resident memories behind the system message and the memories recalled for the
    last human message in front of it, then generates from the longest stored KV prefix. Whose memories:
    `user_id` and `thread_id` of the config's `configurable` (as in LangGraph), or of the call, within the
    scope of `memos`.

        model = ChatMemOS(memos=MemOS.open(model="smollm2-135m"))
        model.invoke("What is my dog called?", {"configurable": {"user_id": "maya", "thread_id": "t1"}})

    Args:
        memos: an open view with a model. temperature: 0 is greedy. top_p, seed: for sampling.
        max_tokens: the most tokens of a reply. stop: strings that end one.
        recall_k: how many memories to recall for a question; 0 recalls none.
        reuse: whether stored KV is used.
        remember: store the last human message and the reply as memory, when a call ends.
        agent: part of the scope; give agents of one user with different system messages different names.
        streaming: let `invoke` stream to callbacks, as in other chat models.

    Raises:
        InvalidArgument: `memos` has no model, or a message has no text form.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: MemOS = Field(exclude=True, repr=False)
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 256
    stop: list[str] | None = None
    recall_k: int = 2
    reuse: bool = True
    remember: bool = False
    agent: str | None = None
    streaming: bool = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.memos.has_model:  # checked here: pydantic would wrap the error
            raise InvalidArgument(
                "memos has no model; open it with MemOS.open(model='smollm2-135m') or another name"
            )

    @property
    def _llm_type(self) -> str:
        return "memos"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.memos.model_name,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "memos"
        params["ls_model_name"] = kwargs.get("model") or self.memos.model_name or ""
        return params

    # The config is not handed down to `_generate`; these four carry its scope there.

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """See `BaseChatModel.invoke`."""
        return super().invoke(input, config, stop=stop, **_with_scope(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """See `BaseChatModel.ainvoke`."""
        return await super().ainvoke(input, config, stop=stop, **_with_scope(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """See `BaseChatModel.stream`."""
        yield from super().stream(input, config, stop=stop, **_with_scope(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """See `BaseChatModel.astream`."""
        async for chunk in super().astream(input, config, stop=stop, **_with_scope(config, kwargs)):
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, None, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, None, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = ChatTurn(*self._request(messages, stop, kwargs), **self._memory)
        for chunk in turn.stream():
            piece = self._piece(chunk.text, chunk.usage, turn.prompt)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=piece)
            yield piece

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        turn = await ChatTurn.abegin(*self._request(messages, stop, kwargs), **self._memory)
        async with aclosing(turn.astream()) as chunks:
            async for chunk in chunks:
                piece = self._piece(chunk.text, chunk.usage, turn.prompt)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=piece)
                yield piece

    @property
    def _memory(self) -> dict[str, Any]:
        return {"recall_k": self.recall_k, "remember": self.remember}

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[MemOS, list[dict[str, Any]], GenerateOptions]:
        """Whose request it is, what they say, and how to generate: the call's arguments, else the fields."""
        view = self.memos.scoped(
            user=kwargs.get("user_id"), agent=self.agent, session=kwargs.get("thread_id"), adapter="langchain"
        )
        options = replace(options_of(self, {**kwargs, "stop": stop}), reuse=self.reuse)
        return view, [_to_dict(m) for m in messages], options

    def _piece(self, text: str, usage: Usage | None, prompt: Prompt) -> ChatGenerationChunk:
        if usage is None:
            return ChatGenerationChunk(message=AIMessageChunk(content=text))
        metadata = {
            "model_name": self.memos.model_name,
            "finish_reason": usage.finish_reason,
            "memos": {
                "ttft_s": round(usage.ttft_s, 4),
                "kv_tier": usage.tier,
                "resident": len(prompt.resident),
                "recalled": [hit.cube.id for hit in prompt.recalled],
            },
        }
        counts = UsageMetadata(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        )
        message = AIMessageChunk(
            content=text, response_metadata=metadata, usage_metadata=counts, chunk_position="last"
        )
        return ChatGenerationChunk(message=message, generation_info={"finish_reason": usage.finish_reason})


def _with_scope(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's arguments with the user and thread of the config; an argument given by the caller wins."""
    return {**ids_of(ensure_config(config).get("configurable", {})), **kwargs}


def _to_dict(message: BaseMessage) -> dict[str, Any]:
    """A message in the form that chat templates take.

    Raises:
        InvalidArgument: its content is not text, or its role is unknown to chat templates.
    """
    if isinstance(message.content, list) and any(
        isinstance(block, dict) and block.get("type", "text") not in _TEXT_BLOCKS for block in message.content
    ):
        raise InvalidArgument(
            f"messages: a {message.type} message holds content that is not text, which this model cannot read"
        )
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type)
    if role is None:
        raise InvalidArgument(f"messages: a message of type {message.type!r} has no place in a chat template")
    return {"role": role, "content": message.text}
