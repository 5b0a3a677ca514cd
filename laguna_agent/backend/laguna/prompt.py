"""A conversation as token ids, which grow at the end as the conversation does.

Knows templates, the tokenizer and the answer parser; must not know caches or models. The cache keeps what the model has
read, so ids that were read must come again: a prompt is written after an earlier one, and keeps its ids and those that
the model itself wrote, however the template would spell them, as long as both read as the same message. Where a
template changes what it has written before, the ids follow the template, and `Prompt.changed` says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from laguna_agent.backend.base import ReasoningDelta, TextDelta, ToolCallDelta
from laguna_agent.backend.call_values import parse_arguments
from laguna_agent.backend.laguna.answer_stream import THINK, THINK_END, AnswerStream
from laguna_agent.backend.laguna.quoting import Quoting
from laguna_agent.backend.laguna.template import ChatTemplate, Thinking
from laguna_agent.backend.laguna.tokenizer import Tokenizer
from laguna_agent.messages import Message, ToolSpec

_OPENERS = ("<assistant>", "<|im_start|>assistant")
_THINKING = Thinking()


class Prompt(msgspec.Struct, frozen=True):
    """A rendered conversation, and the answer to it so far.

    `ids` are to be read by the model, the first `kept` of them equal those of the prompt it was written after, answer
    included. `in_thought` says that it ends inside a thought. `changed` is "" or tells how the template broke the rule
    that an appended message changes nothing before it. `text` is what the ids stand for, tags that
    somebody else wrote quoted (`quoting.py`).
    """

    ids: tuple[int, ...]
    text: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    thinking: Thinking
    in_thought: bool
    kept: int = 0
    changed: str = ""
    answer: tuple[int, ...] = ()

    def answered(self, ids: Sequence[int]) -> Prompt:
        """This prompt with what the model wrote after it, its stop token included where it wrote one."""
        return msgspec.structs.replace(self, answer=tuple(ids))


class PromptWriter:
    """Writes prompts for one checkpoint."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.quoting = Quoting(tokenizer)

    def write(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinking: Thinking = _THINKING,
        after: Prompt | None = None,
    ) -> Prompt:
        """The prompt that asks for an answer to `messages`, written after an earlier prompt of the same checkpoint,
        which may be of another conversation: then only a common beginning is kept."""
        text = self._render(messages, tools, thinking)
        prompt = Prompt((), text, tuple(messages), tuple(tools), thinking, _ends_in_thought(text))
        if after is None:
            return msgspec.structs.replace(prompt, ids=tuple(self.quoting.encode(text)))
        read = after.ids + after.answer
        read_text = after.text + self.tokenizer.decode(after.answer)
        rest = text[len(read_text) :] if text.startswith(read_text) else self._after_same_turn(prompt, after)
        if rest is not None:
            ids = read + tuple(self.quoting.encode(rest))
            return msgspec.structs.replace(prompt, ids=ids, text=read_text + rest, kept=len(read))
        kept, at = self._common(read, read_text, text)
        ids = read[:kept] + tuple(self.quoting.encode(text[at:]))
        return msgspec.structs.replace(prompt, ids=ids, kept=kept, changed=self._change(prompt, after))

    def _render(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking, *, for_answer: bool = True
    ) -> str:
        quoted, described = self.quoting.messages(messages), self.quoting.tools(tools)
        return self.template.render(quoted, described, thinking=thinking, for_answer=for_answer)

    def _after_same_turn(self, prompt: Prompt, after: Prompt) -> str | None:
        """What follows the answer of `after` in `prompt`, where the template spells that answer in another way that
        reads the same; None where it does not."""
        number = len(after.messages)
        if not after.answer or prompt.messages[:number] != after.messages or not prompt.text.startswith(after.text):
            return None
        turn_end = self._render(prompt.messages[: number + 1], prompt.tools, prompt.thinking, for_answer=False)
        if not prompt.text.startswith(turn_end) or not turn_end.startswith(after.text):
            return None
        spelled, answer = turn_end[len(after.text) :], self.tokenizer.decode(after.answer)
        if self._reading(spelled, after) != self._reading(answer, after):
            return None
        stop = self._last_tag(spelled)
        closing = spelled[spelled.rindex(stop) :] if stop else ""
        if stop and answer.endswith(stop):
            closing = closing[len(stop) :]
        return closing + prompt.text[len(turn_end) :]

    def _last_tag(self, spelled: str) -> str:
        """The token that closes a turn: the last added token in it; "" where there is none."""
        for index in reversed(self.tokenizer.encode(spelled)):
            if index in self.tokenizer.added:
                return self.tokenizer.decode([index])
        return ""

    def _reading(self, text: str, after: Prompt) -> tuple[str, str, list[tuple[str, object]]]:
        for index in self.tokenizer.special | {self.tokenizer.id_of("<|im_end|>")}:
            if index is not None:
                text = text.split(self.tokenizer.decode([index]))[0]
        stream = AnswerStream(after.tools, in_thought=after.in_thought, padded=self.template.family.line_tags)
        out = [*stream.feed(text), *stream.finish()]
        names = [(delta.index, delta.name) for delta in out if isinstance(delta, ToolCallDelta) and delta.name]
        arguments = dict.fromkeys((index for index, _ in names), "")
        for delta in out:
            if isinstance(delta, ToolCallDelta):
                arguments[delta.index] += delta.arguments
        reasoning = "".join(delta.text for delta in out if isinstance(delta, ReasoningDelta))
        content = "".join(delta.text for delta in out if isinstance(delta, TextDelta))
        calls: list[tuple[str, object]] = [(name, parse_arguments(arguments[index])) for index, name in names]
        return reasoning.strip(), content.strip(), calls

    def _common(self, read: tuple[int, ...], read_text: str, text: str) -> tuple[int, int]:
        """(tokens, characters) of the longest beginning of what was read that `text` shares and that ends at an added
        token: there, and only there, text can be cut without changing its tokens."""
        shared = _shared(read_text, text)
        kept = at = position = 0
        pending = b""
        for number, index in enumerate(read, 1):
            pending += self.tokenizer.token_bytes[index]
            if index in self.tokenizer.added:
                position += len(pending.decode("utf-8", "replace"))
                pending = b""
                if position > shared:
                    break
                kept, at = number, position
        return kept, at

    def _change(self, prompt: Prompt, after: Prompt) -> str:
        """What the template did to messages that it had rendered before; "" where it kept them."""
        number = len(after.messages)
        same = (prompt.tools, prompt.thinking) == (after.tools, after.thinking)
        if not same or len(prompt.messages) <= number or prompt.messages[:number] != after.messages:
            return ""
        before = self._render(after.messages, after.tools, after.thinking, for_answer=False)
        if prompt.text.startswith(before):
            return ""
        at = _shared(before, prompt.text)
        return (
            f"{self.template.source}: the chat template changes earlier text when a message is appended, at character "
            f"{at:,} of {len(before):,}: {before[at : at + 40]!r} became {prompt.text[at : at + 40]!r}; "
            "what follows is read again"
        )


def _ends_in_thought(text: str) -> bool:
    """Whether the opening of the next answer, and no earlier text, leaves a thought open (specification section 10)."""
    opening = text[max(text.rfind(opener) for opener in _OPENERS) :] if any(map(text.count, _OPENERS)) else ""
    return opening.rfind(THINK) > opening.rfind(THINK_END)


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common; halving, for the texts are long and comparing is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
