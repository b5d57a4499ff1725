"""From messages to tokens: by the tokenizer's chat template, with nothing in them that would end a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from memos_core.activation.keys import shared_length
from memos_core.activation.toolcalls import ToolForm, tool_form
from memos_core.errors import InvalidArgument, ModelError

Messages = Sequence[Mapping[str, Any]]

_FOLLOWERS = ("a", "7", "\n\n", " .")


class Prompts:
    """A tokenizer with its chat template.

    Args:
        name: the model's, for errors.
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        added = tokenizer.added_tokens_decoder.values()
        control = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
        self._control = sorted(control, key=lambda token: (-len(token), token))

    def encode(
        self, messages: Messages, *, add_generation_prompt: bool = True, tools: list[Any] | None = None
    ) -> list[int]:
        """The tokens of a conversation, by the tokenizer's chat template.

        Args:
            messages: dicts with "role" and "content".
            add_generation_prompt: end with the start of the assistant's turn.
            tools: passed to the template, as JSON Schemas in OpenAI's form.

        Raises:
            ModelError: the tokenizer has no chat template.
            InvalidArgument: the template refuses these messages.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.name} has no chat template; pass token ids, or use an instruct model")
        try:
            ids = self.tokenizer.apply_chat_template(
                [self._defused(m) for m in messages],
                tools=self._defused(tools),
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=False,
            )
        except (TemplateError, TypeError, KeyError) as err:
            raise InvalidArgument(f"messages do not fit the chat template of {self.name}: {err}") from err
        return [int(i) for i in ids]

    def _defused(self, said: Any) -> Any:
        """A message or tool, with a space in what the tokenizer would read as a control token: text that people,
        memories or tools bring along must not end a turn or begin a system message."""
        if isinstance(said, str):
            for token in self._control:
                said = said.replace(token, f"{token[0]} {token[1:]}")
            return said
        if isinstance(said, Mapping):
            return {self._defused(key): self._defused(value) for key, value in said.items()}
        return [self._defused(one) for one in said] if isinstance(said, list | tuple) else said

    def tool_form(self) -> ToolForm:
        """How this model writes tool calls.

        Raises:
            ModelError: its chat template has no place for tools, or has calls written in a form that is not known.
        """
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use", template.get("default"))
        return tool_form(template or "", self.name)

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens, without special ones."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_length(self, messages: Messages) -> int:
        """Length of a prompt in tokens, the start of the assistant's turn included."""
        return len(self.encode(messages))

    def stable_prefix(self, messages: Messages, *, tools: list[Any] | None = None) -> list[int]:
        """The tokens that every request starting with these messages begins with, whatever follows them.

        Found by rendering with several different next messages and keeping what the results share, which
        holds for any template and any tokenizer that merges across the seam.

        Raises:
            ModelError, InvalidArgument: as `encode`.
        """
        role = "assistant" if messages and messages[-1].get("role") == "user" else "user"
        renders = [self.encode([*messages, {"role": role, "content": f}], tools=tools) for f in _FOLLOWERS]
        return renders[0][: min(shared_length(renders[0], other) for other in renders[1:])]


def one_prompt(tokens: Sequence[int] | Mapping[str, Any]) -> Sequence[int]:
    """The ids of one prompt, also out of what a tokenizer returns.

    Raises:
        InvalidArgument: several prompts, or padding.
    """
    if not isinstance(tokens, Mapping):
        return tokens
    ids = torch.as_tensor(tokens["input_ids"])
    mask = torch.as_tensor(tokens.get("attention_mask", torch.ones_like(ids)))
    if ids.dim() != 2 or ids.shape[0] != 1 or not bool(mask.all()):
        raise InvalidArgument(
            f"input_ids has shape {list(ids.shape)}; pass one prompt, [1, n_tokens], without padding"
        )
    found: list[int] = ids[0].tolist()
    return found
