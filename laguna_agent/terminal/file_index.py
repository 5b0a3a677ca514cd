"""The workspace's files by name, for completion: what git would list and the policy shows, as fresh as is cheap.

Built by ripgrep in a thread at the first search, and again, behind a search that is answered from what is known, when
it is older than a few seconds or something happened to the files. Knows names; must not know keys or screens.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from laguna_agent.errors import ToolError
from laguna_agent.terminal.fuzzy import SHOWN, Paths
from laguna_agent.visible import visible_line

if TYPE_CHECKING:
    from laguna_agent.tools.files import Files

FRESH = 5.0
"""Seconds for which what was found counts as how it is."""
LISTING_CAP = 64 * 1024 * 1024
"""Bytes of names that are taken; about a million files."""


class FileIndex:
    """The paths below the root of a workspace, relative to it, directories with a slash behind them.

    `files` gives the workspace's files; it is asked before each look, for a face may go on in another session. All
    methods are for one thread, the face's; a thread of the index's own does what takes time.
    """

    def __init__(self, files: Callable[[], Files]) -> None:
        self._files = files
        self._paths = Paths(())
        self._listing: bytes | None = None
        self._rules: object = None
        self._problem = ""
        self._looked_at = float("-inf")
        self._began: float | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def known(self) -> bool:
        """Whether there is anything to search in yet."""
        return self._listing is not None

    @property
    def note(self) -> str:
        """What a person should know of the index just now; "" where there is nothing to say."""
        if self._began is not None and not self.known and (seconds := monotonic() - self._began) >= 1:
            return f"looking for files ({seconds:.0f} s)"
        return self._problem

    def outdated(self) -> None:
        """Something may have changed: the next search looks anew."""
        self._looked_at = float("-inf")

    async def search(self, pattern: str, limit: int = SHOWN) -> list[str]:
        """The best paths for a pattern. Waits for the first look at the disk; later ones happen behind the answer."""
        look = self._look() if monotonic() - self._looked_at > FRESH else None
        if look is not None and not self.known:
            await look
        return await asyncio.to_thread(self._paths.search, pattern, limit)

    def _look(self) -> asyncio.Future[None]:
        """Look at the disk, unless somebody is at it; done when that is."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            arguments = (loop, self._files(), self._listing, self._rules)
            self._began = monotonic()
            # Not one of the loop's threads: the program would wait for those at its end.
            threading.Thread(target=self._serve, args=arguments, name="file index", daemon=True).start()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(done)
        return done

    def _serve(self, loop: asyncio.AbstractEventLoop, files: Files, before: bytes | None, rules: object) -> None:
        paths: Paths | None = None
        listing, problem = before, ""
        try:
            listing, problem = _listed(files)
            if listing != before or files.policy != rules:
                paths = Paths(with_directories(_shown(listing, files)))
        except (ToolError, OSError) as error:
            listing, problem, paths = b"", visible_line(str(error)), Paths(())
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._take, paths, listing, files.policy, problem)

    def _take(self, paths: Paths | None, listing: bytes, rules: object, problem: str) -> None:
        self._paths = self._paths if paths is None else paths
        self._listing, self._rules, self._problem = listing, rules, problem
        self._looked_at, self._began = monotonic(), None
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if not done.done():
                done.set_result(None)


def with_directories(paths: Iterable[str]) -> Iterator[str]:
    """The paths, and before the first of each directory's the directory itself, ended by a slash."""
    seen = {""}
    for path in paths:
        new: list[str] = []
        above = path[: path.rfind("/") + 1]
        while above not in seen:
            seen.add(above)
            new.append(above)
            above = above[: above.rfind("/", 0, -1) + 1]
        yield from reversed(new)
        yield path


def _listed(files: Files) -> tuple[bytes, str]:
    """ripgrep's list of files, and what is wrong with it. Raises ToolError."""
    import anyio

    from laguna_agent.tools.ripgrep import ripgrep

    async def run() -> tuple[bytes, str]:
        # Sorted, so that a list in which nothing changed is known as the same.
        found = await ripgrep("--files", "--sort=path", files=files, path=files.policy.root, output_cap=LISTING_CAP)
        if found.error:
            raise ToolError(f"the files cannot be listed: {visible_line(found.error.splitlines()[-1])}")
        return found.output, "not all files are listed: there are too many" if found.cut else ""

    return anyio.run(run)


def _shown(listing: bytes, files: Files) -> Iterator[str]:
    """The paths that may be seen, and can be said in a line of text."""
    policy = files.policy
    secret = bool(policy.denied) or policy.hides_below(policy.root)
    names = listing.decode("utf-8", "replace").split("\0")
    plain = all(name.isascii() and name.isprintable() for name in names)
    for name in names:
        path = name.removeprefix("./")
        if not path or not (plain or _can_be_said(path)):
            continue
        if secret and (policy.is_hidden(policy.root / path) or files.is_denied(policy.root / path)):
            continue
        yield path


def _can_be_said(path: str) -> bool:
    # Written into a prompt, any other name would be that of another file, or of none.
    return "\ufffd" not in path and visible_line(path) == path
