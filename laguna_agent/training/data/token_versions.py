"""Documents and conversations as versions of tokens, shard by shard: what did not change is not tokenised again.

Knows the store; how text becomes ids is said elsewhere (`tokenising.py`, `conversations.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from laguna_agent.backend.laguna import quoting, template, template_sandbox, tokenizer
from laguna_agent.errors import ConfigError
from laguna_agent.training.data import conversations, pack_rows, tokenising, tokenizers
from laguna_agent.training.data.conversations import Renderer
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.operations import Operation, Outcome, work_of
from laguna_agent.training.data.pack_rows import TOKENS, Tokens
from laguna_agent.training.data.store import Built, Store, Version

KIND = "tokens"
_TEXT = (__name__, tokenising.__name__, pack_rows.__name__, tokenizer.__name__, quoting.__name__)
_CHAT = (*_TEXT, conversations.__name__, template.__name__, template_sandbox.__name__)


class Tokenise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`end` is the token before and after each document. `thinking`: whether conversations are rendered with it; null
    is whether any of their answers has reasoning."""

    end: str = tokenising.END_OF_TEXT
    thinking: bool | None = None


def tokenise(store: Store, parents: Sequence[Version], config: Tokenise, name: str | None = None) -> Outcome:
    """The tokens of a version of documents or conversations, by a version of kind `tokenizer`; the two in any order.

    Raises ConfigError for other versions, DatasetError for a conversation that cannot be rendered.
    """
    texts, chosen = _two(parents)
    files = [shard.content for shard in chosen.shards]
    chats = texts.kind == conversations.KIND
    renderer = (
        Renderer(tokenizers.open_template(chosen), tokenizers.open_tokenizer(chosen), config.thinking)
        if chats
        else None
    )
    plain = None if chats else tokenising.DocumentTokenizer(tokenizers.open_tokenizer(chosen), config.end)
    code = code_of(_CHAT if chats else _TEXT, ("tokenizers", "jinja2") if chats else ("tokenizers",))
    settings: dict[str, Any] = msgspec.to_builtins(config)

    def shard(at: int) -> Built:
        table = texts.table(at, ["id", "source", "path", "bucket", "text"])
        if renderer is not None:
            return _rendered(renderer, table.to_pylist())
        assert plain is not None
        return _tokenised(plain, table), {}

    done = [
        store.derived(
            "tokenise", code, {"texts": told.content, "tokenizer": files, "settings": settings}, partial(shard, at)
        )
        for at, told in enumerate(texts.shards)
    ]
    version = store.write(
        KIND,
        [each.shard for each in done],
        parents=[texts, chosen],
        operation="tokenise",
        config=settings | {"tokenizer": files},
        code=code,
        schema=TOKENS,
        name=name,
    )
    return Outcome(version, (work_of("tokenise", done),))


def _two(parents: Sequence[Version]) -> tuple[Version, Version]:
    chosen = [each for each in parents if each.kind == tokenizers.KIND]
    texts = [each for each in parents if each.kind in {"documents", conversations.KIND}]
    if len(parents) != 2 or len(chosen) != 1 or len(texts) != 1:
        told = ", ".join(each.kind for each in parents)
        raise ConfigError(f"tokenise works on documents or conversations and a tokenizer; it was given {told}")
    return texts[0], chosen[0]


def bucket_name(bucket: int) -> str:
    """How blends call a quality bucket: B0, B1, ...; "" for documents that were not ranked."""
    return f"B{bucket}" if bucket >= 0 else ""


def _tokenised(plain: tokenising.DocumentTokenizer, table: pa.Table) -> pa.Table:
    rows = table.select(["id", "source", "bucket"]).to_pylist()
    each = plain.each(table.column("text").to_pylist())
    return pack_rows.token_table(
        [
            Tokens(row["id"], row["source"], bucket_name(row["bucket"]), np.array(ids, np.int32))
            for row, ids in zip(rows, each, strict=True)
        ]
    )


def _rendered(renderer: Renderer, rows: Iterable[dict[str, Any]]) -> Built:
    found: list[Tokens] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        conversation = conversations.read_conversation(row["text"], row["path"])
        rendered = renderer.render(conversation)
        if not rendered.answered:
            left_out["no answer to learn"] += 1
            continue
        ids, weights = np.array(rendered.ids, np.int32), np.array(rendered.predicting(), np.float32)
        found.append(Tokens(row["id"], row["source"], bucket_name(row["bucket"]), ids, weights))
    return pack_rows.token_table(found), {"left_out": dict(left_out)} if left_out else {}


def _run(store: Store, parents: Sequence[Version], config: Any) -> Outcome:
    return tokenise(store, parents, config)


OPERATION = Operation("tokenise", Tokenise, _run)
