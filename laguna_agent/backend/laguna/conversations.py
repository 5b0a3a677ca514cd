"""What an engine remembers of conversations: their prompts, their caches, their grammars.

All of it belongs to the engine's thread. Knows one open checkpoint; must not know jobs, threads or sessions.
"""

from __future__ import annotations

from laguna_agent.backend.base import Request
from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_store import CacheStore
from laguna_agent.backend.laguna.constraint import Constraint, TokenMasks
from laguna_agent.backend.laguna.local_model import LocalModel
from laguna_agent.backend.laguna.prompt import Prompt, PromptWriter
from laguna_agent.backend.laguna.prompt_book import PromptBook
from laguna_agent.backend.laguna.template import Thinking
from laguna_agent.backend.laguna.tool_grammar import schema_grammar, tool_grammar
from laguna_agent.errors import ContextTooLong


class Conversations:
    """The prompts read, the caches that hold them, and how answers are constrained."""

    def __init__(self, local: LocalModel) -> None:
        self.local = local
        self.prompts = PromptBook(PromptWriter(local.template, local.tokenizer))
        self.caches = CacheStore(self._new_cache, 2 * local.plan.need.cache)
        self.notices: set[str] = set()
        self.masks = TokenMasks(local.plan.config.vocab_size)

    def _new_cache(self) -> KVCache:
        return self.local.model.new_cache(self.local.plan.need.kv)

    def prompt(self, request: Request) -> Prompt:
        """The prompt of a request. Raises ContextTooLong where it leaves no room for an answer."""
        effort = request.sampling.reasoning_effort
        thinking = Thinking(None if effort is None else effort != "off")
        prompt = self.prompts.write(request.messages, request.tools, thinking)
        if len(prompt.ids) >= self.local.plan.context:
            raise ContextTooLong(
                f"the prompt has {len(prompt.ids)} tokens and the context {self.local.plan.context}; "
                "context_length sets it"
            )
        return prompt

    def constraint(self, request: Request, prompt: Prompt) -> Constraint | None:
        """What the answer must follow: the schema asked for, else the tools offered, else nothing."""
        family, vocabulary = self.local.template.family, self.local.vocabulary
        if request.response_schema is not None:
            schema = schema_grammar(request.response_schema, vocabulary.compiles, in_thought=prompt.in_thought)
            return vocabulary.follow(schema.text)
        if not request.tools or family.call_syntax is None:
            return None
        grammar = tool_grammar(request.tools, family, vocabulary.compiles, in_thought=prompt.in_thought)
        return vocabulary.follow(grammar.text)

    def new_notice(self, text: str) -> bool:
        """Whether `text` has something to say that was not said before."""
        fresh = bool(text) and text not in self.notices
        self.notices.add(text)
        return fresh

    def taken(self, prompt: Prompt) -> KVCache:
        """The cache that holds most of the prompt, for the caller alone."""
        return self.caches.take(list(prompt.ids))

    def done(self, prompt: Prompt, answer: list[int], cache: KVCache) -> Prompt:
        """Keep what was read and written for whatever comes after it."""
        cache.snapshot()
        self.caches.put(cache)
        answered = prompt.answered(answer)
        self.prompts.remember(answered)
        return answered
