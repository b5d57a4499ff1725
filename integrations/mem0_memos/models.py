"""Language models and embedders as people configure them for mem0, behind two plain functions.

What has an OpenAI-compatible endpoint is reached through the `openai` package. A client is made, and a key
looked for, at the first call: constructing a `Memory` reaches no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from memos_core.errors import InvalidArgument, missing_extra

Messages = Sequence[Mapping[str, Any]]
Ask = Callable[[Messages], str]

_AZURE = ("azure_openai", "azure_openai_structured")
_OPENROUTER = "https://openrouter.ai/api/v1"
_BATCH = 100  # texts a request, as mem0
_SETTINGS = ("temperature", "top_p", "max_tokens", "reasoning_effort")
_USUAL = {"temperature": 0.1, "top_p": 0.1, "max_tokens": 2_000}  # of mem0's BaseLlmConfig
# What a config may say that is used here; and what says nothing to mem0 either, of such a provider.
_USED = {*_SETTINGS, "model", "api_key", "is_reasoning_model", "azure_kwargs", "openrouter_base_url"}
_USED |= {"huggingface_base_url", "embedding_dims", "top_k"}
_TRUE_NAME = re.compile(r"[^/]*$")  # of a model, without what routers put before it
_REASONING = re.compile(r"(o1|o1-preview|o3-mini|o3|gpt-5|gpt-5o|gpt-5o-mini|gpt-5o-micro)$|o[13][-.]")


class Provider(NamedTuple):
    """Args:
    url: its endpoint; a config's "<provider>_base_url" or one of the variables `url_env` comes before it.
    key_env: the variable that holds its key; "" where none is needed.
    model, embedder: mem0's default models; "" where there is none.
    path: what its clients append to a URL that names only the server.
    """

    url: str
    url_env: tuple[str, ...]
    key_env: str
    model: str = ""
    embedder: str = ""
    path: str = ""


_OPENAI = Provider(
    "https://api.openai.com/v1",
    ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "OPENAI_API_KEY",
    "gpt-5-mini",
    "text-embedding-3-small",
)
PROVIDERS = {
    "openai": _OPENAI,
    "openai_structured": _OPENAI,
    "deepseek": Provider(
        "https://api.deepseek.com", ("DEEPSEEK_API_BASE",), "DEEPSEEK_API_KEY", "deepseek-chat"
    ),
    "groq": Provider("https://api.groq.com/openai/v1", (), "GROQ_API_KEY", "llama-3.3-70b-versatile"),
    "together": Provider(
        "https://api.together.xyz/v1",
        (),
        "TOGETHER_API_KEY",
        "MiniMaxAI/MiniMax-M3",
        "intfloat/multilingual-e5-large-instruct",
    ),
    "xai": Provider("https://api.x.ai/v1", ("XAI_API_BASE",), "XAI_API_KEY", "grok-4.3"),
    "minimax": Provider(
        "https://api.minimax.io/v1", ("MINIMAX_API_BASE",), "MINIMAX_API_KEY", "MiniMax-M2.7"
    ),
    "sarvam": Provider("https://api.sarvam.ai/v1", ("SARVAM_API_BASE",), "SARVAM_API_KEY", "sarvam-m"),
    "vllm": Provider("http://localhost:8000/v1", ("VLLM_BASE_URL",), "", "Qwen/Qwen2.5-32B-Instruct"),
    "lmstudio": Provider("http://localhost:1234/v1", (), "", "", "nomic-ai/nomic-embed-text-v1.5-GGUF"),
    "ollama": Provider(
        "http://localhost:11434", ("OLLAMA_HOST",), "", "llama3.1:70b", "nomic-embed-text", "/v1"
    ),
}


def _settings(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What a config says about replies, in the form that the model takes; see mem0's `LLMBase`."""
    found = {**_USUAL, **{name: config[name] for name in _SETTINGS if config.get(name) is not None}}
    name = _TRUE_NAME.findall(model.lower())[0]
    reasons = config.get("is_reasoning_model")
    if reasons if reasons is not None else _REASONING.match(name):
        return {"reasoning_effort": found["reasoning_effort"]} if "reasoning_effort" in found else {}
    if name.startswith("gpt-5") and "max_tokens" in found:
        found["max_completion_tokens"] = found.pop("max_tokens")
    return found


class OpenAICompatible:
    """A model behind an OpenAI-compatible endpoint: `ask` for a chat model, `embed_documents` for an embedder.

    Args:
        provider: a key of `PROVIDERS`. config: mem0's config of it: "model", "api_key", "<provider>_base_url", …
        model: the model where the config names none.

    Raises:
        InvalidArgument: there is no model, or no URL.
    """

    def __init__(self, provider: str, config: Mapping[str, Any], model: str) -> None:
        about = PROVIDERS[provider]
        own = config.get(f"{provider.removesuffix('_structured')}_base_url")
        url = own or next((u for name in about.url_env if (u := os.environ.get(name))), None) or about.url
        if "://" not in url:  # OLLAMA_HOST is often a host and a port
            url = f"http://{url}"
        if about.path and not url.rstrip("/").endswith(about.path):
            url = url.rstrip("/") + about.path
        self.model = config.get("model") or model
        if not self.model:
            raise InvalidArgument(f"the config of {provider} names no model; set config['model']")
        self.name = f"{provider}/{self.model}"
        self._url, self._key, self._key_env = url, config.get("api_key"), about.key_env
        self._settings = _settings(config, self.model)
        self._dims = (
            config.get("embedding_dims") if provider == "openai" else None
        )  # others refuse to be told

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.name!r})"

    def ask(self, messages: Messages) -> str:
        """The reply to a conversation.

        Raises:
            MissingExtra: `openai` is not installed. InvalidArgument: no key. Else what the client raises.
        """
        return self._reply(messages)

    def ask_json(self, messages: Messages) -> str:
        """The reply as JSON, where the server can see to that. Raises as `ask`."""
        import openai

        try:
            return self._reply(messages, response_format={"type": "json_object"})
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return self._reply(messages)

    def _reply(self, messages: Messages, **how: Any) -> str:
        reply = self._client.chat.completions.create(
            model=self.model, messages=[dict(m) for m in messages], **self._settings, **how
        )
        return str(reply.choices[0].message.content or "")

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of texts; raises as `ask`."""
        found: list[list[float]] = []
        dims = {"dimensions": self._dims} if self._dims else {}
        for start in range(0, len(texts), _BATCH):
            part = list(texts[start : start + _BATCH])
            made = self._client.embeddings.create(
                model=self.model, input=part, encoding_format="float", **dims
            )
            found += [one.embedding for one in sorted(made.data, key=lambda one: one.index)]
        return found

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise missing_extra("openai", "server-models") from None
        key = self._key or (os.environ.get(self._key_env) if self._key_env else "none")
        if not key:
            raise InvalidArgument(
                f"{self.name} needs a key: set api_key in its config, or {self._key_env} in the environment"
            )
        return openai.OpenAI(base_url=self._url, api_key=key)


class AzureOpenAI(OpenAICompatible):
    """A model that Azure OpenAI serves: mem0's provider "azure_openai".

    Args:
        config: mem0's config of it, with "azure_kwargs": "api_key", "azure_deployment", "azure_endpoint",
            "api_version", "default_headers". model: the deployment where the config names none.
        env: the beginning of the variables that stand for what is missing, "LLM" or "EMBEDDING".
    """

    def __init__(self, config: Mapping[str, Any], model: str, env: str) -> None:
        super().__init__("openai", config, model)
        self.name, self._env = f"azure_openai/{self.model}", env
        self._azure = dict(config.get("azure_kwargs") or {})

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise missing_extra("openai", "server-models") from None
        names = {
            "api_key": f"{self._env}_AZURE_OPENAI_API_KEY",
            "azure_deployment": f"{self._env}_AZURE_DEPLOYMENT",
            "azure_endpoint": f"{self._env}_AZURE_ENDPOINT",
            "api_version": f"{self._env}_AZURE_API_VERSION",
        }
        given: dict[str, Any] = {
            part: self._azure.get(part) or os.environ.get(name) for part, name in names.items()
        }
        for part in ("api_key", "azure_endpoint", "api_version"):
            if not given[part]:
                raise InvalidArgument(
                    f"{self.name} needs {part}: set azure_kwargs[{part!r}] in its config, or {names[part]} in the "
                    "environment"
                )
        return openai.AzureOpenAI(**given, default_headers=self._azure.get("default_headers"))


def _asked_for(value: Mapping[str, Any], part: str) -> tuple[str, Mapping[str, Any]]:
    """The provider and the config of a part of a mem0 configuration."""
    provider, config = value.get("provider", "openai"), value.get("config")
    if not isinstance(provider, str):
        raise InvalidArgument(f"config[{part!r}]['provider'] must be a text, got {provider!r:.80}")
    if not isinstance(config, Mapping | None):
        raise InvalidArgument(f"config[{part!r}]['config'] must be a dict, got {type(config).__name__}")
    return provider, config or {}


def configured_llm(value: Any) -> Ask | None:
    """The language model that a config's "llm" means; None if it cannot be used here.

    Raises:
        InvalidArgument: it means nothing.
    """
    if not isinstance(value, Mapping):
        return as_ask(value)
    provider, config = _asked_for(value, "llm")
    if provider == "langchain":
        return as_ask(config.get("model"))
    if provider in _AZURE:
        return AzureOpenAI(config, PROVIDERS["openai"].model, "LLM").ask
    if provider.startswith("openai") and (key := os.environ.get("OPENROUTER_API_KEY")):  # as mem0
        url = config.get("openrouter_base_url") or os.environ.get("OPENROUTER_API_BASE") or _OPENROUTER
        return OpenAICompatible(
            "openai", {**config, "openai_base_url": url, "api_key": key}, _OPENAI.model
        ).ask
    if provider in PROVIDERS:
        return OpenAICompatible(provider, config, PROVIDERS[provider].model).ask
    return None


def configured_embedder(value: Any) -> Any:
    """The embedder, as `MemOS.open` takes it, that a config's "embedder" means; None if it cannot be used here.

    Raises:
        InvalidArgument: it means nothing.
    """
    if not isinstance(value, Mapping):
        return value
    provider, config = _asked_for(value, "embedder")
    if provider == "langchain" and not hasattr(config.get("model"), "embed_query"):
        raise InvalidArgument(
            "config['embedder']['config']['model'] must be LangChain embeddings, "
            f"got {type(config.get('model')).__name__}"
        )
    if provider == "huggingface" and (url := config.get("huggingface_base_url")):
        plain = {**config, "openai_base_url": url, "api_key": config.get("api_key") or "hf"}
        return OpenAICompatible("openai", plain, "tei")
    if provider in ("langchain", "huggingface"):
        return config.get("model")
    if provider in _AZURE:
        return AzureOpenAI(config, _OPENAI.embedder, "EMBEDDING")
    if provider in PROVIDERS and (config.get("model") or PROVIDERS[provider].embedder):
        return OpenAICompatible(provider, config, PROVIDERS[provider].embedder)
    return None


def unused_settings(value: Any) -> list[str]:
    """What a part of a configuration says that is not used here, of a provider that is."""
    if not isinstance(value, Mapping) or value.get("provider", "openai") not in {*PROVIDERS, *_AZURE}:
        return []
    config = value.get("config") or {}
    return sorted(
        name
        for name, given in config.items()
        if name not in _USED and not name.endswith("_base_url") and given not in (None, False, "auto")
    )


def in_json(ask: Ask) -> Ask:
    """The same model, asked for JSON where that can be said."""
    model = getattr(ask, "__self__", None)
    return model.ask_json if isinstance(model, OpenAICompatible) else ask


def as_ask(llm: Any) -> Ask:
    """Any language model as a function from messages to the text of its reply.

    Args:
        llm: a LangChain chat model; an object with mem0's `generate_response`; a function that takes a list of
            `{"role", "content"}` dicts; or the URL of an OpenAI-compatible server ("http://localhost:8000/v1#model").

    Raises:
        InvalidArgument: none of these.
    """
    if isinstance(llm, str) and llm.startswith(("http://", "https://")):
        url, _, model = llm.partition("#")
        return OpenAICompatible("vllm", {"vllm_base_url": url, "model": model}, "default").ask
    for method in ("invoke", "generate_response"):
        if callable(call := getattr(llm, method, None)):
            return lambda messages: _text(call([dict(m) for m in messages]))
    if callable(llm):
        return lambda messages: _text(llm([dict(m) for m in messages]))
    raise InvalidArgument(
        "llm must be a chat model, a function of messages, or the URL of an OpenAI-compatible server, "
        f"got {type(llm).__name__}"
    )


def _text(reply: Any) -> str:
    """The text of a reply: a string, a message, or a message's list of parts."""
    content = getattr(reply, "content", reply)
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(p if isinstance(p, str) else str(p.get("text", "")) for p in content)
    if not isinstance(content, str):
        raise InvalidArgument(f"llm must return a text or a message, got {type(reply).__name__}")
    return content
