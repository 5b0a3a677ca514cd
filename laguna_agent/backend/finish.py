"""The words with which servers say why an answer ended, as our five and "it broke".

Knows words only. A word of no row counts as a plain stop: servers make up new ones for it (`eos_token`, `COMPLETE`),
and all that are known to mean a broken or a cut answer are in the table.
"""

from __future__ import annotations

from laguna_agent.backend.base import FinishReason

_ROWS: dict[FinishReason | None, str] = {
    "tool_calls": "tool_calls tool_call tool_use function_call",
    # The last two: Anthropic's word for a full window, and the Responses API's.
    "length": "length max_tokens max_length model_length max_output_tokens model_context_window_exceeded incomplete",
    "content_filter": (
        "content_filter content-filter safety recitation blocklist prohibited_content spii image_safety sensitive "
        "error_toxic content_policy_violation"
    ),
    "refusal": "refusal",
    # Google's malformed_function_call is a call that its parser gave up on: the answer without it is no answer.
    None: (
        "error abort aborted unknown_error cancelled canceled failed timeout network_error malformed_function_call "
        "unexpected_tool_call insufficient_system_resource error_limit engine_overloaded server_error"
    ),
}
_REASONS = {word: reason for reason, words in _ROWS.items() for word in words.split()}


def read_finish(word: str) -> FinishReason | None:
    """Why the answer ended; None where generation broke off."""
    return _REASONS.get(word.lower(), "stop")
