"""ChatMemOS: a LangChain chat model over the activation engine of a MemOS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.runnables.config import ensure_config
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
except ImportError:
    from memos_core.errors import missing_extra

    raise missing_extra("langchain-core", "langchain") from None

from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from pydantic import ConfigDict, Field

from langchain_memos.scopes import ids_of, ids_of_context, ids_of_run
from langchain_memos.turns import call_chunks, to_dicts
from memos_core.activation import Chunk, GenerateOptions
from memos_core.chat import ChatTurn, check_tools, options_of
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS, Prompt

_IDS = ("user_id", "thread_id")


class ChatMemOS(BaseChatModel):
    """A Hugging Face chat model that remembers (interface: `langchain_core.language_models.BaseChatModel`).

    Each call puts the user's resident memories behind the system message and the memories recalled for the
    last human message in front of it, then generates from the longest stored KV prefix. Whose memories:
    `user_id` and `thread_id` of the config's `configurable` (as in LangGraph), or of the call, within the
    scope of `memos`; in an agent, `user_id` of the runtime's context goes before the config's. Classic chains hand no
    config to their model: give it the view of its user, `ChatMemOS(memos=memos.scoped(user=…))`.

        model = ChatMemOS(memos=MemOS.open(model="smollm2-135m"))
        model.invoke("What is my dog called?", {"configurable": {"user_id": "maya", "thread_id": "t1"}})

    Tools (`bind_tools`) and structured output go through the model's chat template, for models that were trained to
    call tools. Recalled memories stay in front of the question while its tools are called.

    Args:
        memos: an open view with a model. temperature: 0 is greedy. top_p, seed: for sampling.
        max_tokens: the most tokens of a reply. stop: strings that end one.
        recall_k: how many memories to recall for a question; 0 recalls none.
        reuse: whether stored KV is used.
        remember: store the last human message and the reply as memory, when a call ends without tool calls. Calls
            that name neither a user nor a thread share the session "default", and no cache is asked.
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
        if self.remember:  # a reply from a cache would be a turn that nobody remembers
            if self.cache:
                raise InvalidArgument(
                    "cache: replies that are remembered cannot come from a cache; leave it out"
                )
            self.cache = False

    @property
    def _llm_type(self) -> str:
        return "memos"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.memos.model_name,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The part of a cache's key that is not the prompt: a reply depends on who asks, and on what is remembered."""
        view = self._view(kwargs)
        told = f"{view.scope}, {self.recall_k} recalled, memories {view.memories_state()}, to {stop or self.stop}"
        return f"{super()._get_llm_string(stop=stop, **kwargs)}---{told}"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "memos"
        params["ls_model_name"] = kwargs.get("model") or self.memos.model_name or ""
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """See `BaseChatModel.bind_tools`. Loads the model, if it is not.

        Args:
            tool_choice: None or "auto": the model chooses; "any", "required" or True: it must call one; a tool's name:
                this one; "none": it is told of none.

        Raises:
            ModelError: the model's chat template has no place for tools, or writes calls in a form not known here.
            InvalidArgument: a choice of a tool there is not.
        """
        formatted = [convert_to_openai_tool(one) for one in tools]
        for one in formatted:
            one["function"].setdefault("description", "")  # some templates cannot do without
        choice = _choice(tool_choice)
        if choice == "none" or not formatted:
            return self.bind(**kwargs)
        names = [one["function"]["name"] for one in formatted]
        check_tools(self.memos, choice, names)  # refused here, not in the middle of a run
        return self.bind(tools=formatted, tool_choice=choice, **kwargs)

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
        turn = ChatTurn(*self._request(messages, stop, kwargs), **self._how(kwargs))
        calls = 0
        for chunk in turn.stream():
            piece = self._piece(chunk, turn.prompt, calls)
            calls += len(chunk.calls)
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
        turn = await ChatTurn.abegin(*self._request(messages, stop, kwargs), **self._how(kwargs))
        calls = 0
        async with aclosing(turn.astream()) as chunks:
            async for chunk in chunks:
                piece = self._piece(chunk, turn.prompt, calls)
                calls += len(chunk.calls)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=piece)
                yield piece

    def _how(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {
            "recall_k": self.recall_k,
            "remember": self.remember,
            "tools": kwargs.get("tools") or (),
            "tool_choice": kwargs.get("tool_choice"),
        }

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[MemOS, list[dict[str, Any]], GenerateOptions]:
        """Whose request it is, what they say, and how to generate: the call's arguments, else the fields."""
        options = replace(options_of(self, {**kwargs, "stop": stop}), reuse=self.reuse)
        return self._view(kwargs), to_dicts(messages), options

    def _view(self, kwargs: dict[str, Any]) -> MemOS:
        """Whose memories: the call's arguments say it, else the run that the call is part of."""
        ids = {**ids_of_run(), **{name: kwargs[name] for name in _IDS if kwargs.get(name) is not None}}
        view = self.memos.scoped(
            user=ids.get("user_id"), agent=self.agent, session=ids.get("thread_id"), adapter="langchain"
        )
        return view.in_session() if self.remember else view

    def _piece(self, chunk: Chunk, prompt: Prompt, before: int) -> ChatGenerationChunk:
        """A chunk as LangChain's. `before`: how many tool calls came before it."""
        usage, calls = chunk.usage, call_chunks(chunk.calls, before)
        if usage is None:
            return ChatGenerationChunk(message=AIMessageChunk(content=chunk.text, tool_call_chunks=calls))
        finish = "tool_calls" if before or calls else usage.finish_reason
        metadata = {
            "model_name": self.memos.model_name,
            "finish_reason": finish,
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
            content=chunk.text,
            tool_call_chunks=calls,
            response_metadata=metadata,
            usage_metadata=counts,
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message, generation_info={"finish_reason": finish})


def _with_scope(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's arguments with the user and thread of the run: of its config, and before that of the context of
    the graph it is in. An argument given by the caller wins."""
    return {**ids_of(ensure_config(config).get("configurable", {})), **ids_of_context(), **kwargs}


def _choice(wanted: str | dict[str, Any] | bool | None) -> str | None:
    """What LangChain's callers say of the choice of a tool, as None, "any", "none" or a name.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(wanted, dict):  # OpenAI's {"type": "function", "function": {"name": …}}
        wanted = wanted.get("function", wanted).get("name")
        if not isinstance(wanted, str):
            raise InvalidArgument("tool_choice must be a text, or a dict that names a function")
    if wanted in (None, False, "auto"):
        return None
    return "any" if wanted in (True, "required") else str(wanted)
