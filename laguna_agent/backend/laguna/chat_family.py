"""What a chat template is, told from its text: the call syntax, the thinking switches, the style of the tags.

Knows the families of specification section 9 and the hermes form (Qwen); renders nothing.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

CallSyntax = Literal["poolside", "hermes"]


class ChatFamily(msgspec.Struct, frozen=True):
    """What the parser and the grammar must know of a template.

    `call_syntax` is None where the template shows no tools. `line_tags` says that tags stand on lines of their own
    (poolside's newline style, and hermes), so that white space around what is said means nothing; where a template
    writes no tags at all, a model goes on with a text, and every space is its own. `thinking` and `keeps_thinking` say
    whether the template asks for `enable_thinking` and `preserve_thinking`; `reasoning` whether it writes the reasoning
    of earlier turns at all.
    """

    call_syntax: CallSyntax | None
    line_tags: bool
    thinking: bool
    keeps_thinking: bool
    reasoning: bool


def chat_family(text: str) -> ChatFamily:
    """The family of a template's text, all that it includes in it."""
    poolside = "<arg_key>" in text and "<tool_call>" in text
    hermes = not poolside and "<tool_call>" in text and re.search(r'\\?"name\\?"', text) is not None
    # A line break after a tag is written as itself, or as \n inside a string of Jinja.
    broken = re.search(r"<user>-?%?\}?(?:\\n|\n)|<arg_value>(?:\\n|\n)|</arg_key>(?:\\n|\n)", text) is not None
    return ChatFamily(
        call_syntax="poolside" if poolside else "hermes" if hermes else None,
        line_tags=broken if poolside else "<" in text,
        thinking="enable_thinking" in text,
        keeps_thinking="preserve_thinking" in text,
        reasoning="reasoning" in text,
    )
