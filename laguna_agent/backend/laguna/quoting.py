"""Text that people, files, commands and servers wrote is never read as a tag of the chat.

A file may hold `</assistant>` or `<tool_call>`. Rendered into a prompt these would become control tokens, and whoever
wrote the file would speak with another's voice. So the first character of every such text is replaced by a
stand-in before the template sees it, and when the prompt becomes ids it is put back and cut off from the rest: the
model reads the same characters, as ordinary tokens. What it wrote itself is left alone. Knows tokenizers and messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from laguna_agent.backend.laguna.tokenizer import Tokenizer
from laguna_agent.errors import ConfigError
from laguna_agent.messages import Message, TextBlock, ToolSpec

# Unicode reserves these 32 for a program's own use; they are no characters of any text.
_RESERVED = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_REPLACEMENT = "\ufffd"


class Quoting:
    """What has to be quoted for one tokenizer: the texts of its added tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        texts = sorted((tokenizer.decode([index]) for index in tokenizer.added), key=len, reverse=True)
        firsts = sorted({text[0] for text in texts if text})
        if len(firsts) > len(_RESERVED):
            raise ConfigError(
                f"{tokenizer.source}: its added tokens begin with {len(firsts)} different characters, at most "
                f"{len(_RESERVED)} can be told from text"
            )
        self._stand_in = dict(zip(firsts, _RESERVED, strict=False))
        self._character = {stand_in: first for first, stand_in in self._stand_in.items()}
        usable = [re.escape(text) for text in texts if text]
        self._tag = re.compile("|".join(usable)) if usable else None
        self._cut = re.compile("([" + "".join(self._character) + "])") if usable else None

    def messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with every tag quoted in what the model did not write; same lengths in characters."""
        return tuple(message if message.role == "assistant" else self._quoted(message) for message in messages)

    def tools(self, tools: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
        """The tools with every tag quoted: their words come from servers too."""
        return tuple(
            ToolSpec(self.text(tool.name), self.text(tool.description), self._value(tool.parameters)) for tool in tools
        )

    def text(self, text: str) -> str:
        """`text` with a stand-in for the first character of every tag; reserved code points become U+FFFD."""
        if self._tag is None:
            return text
        if any(stand_in in text for stand_in in _RESERVED):
            text = "".join(_REPLACEMENT if char in _RESERVED else char for char in text)
        return self._tag.sub(lambda tag: self._stand_in[tag[0][0]] + tag[0][1:], text)

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered prompt. A tag without a stand-in is a tag."""
        if self._cut is None:
            return self.tokenizer.encode(text)
        ids: list[int] = []
        pieces = self._cut.split(text)
        for number in range(0, len(pieces), 2):
            first = self._character[pieces[number + 1]] if number + 1 < len(pieces) else ""
            if piece := pieces[number] + first:
                ids += self.tokenizer.encode(piece)
        return ids

    def _quoted(self, message: Message) -> Message:
        blocks = tuple(
            TextBlock(self.text(block.text)) if isinstance(block, TextBlock) else block for block in message.content
        )
        return message if blocks == message.content else replace(message, content=blocks)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._value(each) for key, each in value.items()}
        return [self._value(each) for each in value] if isinstance(value, list | tuple) else value
