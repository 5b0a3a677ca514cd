"""The one exception tree, and the exit code that each branch ends a run with.

    LagunaError                      exit  outcome
    ├── UsageError                     2   usage
    │   ├── ConfigError                2   usage
    │   ├── WeightsError               2      a model's files are damaged, incomplete or of an unsupported kind
    │   ├── CacheError                 2      a saved KV cache is damaged or another model's; the prompt is read instead
    │   ├── DoesNotFit                 2      the model needs more memory or disk than there is
    │   ├── KernelError                2      the GPU's driver or compiler is absent, or refuses a kernel
    │   ├── DatasetError               2      a dataset version is damaged, unknown, or not what a run was begun with
    │   ├── SandboxError               2      commands cannot be confined as asked, and are not run otherwise
    │   └── StorageError               2   storage (the session's log cannot be written: no room, no rights)
    ├── ProviderError                  3   provider_error
    │   ├── AuthenticationFailed       3      key absent, wrong or without rights (401, 403)
    │   ├── QuotaExceeded              3      credit or quota is spent (402, 429 that will not pass)
    │   ├── ModelNotFound              3      the server does not know the model (404)
    │   ├── ContextTooLong             3      the request does not fit the model's window
    │   ├── BadRequest                 3      the server refuses the request (400, 422)
    │   ├── ContentFiltered            4   model_stopped: the provider's filter refuses the conversation
    │   └── ProviderUnavailable        3      network, 5xx, stalls and cut streams, after the retry budget
    │       └── Unreachable            3      no connection: name, refusal, TLS, proxy; known within seconds
    ├── ModelStopped                   4   model_stopped (refusal, content filter, empty answers, length)
    ├── TrainingDiverged               4   diverged: the loss left for good, after the roll-backs that were allowed
    ├── BudgetSpent                    5   budget_spent (turns, tokens, cost, wall time)
    ├── LoopDetected                   6   loop
    ├── Denied                         7   denied
    ├── CheckFailed                    8   check_failed
    └── ToolError                      -   becomes the tool's result; never ends a run

An error's text is for the person: what was wrong, where, and what to do next, in one line.
Anything that is not a LagunaError is a bug: exit 1, a report in the state directory, one line on stderr.
"""

from __future__ import annotations

EXIT_COMPLETED = 0
EXIT_INTERNAL = 1
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class LagunaError(Exception):
    """Base of every error that this program raises on purpose."""

    exit_code: int = EXIT_INTERNAL
    outcome: str = "internal_error"


class UsageError(LagunaError):
    """The command line, a file it names, or the environment is wrong."""

    exit_code = 2
    outcome = "usage"


class ConfigError(UsageError):
    """A configuration layer holds an unknown key or a value of the wrong kind."""


class WeightsError(UsageError):
    """A model's files are damaged, incomplete, or of a kind that the engine does not run. Names file and tensor."""


class CacheError(UsageError):
    """A saved KV cache cannot be used or written. Never ends a turn: the prompt is read as if there were no file."""


class DoesNotFit(UsageError):
    """The model needs more memory or disk than there is; the text has the numbers and the option that would fit."""


class KernelError(UsageError):
    """The GPU's driver or its compiler is absent, or refuses a kernel; names the kernel and what was said of it."""


class DatasetError(UsageError):
    """A dataset version is damaged, unknown, or other data than a run was begun with; names version and file."""


class SandboxError(UsageError):
    """The walls around commands cannot be put up, or fell; nothing runs without them that was meant to have them."""


class StorageError(UsageError):
    """The session's log cannot be written: the disk is full, read-only or gone. What is in it so far stays whole."""

    outcome = "storage"


class ProviderError(LagunaError):
    """The model server could not serve the request.

    `status` is the HTTP status (None where there was no answer); `retryable` says whether the same request
    may succeed later; `retry_after` is the server's own wish in seconds.
    """

    exit_code = 3
    outcome = "provider_error"

    def __init__(
        self, message: str, *, status: int | None = None, retryable: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after


class AuthenticationFailed(ProviderError):
    """The key is absent, wrong, or lacks rights."""


class QuotaExceeded(ProviderError):
    """Credit or quota is spent."""


class ModelNotFound(ProviderError):
    """The server does not know the model."""


class ContextTooLong(ProviderError):
    """The request does not fit the model's context window."""


class BadRequest(ProviderError):
    """The server refuses the request as malformed or unsupported."""


class ProviderUnavailable(ProviderError):
    """No usable answer: network faults, 5xx, stalls, streams that end without a finish."""


class Unreachable(ProviderUnavailable):
    """No connection came about: wrong name, nobody listening, TLS, a proxy that refuses."""


class ContentFiltered(ProviderError):
    """The provider's filter refuses the conversation. Ends a run as a filtered answer does."""

    exit_code = 4
    outcome = "model_stopped"


class ModelStopped(LagunaError):
    """The model could not finish. `reason` is one of refusal, content_filter, empty, length, thinking, no_action."""

    exit_code = 4
    outcome = "model_stopped"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TrainingDiverged(LagunaError):
    """The loss became no number, or left for good, more often than a run may roll back. Names step and checkpoint."""

    exit_code = 4
    outcome = "diverged"


class BudgetSpent(LagunaError):
    """A budget was spent. `budget` is one of turns, tokens, cost, time."""

    exit_code = 5
    outcome = "budget_spent"

    def __init__(self, message: str, *, budget: str) -> None:
        super().__init__(message)
        self.budget = budget


class LoopDetected(LagunaError):
    """The model repeated itself without progress."""

    exit_code = 6
    outcome = "loop"


class Denied(LagunaError):
    """Something the model needed was denied, and it could not go on without it."""

    exit_code = 7
    outcome = "denied"


class CheckFailed(LagunaError):
    """The model finished, but the command given with --check fails."""

    exit_code = 8
    outcome = "check_failed"


class ToolError(LagunaError):
    """A tool could not do what was asked; the text goes to the model as the call's result."""
