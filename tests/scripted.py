"""A tiny Llama that computes as any other and says what it is told to: for what depends on a reply, such as tool calls.
Engine, KV, chat template, tokenizer and streaming are real; only the choice of the next token is not the weights'."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from activation.tiny import make_model, make_tokenizer

from memos_core.activation import LoadedModel

_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}CALL{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# In the words by which Qwen's and Llama 3's templates have calls written, and as they show them again.
HERMES = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}Answer within <tool_call>"
    '</tool_call>: {"name": <function-name>, "arguments": <args-json-object>}<|im_end|>\n{% endif %}'
) + _TURNS.replace("CALL", "<tool_call>\n{{ c.function | tojson }}\n</tool_call>")
LLAMA = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}Respond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.<|im_end|>\n{% endif %}'
) + _TURNS.replace(
    "CALL", '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
)

Says = str | tuple[str, dict[str, Any]]
"""What is said: a text, or a tool's name and arguments."""


def scripted(
    replies: Mapping[str, Says], template: str = HERMES, *, otherwise: Says = "Noted."
) -> LoadedModel:
    """A model that answers by the question. Ask it with `reuse=False`: it must see whole prompts.

    Args:
        replies: for questions that hold the key. otherwise: for others, and once a tool has answered.
    """
    tokenizer = make_tokenizer(template=template)
    model = make_model(len(tokenizer), num_hidden_layers=1)
    compute = model.forward
    read: dict[int, list[int]] = {}  # what each request's cache was given
    left: dict[int, Iterator[int]] = {}

    def forward(
        input_ids: Any = None, past_key_values: Any = None, logits_to_keep: int = 0, **how: Any
    ) -> Any:
        me, start = id(past_key_values), past_key_values.get_seq_length()
        output = compute(
            input_ids=input_ids, past_key_values=past_key_values, logits_to_keep=logits_to_keep, **how
        )
        read[me] = [*read.get(me, [])[:start], *input_ids[0].tolist()]
        if start == 0 or input_ids.shape[1] > 1:
            left[me] = iter(tokenizer.encode(_rest(tokenizer.decode(read[me]), replies, otherwise, template)))
        output.logits[0, -1] = -1e9
        output.logits[0, -1, next(left.get(me, iter(())), tokenizer.eos_token_id)] = 0.0
        return output

    model.forward = forward
    return LoadedModel(model, tokenizer, "scripted")


def _rest(prompt: str, replies: Mapping[str, Says], otherwise: Says, template: str) -> str:
    """What is still to be said after a prompt, in which the reply may have begun."""
    before, _, begun = prompt.rpartition("<|im_start|>assistant\n")
    question = before.rpartition("<|im_start|>user\n")[2]
    answered = "<|im_start|>tool" in question
    says = otherwise if answered else next((r for key, r in replies.items() if key in question), otherwise)
    if isinstance(says, str):
        return says
    name, arguments = json.dumps(says[0]), json.dumps(says[1], ensure_ascii=False)
    hermes = "<tool_call>" in template
    key, close = ("arguments", "\n</tool_call>") if hermes else ("parameters", "")
    if begun.rstrip().endswith(f'"{key}":'):
        return f" {arguments}}}{close}"
    if begun.rstrip().endswith('"name":'):
        return f' {name}, "{key}": {arguments}}}{close}'
    start = "<tool_call>\n" if hermes else ""
    return f'{start}{{"name": {name}, "{key}": {arguments}}}{close}'
