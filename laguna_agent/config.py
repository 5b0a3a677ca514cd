"""One typed configuration, layered: defaults < user TOML < project TOML (harmless keys only) < environment < flags."""

from __future__ import annotations

from typing import Literal

import msgspec

Approve = Literal["ask", "edits", "all"]
EditFormat = Literal["auto", "replace", "symbol", "whole"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Field names are the TOML keys, `LAGUNA_` + upper case the environment names."""

    model: str | None = None
    """provider/model, such as `openrouter/poolside/laguna-xs.2:free`, `ollama/qwen2.5-coder:7b`, `local/NAME`."""
    base_url: str | None = None
    """Base URL of an OpenAI-compatible server; then `model` is the server's own name for it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key for `base_url`."""
    approve: Approve = "ask"
    edit_format: EditFormat = "auto"
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    reasoning: Literal["off", "low", "medium", "high"] | None = None
    max_output_tokens: int | None = None
    context_length: int | None = None
    """Tokens; overrides what the server and the model table say."""
    max_turns: int | None = None
    """Model requests per run."""
    max_tokens: int | None = None
    """Input plus output tokens per run."""
    max_cost: float | None = None
    """US dollars per run."""
    max_time: float | None = None
    """Seconds per run."""
    retry_budget: float = 120.0
    """Seconds that waiting for a failing server may take in all, per request."""
    connect_timeout: float = 10.0
    stall_timeout: float = 90.0
    """Seconds without an event before a stream counts as stalled (300 with keep-alives)."""
    shell_timeout: float = 120.0
