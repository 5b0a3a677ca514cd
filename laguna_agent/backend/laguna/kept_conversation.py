"""A conversation's keys and values beside its session, so that a resumed one is not read again.

Two files in a folder: `cache.kv` (see `cache_file.py`) and `prompts.json`, which says what its tokens stand for: the
last prompt with its answer, and where in it each earlier one ended. They are a cache: whatever is wrong with them, the
conversation is read anew. Knows files and prompts; must not know sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.backend.laguna.cache_file import load_cache, save_cache
from laguna_agent.backend.laguna.conversations import Conversations
from laguna_agent.backend.laguna.prompt import Prompt
from laguna_agent.directories import private_directory
from laguna_agent.errors import LagunaError

CACHE, PROMPTS = "cache.kv", "prompts.json"
FEWEST = 256
"""Tokens from which reading a file is quicker than reading the conversation again."""


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """Where an earlier prompt ends within the last one: counts of messages, ids, ids of its answer, characters."""

    messages: int
    ids: int
    answer: int
    text: int
    in_thought: bool


class _Kept(msgspec.Struct, frozen=True):
    identity: str
    last: Prompt
    earlier: tuple[_Mark, ...]


def keep(conversations: Conversations, prompt: Prompt, folder: Path) -> bool:
    """Write the conversation that `prompt` ends to `folder`; whether there was enough of it to be worth a file.

    Raises LagunaError or OSError where it cannot be written; then nothing new is there.
    """
    ids = [*prompt.ids, *prompt.answer]
    cache = conversations.caches.take(ids)
    try:
        if cache.length < FEWEST:
            return False
        private_directory(folder)
        identity = conversations.local.identity
        # In this order: prompts without a cache cost nothing, a cache that nothing explains is never used.
        (folder / PROMPTS).unlink(missing_ok=True)
        save_cache(cache, folder / CACHE, identity=identity)
        earlier = tuple(_mark(each) for each in conversations.prompts.before(prompt))
        replace_file(folder / PROMPTS, msgspec.json.encode(_Kept(identity, prompt, earlier)), mode=OWNER_ONLY)
    finally:
        conversations.caches.put(cache)
    return True


def recall(conversations: Conversations, folder: Path) -> int:
    """Take up what `keep` wrote; returns how many tokens need not be read again, 0 where there is nothing usable."""
    with suppress(LagunaError, OSError, msgspec.DecodeError):
        kept = msgspec.json.decode((folder / PROMPTS).read_bytes(), type=_Kept)
        if kept.identity != conversations.local.identity:
            return 0
        local = conversations.local
        cache = load_cache(folder / CACHE, local.plan.config, identity=kept.identity, device=local.model.device)
        read = kept.last.ids + kept.last.answer
        if tuple(cache.tokens) != read[: cache.length]:
            return 0
        for prompt in [*_earlier(kept.last, kept.earlier), kept.last]:
            conversations.prompts.remember(prompt)
        conversations.caches.put(cache)
        return cache.length
    return 0


def _mark(prompt: Prompt) -> _Mark:
    return _Mark(len(prompt.messages), len(prompt.ids), len(prompt.answer), len(prompt.text), prompt.in_thought)


def _earlier(last: Prompt, marks: Sequence[_Mark]) -> list[Prompt]:
    return [
        Prompt(
            ids=last.ids[: mark.ids],
            text=last.text[: mark.text],
            messages=last.messages[: mark.messages],
            tools=last.tools,
            thinking=last.thinking,
            in_thought=mark.in_thought,
            answer=last.ids[mark.ids : mark.ids + mark.answer],
        )
        for mark in marks
    ]
