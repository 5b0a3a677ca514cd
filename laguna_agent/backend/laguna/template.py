"""A checkpoint's own chat template: where it lies, and a conversation rendered by it.

Knows messages and files of a checkpoint; must not know token ids. Our code holds no template: a checkpoint without one
is refused, with the way to supply it (specification section 9).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateError, TemplateNotFound

from laguna_agent.backend.laguna.chat_family import ChatFamily, chat_family
from laguna_agent.backend.laguna.config_fields import read_object
from laguna_agent.backend.laguna.template_sandbox import SECONDS, Budget, TemplateStopped, sandbox
from laguna_agent.errors import ConfigError, UsageError
from laguna_agent.messages import Message, ToolSpec

_LARGEST_FILE = 1_000_000
_SUPPLY = "put one into chat_template.jinja beside the weights, or name a file with --chat-template"


class Thinking(msgspec.Struct, frozen=True):
    """What a request asks of the template. `enabled` None leaves the template's own default; `preserved` keeps the
    reasoning of earlier turns where the template can drop it."""

    enabled: bool | None = True
    preserved: bool = True


_THINKING = Thinking()


class ChatTemplate:
    """One template, compiled. `source` names it in errors; `texts` are the files it may include, by name.

    Safe to use from several threads; renders follow one another.
    """

    def __init__(
        self, text: str, *, source: str, texts: dict[str, str] | None = None, seconds: float = SECONDS
    ) -> None:
        self.source = source
        files = dict(texts or {})
        included = "".join(other for name, other in files.items() if name in text)
        if len(text) + len(included) > _LARGEST_FILE:
            raise ConfigError(f"{source}: the chat template has more than {_LARGEST_FILE:,} characters")
        self.family: ChatFamily = chat_family(text + included)
        self._lock = threading.Lock()
        self._budget = Budget(source, seconds)
        self._environment = sandbox(self._budget, files.get, time.localtime())
        self._special: dict[str, str] = {}
        try:
            self._template = self._environment.from_string(text)
        except TemplateError as error:
            raise ConfigError(f"{source}: the chat template is not valid Jinja: {error}") from None
        except RecursionError:
            raise ConfigError(f"{source}: the chat template is nested too deeply") from None

    def with_special_tokens(self, special: dict[str, str]) -> ChatTemplate:
        """This template, told the texts of `bos_token`, `eos_token` and the like, which some write."""
        self._special = dict(special)
        return self

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinking: Thinking = _THINKING,
        for_answer: bool = True,
    ) -> str:
        """The prompt's text; `for_answer` ends it with the opening of the next answer.

        Raises TemplateRefused where the template raises an error of its own, TemplateStopped where it exceeds its caps,
        UsageError where it fails.
        """
        values: dict[str, Any] = {**self._special, "messages": [wire_message(message) for message in messages]}
        values["tools"] = [wire_tool(tool) for tool in tools] or None
        values["add_generation_prompt"] = for_answer
        if thinking.enabled is not None:
            values["enable_thinking"] = thinking.enabled
        # Templates name it in more ways than one; the ones they do not know are ignored.
        values["preserve_thinking"] = thinking.preserved
        values["clear_thinking"] = not thinking.preserved
        with self._lock:
            self._budget.begin()
            try:
                return "".join(self._template.generate(values))
            except UsageError:
                raise
            except RecursionError:
                raise TemplateStopped(
                    f"{self.source}: the chat template was stopped: it calls itself for ever"
                ) from None
            except MemoryError:
                raise TemplateStopped(f"{self.source}: the chat template was stopped: it used up the memory") from None
            except TemplateNotFound as error:
                raise ConfigError(
                    f"{self.source}: the chat template includes {error.name!r}, which is absent"
                ) from None
            except Exception as error:  # noqa: BLE001 - a template can raise whatever Python can
                raise UsageError(
                    f"{self.source}: the chat template failed: {type(error).__name__}: {str(error)[:300]}"
                ) from None


def wire_message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: content flattened to text, arguments as objects, reasoning under both names.

    Raises UsageError for images, which no text template can place.
    """
    if len(message.content) != sum(block.__struct_config__.tag == "text" for block in message.content):
        raise UsageError(f"a {message.role} message holds an image, and the local model reads text only")
    wire: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        wire |= {"reasoning": message.reasoning, "reasoning_content": message.reasoning}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    if message.name:
        wire["name"] = message.name
    return wire


def wire_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as templates expect it; key order is the order that is rendered."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def read_template(folder: Path, *, file: Path | None = None) -> ChatTemplate:
    """The template of the checkpoint in `folder`, or the one in `file` where a person names one.

    chat_template.jinja goes before the `chat_template` of tokenizer_config.json, as in transformers; of several named
    ones, `tool_use` goes before `default`. Raises ConfigError where there is none.
    """
    texts = {path.name: _text(path) for path in sorted(folder.glob("*.jinja"))}
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.is_file() else {}
    if file is not None:
        found, source = _text(file), str(file)
    elif "chat_template.jinja" in texts:
        found, source = texts["chat_template.jinja"], str(folder / "chat_template.jinja")
    else:
        found, source = _configured(config.get("chat_template"), config_path), str(config_path)
    if not found.strip():
        raise ConfigError(f"{folder}: the checkpoint has no chat template; {_SUPPLY}")
    return ChatTemplate(found, source=source, texts=texts).with_special_tokens(_special_tokens(config))


def template_from_gguf(metadata: Mapping[str, Any], source: str) -> ChatTemplate:
    """The template in a GGUF file's metadata (`tokenizer.chat_template`, or the one named `tool_use`)."""
    text = metadata.get("tokenizer.chat_template.tool_use") or metadata.get("tokenizer.chat_template")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{source}: the file has no tokenizer.chat_template; {_SUPPLY}")
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    special = {}
    for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")):
        index = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(index, int) and 0 <= index < len(tokens):
            special[name] = tokens[index]
    return ChatTemplate(text, source=source).with_special_tokens(special)


def _configured(value: Any, path: Path) -> str:
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("tool_use") or named.get("default")
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{path}: chat_template is {type(value).__name__}, expected text")
    return value or ""


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: the chat template is no regular file")
        if path.stat().st_size > 4 * _LARGEST_FILE:
            raise ConfigError(f"{path}: the chat template has more than {_LARGEST_FILE:,} characters")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the chat template cannot be read: {error}") from None
