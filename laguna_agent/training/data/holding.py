"""Who works on a store: many may write at once, and whoever takes data away is alone. Knows a folder and a lock."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from laguna_agent.errors import DatasetError


class Hold:
    """A process's hold on a store: none until it is taken, and let go by `close` or by any death."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: IO[bytes] | None = None

    def share(self) -> None:
        """Keep others from taking data away. Raises DatasetError where one is at that, or nothing can be written."""
        if self._held is not None:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            file = (self._root / "lock").open("ab")
        except OSError as error:
            raise DatasetError(f"the store {self._root} cannot be written: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise DatasetError(f"another process takes old data out of {self._root}; try again in a moment") from error
        self._held = file

    def alone(self) -> None:
        """Be the only one that writes. Raises DatasetError where others do."""
        self.share()
        try:
            fcntl.flock(self._held or -1, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # The attempt may have lost what was held.
            self.close()
            raise DatasetError(f"another process works on {self._root}; try again when it is done") from error

    def close(self) -> None:
        """Let others take away what nothing needs."""
        if self._held is not None:
            self._held.close()
            self._held = None


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process changes `path`, and be the one that does. Any death ends the turn. Raises OSError."""
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
