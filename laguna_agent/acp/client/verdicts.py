"""How a foreign agent's turn ended, in the words of `laguna_agent.errors`; and what is said of an agent that fails.

Knows stop reasons and errors; must not know events or sessions. All text that came from the agent is made printable
here, for a verdict and an error are shown as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from laguna_agent.acp import schema
from laguna_agent.acp.peer import AUTH_REQUIRED, RpcError
from laguna_agent.agent.outcome import COMPLETED, Verdict, verdict_of
from laguna_agent.errors import (
    EXIT_SIGINT,
    AuthenticationFailed,
    BudgetSpent,
    LagunaError,
    ModelStopped,
    ProviderError,
)
from laguna_agent.event_lines import one_line

MESSAGE = 600
"""Characters of an agent's own words that an error repeats."""
INTERRUPTED = Verdict("interrupted", "cancelled", EXIT_SIGINT, "interrupted")


def verdict(stop_reason: str, agent: str) -> Verdict:
    """What a stop reason means; `agent` is its name."""
    match stop_reason:
        case "end_turn":
            return COMPLETED
        case "cancelled":
            return INTERRUPTED
        case "max_tokens":
            return verdict_of(ModelStopped(f"{agent}: the answer was cut off by its length", reason="length"))
        case "max_turn_requests":
            return verdict_of(BudgetSpent(f"{agent} has made as many requests as it allows itself", budget="turns"))
        case "refusal":
            return verdict_of(ModelStopped(f"{agent} refuses to go on", reason="refusal"))
    unknown = f"{agent} stopped for a reason that this program does not know: {one_line(stop_reason)}"
    return verdict_of(ModelStopped(unknown, reason="no_action"))


def refused(error: RpcError, agent: str, what: str, methods: Iterable[schema.AuthMethod]) -> LagunaError:
    """The error for a request that the agent answered with one; `what` says what it would not do."""
    said = one_line(words_of(error), MESSAGE)
    if error.code != AUTH_REQUIRED:
        return ProviderError(f"{agent} {what}: {said} ({error.code})")
    names = ", ".join(one_line(each.name) for each in methods) or "no way to do that from here"
    return AuthenticationFailed(
        f"{agent} wants you to log in first: {said}; it offers {names}. Log in with the agent's own program, or set "
        "its key in the environment, then start it again"
    )


def words_of(error: RpcError) -> str:
    """What an error says, with the details that some agents put beside a message that tells nothing."""
    data = error.data
    found = [data.get(key) for key in ("details", "message", "error")] if isinstance(data, dict) else [data]
    more = next((each for each in found if isinstance(each, str) and each), "")
    return f"{error}: {more}" if more and more not in str(error) else str(error)
