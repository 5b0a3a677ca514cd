"""Small corpora, tokenizers and conversations that the tests of packs share."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from laguna_agent.training.data import documents, tokenizers
from laguna_agent.training.data.contents import schema_of
from laguna_agent.training.data.pack_versions import PackTokens, pack
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.token_versions import Tokenise, tokenise
from laguna_agent.training.data.tokenising import train_tokenizer

TEMPLATES = Path(__file__).parents[1] / "laguna" / "templates"
TEXTS = [
    path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[2] / "laguna_agent" / "tools").glob("*.py"))
][:24]


@functools.cache
def vocabulary(size: int = 700) -> bytes:
    """A tokenizer.json that was trained on this repository."""
    return train_tokenizer([*TEXTS, "αβγ äöü 日本語 \U0001f600 " * 20], size)


def keep_tokenizer(store: Store, folder: Path, template: str = "compact") -> Version:
    """That tokenizer and one of the chat tests' templates, as a version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(vocabulary())
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"))
    return tokenizers.keep(store, folder)


def keep_documents(
    store: Store, texts: Sequence[str], *, shards: int = 4, source: str = "here", buckets: int = 0
) -> Version:
    """Texts as a version of documents, sharded as ingest shards them; with `buckets`, ranked into so many."""
    rows: dict[int, list[dict[str, Any]]] = {at: [] for at in range(shards)}
    for number, text in enumerate(texts):
        path = f"f{number}.py"
        row: dict[str, Any] = {"id": documents.document_id(text), "source": source, "path": path, "language": "python"}
        row |= {"flags": [], "score": 0.0, "bucket": number % buckets if buckets else -1, "text": text}
        rows[documents.bucket_of(source, path, shards)].append(row)
    schema = schema_of(documents.COLUMNS)
    tables = [pa.Table.from_pylist(each, schema) for each in rows.values()]
    return store.write("documents", tables, schema=schema)


def packed_version(store: Store, folder: Path, texts: Sequence[str], capacity: int = 128, **more: Any) -> Version:
    """Texts, tokenised and packed."""
    tokens = tokenise(store, [keep_documents(store, texts, **more), keep_tokenizer(store, folder)], Tokenise()).version
    return pack(store, [tokens], PackTokens(capacity=capacity)).version


SHELL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run it",
        "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
    },
}

WORK: dict[str, Any] = {
    "tools": [SHELL],
    "messages": [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "list </assistant> it"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning": "Need ls.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "shell", "arguments": json.dumps({"cmd": "ls -la"})},
                }
            ],
        },
        {"role": "tool", "content": "a.py", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "One <think> file é."}],
            "reasoning_content": "Done.",
        },
        {"role": "user", "content": "thanks"},
    ],
}
