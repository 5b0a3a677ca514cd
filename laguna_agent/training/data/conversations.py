"""Conversations to learn from: read from JSONL, and rendered so that only what the assistant wrote has weight.

A conversation is rendered turn by turn by the checkpoint's own template: the prompt that asks for each answer, and the
answer after it. What is learned are the tokens that the engine would have to write after the tokens it would have read,
cut where it would cut them (`backend/laguna/prompt.py`). Knows messages, templates and token ids; must not know packs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from laguna_agent.backend.call_values import parse_arguments
from laguna_agent.backend.laguna.quoting import Quoting
from laguna_agent.backend.laguna.template import ChatTemplate, Thinking
from laguna_agent.backend.laguna.tokenizer import Tokenizer, stop_ids
from laguna_agent.errors import DatasetError, UsageError
from laguna_agent.messages import Message, TextBlock, ToolCall, ToolSpec
from laguna_agent.training.data import documents
from laguna_agent.training.data.contents import schema_of
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.store import Store, Version

KIND = "conversations"
"""Their columns are those of documents; `text` is the JSON of one conversation, `path` its file and line."""
LARGEST_LINE = 64 << 20
_THINK, _THINK_END = "<think>", "</think>"


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | str = {}
    description: str = ""
    parameters: dict[str, Any] = {}


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Text(msgspec.Struct):
    text: str
    type: Literal["text"] = "text"


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_Text] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    weight: float = 1.0


class _Tool(msgspec.Struct):
    function: _Function


class _Conversation(msgspec.Struct):
    messages: list[_Message]
    tools: list[_Tool] | None = None


class Conversation(msgspec.Struct, frozen=True):
    """Messages and the tools that they could call; `weights` are what each message counts, 0 for all but answers.
    `source` names it in errors: file and line."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    weights: tuple[float, ...]
    source: str


class Rendered(msgspec.Struct, frozen=True):
    """A conversation as tokens; `weights` [tokens] are above 0 where an assistant wrote the token."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def answered(self) -> bool:
        """Whether there is anything to learn."""
        return any(self.weights[1:])

    def predicting(self) -> list[float]:
        """The weights as packs have them: each token's is that of the token after it, which it must predict."""
        return [*self.weights[1:], 0.0]


def ingest_conversations(store: Store, files: Sequence[Path], *, shards: int = 16, name: str | None = None) -> Version:
    """The conversations of JSONL files as a version, a line each: {"messages": [...], "tools": [...]}, spelled as
    OpenAI's API spells them; `"weight": 0` in an answer leaves it out of what is learned.

    Raises DatasetError that names file and line of the first one that is none.
    """
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        for number, line in _lines(file):
            path = f"{file.name}:{number}"
            text = _canonical(line, path)
            row: dict[str, Any] = {
                "id": hashlib.sha256(text.encode()).hexdigest(),
                "source": file.stem,
                "path": path,
                "text": text,
            }
            row |= {"language": "conversation", "flags": [], "score": 0.0, "bucket": -1}
            rows[documents.bucket_of(file.stem, path, shards)].append(row)
    schema = schema_of(documents.COLUMNS)
    tables = [pa.Table.from_pylist(rows[at], schema) for at in sorted(rows)]
    return store.write(
        KIND,
        tables,
        operation="conversations",
        config={"shards": shards, "files": [file.name for file in files]},
        code=code_of((__name__,)),
        schema=documents.COLUMNS,
        name=name,
    )


def read_conversation(text: str, source: str) -> Conversation:
    """A conversation of its JSON. Raises DatasetError that names `source` and what is wrong."""
    try:
        told = msgspec.json.decode(text, type=_Conversation)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DatasetError(f"{source}: no conversation: {str(error)[:200]}") from None
    tools = tuple(
        ToolSpec(tool.function.name, tool.function.description, tool.function.parameters) for tool in told.tools or ()
    )
    messages = tuple(_message(each, f"{source}, message {at}") for at, each in enumerate(told.messages, 1))
    if not messages:
        raise DatasetError(f"{source}: a conversation without a message")
    weights = tuple(each.weight if each.role == "assistant" else 0.0 for each in told.messages)
    if not all(0 <= weight <= 1 for weight in weights):
        raise DatasetError(f"{source}: an answer's weight is not between 0 and 1")
    return Conversation(messages, tools, weights, source)


class Renderer:
    """Renders for one checkpoint. `thinking` None asks for it where any answer of a conversation has reasoning; False
    leaves all reasoning out."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, thinking: bool | None = None) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._thinking = thinking
        self._quoting = Quoting(tokenizer)
        special = [index for index in sorted(tokenizer.special) if tokenizer.token_bytes[index]]
        self._stops = [tokenizer.decode([index]) for index in sorted({*special, *stop_ids(tokenizer, ())})]

    def render(self, conversation: Conversation) -> Rendered:
        """The conversation's tokens and weights. Raises DatasetError that names the conversation, where the template
        refuses it or rewrites what came before when a message is appended."""
        quoted = replace(
            conversation,
            messages=tuple(self._quoted(message) for message in conversation.messages),
            tools=self._quoting.tools(conversation.tools),
        )
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in self._stretches(quoted):
            # Cut where the engine cuts: what it writes is tokenised apart from what it has read.
            more = self._quoting.encode(text) if text else []
            ids += more
            weights += [weight] * len(more)
        return Rendered(tuple(ids), tuple(weights))

    def _stretches(self, conversation: Conversation) -> Iterator[tuple[str, float]]:
        """(text, weight) behind one another: what is read, what is written, what is read, ..."""
        thinking = self._thinking
        if thinking is None:
            thinking = any(message.reasoning for message in conversation.messages)
        whole = self._text(conversation, len(conversation.messages), thinking, for_answer=False)
        done = ""
        for at, message in enumerate(conversation.messages):
            if message.role != "assistant":
                continue
            turn = self._text(conversation, at + 1, thinking, for_answer=False)
            prompt = self._prompt(conversation, at, thinking, turn)
            if not (turn.startswith(prompt) and prompt.startswith(done) and whole.startswith(turn)):
                raise DatasetError(
                    f"{conversation.source}: {self.template.source} writes message {at + 1} in another way when it "
                    "asks for it, or when more follows, so that its own words cannot be told; use a template "
                    "that keeps earlier turns"
                )
            end = self._end(turn, len(prompt))
            yield prompt[len(done) :], 0.0
            yield turn[len(prompt) : end], conversation.weights[at]
            done = turn[:end]
        yield whole[len(done) :], 0.0

    def _prompt(self, conversation: Conversation, at: int, thinking: bool, turn: str) -> str:
        """What asks for the answer that `turn` ends with. Some templates begin an answer without a thought as one that
        was asked for without."""
        prompt = self._text(conversation, at, thinking, for_answer=True)
        if not turn.startswith(prompt):
            other = self._text(conversation, at, not thinking, for_answer=True)
            return other if turn.startswith(other) else prompt
        return prompt

    def _end(self, turn: str, start: int) -> int:
        """Where the answer that begins at `start` ends: after the last token that ends answers; what the template
        writes behind it (a line break) is not the assistant's. Without such a token the whole is."""
        found = [at + len(stop) for stop in self._stops if (at := turn.rfind(stop, start)) >= 0]
        return max(found, default=len(turn))

    def _text(self, conversation: Conversation, messages: int, thinking: bool, *, for_answer: bool) -> str:
        try:
            return self.template.render(
                conversation.messages[:messages],
                conversation.tools,
                thinking=Thinking(enabled=thinking),
                for_answer=for_answer,
            )
        except UsageError as error:
            raise DatasetError(f"{conversation.source}: {error}") from None

    def _quoted(self, message: Message) -> Message:
        """The message with every tag quoted that it spells, in answers too: a data set's texts are anybody's."""
        text = self._quoting.text
        return replace(
            message,
            content=tuple(TextBlock(text(block.text)) for block in message.content if isinstance(block, TextBlock)),
            tool_call_id=text(message.tool_call_id),
            name=text(message.name),
            reasoning="" if self._thinking is False else text(message.reasoning),
            tool_calls=tuple(
                replace(call, id=text(call.id), name=text(call.name), arguments=_each_text(call.arguments, text))
                for call in message.tool_calls
            ),
        )


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(each, change) for key, each in value.items()}
    return [_each_text(each, change) for each in value] if isinstance(value, list) else value


def _message(told: _Message, source: str) -> Message:
    content = told.content if isinstance(told.content, str) else "".join(part.text for part in told.content or ())
    reasoning = told.reasoning or told.reasoning_content or ""
    if told.role == "assistant" and not reasoning and content.lstrip().startswith(_THINK) and _THINK_END in content:
        # Many data sets write the thought into the answer, where it would become ordinary text.
        thought, _, content = content.partition(_THINK_END)
        reasoning, content = thought.lstrip().removeprefix(_THINK).strip("\n"), content.lstrip("\n")
    return Message(
        told.role,
        (TextBlock(content),) if content else (),
        tuple(_call(call, source) for call in told.tool_calls or ()),
        told.tool_call_id or "",
        told.name or "",
        reasoning,
    )


def _call(told: _Call, source: str) -> ToolCall:
    arguments = told.function.arguments
    if isinstance(arguments, str):
        arguments_or_reason = parse_arguments(arguments) if arguments.strip() else {}
        if isinstance(arguments_or_reason, str):
            raise DatasetError(f"{source}: the call of {told.function.name!r}: {arguments_or_reason}")
        arguments = arguments_or_reason
    return ToolCall(told.id, told.function.name, arguments)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(LARGEST_LINE + 1):
                number += 1
                if len(line) > LARGEST_LINE:
                    raise DatasetError(f"{file.name}:{number}: a line of more than {LARGEST_LINE:,} bytes")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror or error}") from None


def _canonical(line: bytes, source: str) -> str:
    """The line's JSON in one spelling, keys in their order: a template shows tools as they are spelled."""
    try:
        text = line.decode()
        value = msgspec.json.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise DatasetError(f"{source}: no JSON: {str(error)[:200]}") from None
    read_conversation(text, source)
    return msgspec.json.encode(value).decode()
