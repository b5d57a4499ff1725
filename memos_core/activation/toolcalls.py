"""Tool calls in the words of a chat template: which form a model writes them in, and reading them from its reply.

Two forms are known: Hermes' (also Qwen 2.5's and 3's), `<tool_call>{"name": …, "arguments": {…}}</tool_call>` anywhere
in a reply, and Llama 3's, where the whole reply is `{"name": …, "parameters": {…}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memos_core.errors import InvalidArgument, ModelError

ANY = "any"
"""The choice that leaves to the model which tool it calls, but not whether."""

_NAME = re.compile(r'"name"\s*:\s*"([^"]*)"')


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote.

    Args:
        name: the tool's; "" where it cannot be read.
        arguments: a JSON object as text. Where the call is no whole JSON (the reply was cut off), what was written.
        valid: whether `arguments` is such an object.
    """

    name: str
    arguments: str
    valid: bool = True


@dataclass(frozen=True)
class ToolForm:
    """How a template has calls written: what stands before and behind each ("": the call is the whole reply), and
    what the arguments are called."""

    opening: str
    closing: str
    arguments: str

    def beginning(self, choice: str | None, names: Sequence[str]) -> str:
        """What a reply begins with that must be a call; "" where the model may choose.

        Args:
            choice: None, "any" or a tool's name. names: of the tools there are.

        Raises:
            InvalidArgument: another choice.
        """
        if choice is None:
            return ""
        check_choice(choice, names)
        start = f"{self.opening}\n" if self.opening else ""
        which = names[0] if choice == ANY and len(names) == 1 else choice
        if which == ANY:
            return f'{start}{{"name":'
        return f'{start}{{"name": {json.dumps(which, ensure_ascii=False)}, "{self.arguments}":'


def check_choice(choice: str | None, names: Sequence[str]) -> None:
    """Refuse a choice that is neither None, "any" nor the name of one of these tools.

    Raises:
        InvalidArgument: it is another.
    """
    if choice is not None and choice != ANY and choice not in names:
        raise InvalidArgument(
            f"tool_choice must be 'auto', 'any' or one of {', '.join(names)}, got {choice!r:.80}"
        )


def read_call(name: str, arguments: str) -> ToolCall:
    """The call that a server read from a reply: invalid where the arguments are no JSON object."""
    try:
        found = json.loads(arguments or "{}", strict=False)
    except ValueError:
        found = None
    return ToolCall(name, arguments or "{}", valid=bool(name) and isinstance(found, dict))


_HERMES = ToolForm("<tool_call>", "</tool_call>", "arguments")
_LLAMA = ToolForm("", "", "parameters")


def tool_form(template: str, model: str) -> ToolForm:
    """The form in which a chat template has tool calls written.

    Args:
        template: the template's text. model: its name, for the error.

    Raises:
        ModelError: the template has no place for tools, or another form of calls.
    """
    if not re.search(r"\btools\b", template):
        raise ModelError(
            f"the chat template of {model} has no place for tools, so that the model cannot be told of them; use a "
            "model that was trained to call tools (e.g. Qwen2.5 or Llama 3.1)"
        )
    if _HERMES.opening in template and "<function=" not in template:
        return _HERMES
    if '"parameters"' in template and _HERMES.opening not in template:
        return _LLAMA
    raise ModelError(
        f"the chat template of {model} has tool calls written in a form that is not known here; known are "
        '<tool_call>{"name": …, "arguments": …}</tool_call> and {"name": …, "parameters": …}'
    )


class ToolReader:
    """Tells calls from text in a reply that comes piece by piece.

    Args:
        form: how calls are written. begun: what the reply was made to begin with, see `ToolForm.beginning`.
    """

    def __init__(self, form: ToolForm, begun: str = "") -> None:
        self._form = form
        self._held = begun
        self._called = False

    def push(self, text: str, *, last: bool) -> tuple[str, tuple[ToolCall, ...]]:
        """Add a piece of the reply; returns the text that can be shown now and the calls that are complete.

        Args:
            last: nothing follows.
        """
        self._held += text
        shown, calls = self._between_marks(last) if self._form.opening else self._whole(last)
        self._called = self._called or bool(calls)
        return shown, tuple(calls)

    def _between_marks(self, last: bool) -> tuple[str, list[ToolCall]]:
        opening, closing = self._form.opening, self._form.closing
        shown = ""
        calls: list[ToolCall] = []
        while True:
            before, mark, after = self._held.partition(opening)
            if not mark:
                keep = 0 if last else _unsure(before, opening)
                text, self._held = before[: len(before) - keep], before[len(before) - keep :]
                # Blank lines around calls are nobody's words.
                return shown + ("" if (self._called or calls) and not text.strip() else text), calls
            body, closed, rest = after.partition(closing)
            if not closed and not last:
                shown, self._held = shown + before.rstrip(), mark + after
                return shown, calls
            shown += before.rstrip()
            calls.append(self._call(body))
            self._held = rest

    def _whole(self, last: bool) -> tuple[str, list[ToolCall]]:
        """A reply in JSON is held until its end. One call is read: such templates show one a message."""
        begins = self._held.lstrip()
        if not last and (not begins or begins.startswith("{")) and not self._called:
            return "", []
        text, self._held = self._held, ""
        if begins.startswith("{") and not self._called:
            try:
                found, _ = json.JSONDecoder(strict=False).raw_decode(begins)
            except ValueError:
                return text, []
            call = self._call_of(found)
            if call is not None:
                return "", [call]
        self._called = True  # it is text from here on
        return text, []

    def _call(self, body: str) -> ToolCall:
        try:
            call = self._call_of(json.loads(body, strict=False))
        except ValueError:
            call = None
        if call is not None:
            return call
        name = _NAME.search(body)
        return ToolCall(name[1] if name else "", f"{self._form.opening}{body}", valid=False)

    def _call_of(self, found: Any) -> ToolCall | None:
        """The call that a JSON value is; models mix up the two names of the arguments."""
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get("arguments", found.get("parameters"))
        if isinstance(arguments, str):  # JSON within JSON, as OpenAI has it
            try:
                arguments = json.loads(arguments, strict=False)
            except ValueError:
                return None
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict):
            return None
        return ToolCall(found["name"], json.dumps(arguments, ensure_ascii=False))


def _unsure(text: str, mark: str) -> int:
    """How many characters at the end of a text may yet belong to a mark, or to the blanks in front of one."""
    begun = next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)
    rest = text[: len(text) - begun]
    return begun + len(rest) - len(rest.rstrip())
