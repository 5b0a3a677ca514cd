"""Our own session behind the interactive faces: it lives in an event loop on a second thread.

So background commands keep running while the person types, and neither side waits for the other. Events and questions
cross over through `deliver`, in order; what the face wants of the session crosses back through the portal.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.from_thread import BlockingPortal
from msgspec.structs import replace

from laguna_agent.terminal.face import Facts, Link, Question

if TYPE_CHECKING:
    from laguna_agent.agent.commands import Command
    from laguna_agent.agent.events import Event, PermissionRequested
    from laguna_agent.agent.permissions import PermissionAnswer
    from laguna_agent.agent.prompting import Cause
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings
    from laguna_agent.messages import ContentBlock
    from laguna_agent.tools.files import Files

T = TypeVar("T")
Deliver = Callable[["Event | Question"], None]
"""Takes what comes from the session's thread, at once; to be called on that thread."""
Prompt = Callable[[tuple["ContentBlock", ...]], AsyncGenerator["Event", None]]
Links = Callable[[Deliver, "Settings", "str | None"], Link]
"""Makes the link to a session: where its events go, its settings, and which one is taken up again (None: a new one)."""


SHOWN_PROMPTS = 12
"""Prompts of a session that are shown when it is taken up again; `laguna-agent sessions show` has them all."""


def newest(events: Iterable[Event], prompts: int = SHOWN_PROMPTS) -> list[Event]:
    """The events from the newest `prompts` prompts on; one notice stands for those before."""
    from laguna_agent.agent.events import Notice, UserMessage

    before: list[Event] = []
    kept: deque[list[Event]] = deque(maxlen=prompts)
    count = 0
    for event in events:
        if isinstance(event, UserMessage):
            count += 1
            kept.append([])
        (kept[-1] if kept else before).append(event)
    if count > prompts:
        said = f"{count - prompts} earlier prompts are not shown; `laguna-agent sessions show` has them."
        before = [Notice("info", said)]
    return [*before, *(event for group in kept for event in group)]


class Crossing:
    """The way to the other thread and back. Made on the face's thread; its tasks live until `end`."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        _, (self.tasks, self._over) = portal.start_task(self._lend_tasks)

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run a function or a coroutine function over there; raises what it raises."""

        async def run() -> Any:
            result = function(*arguments)
            return await result if inspect.isawaitable(result) else result

        return await asyncio.wrap_future(self._portal.start_task_soon(run))

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Have something done over there, without waiting for it."""
        self._portal.start_task_soon(_call, function, arguments)

    def end(self) -> None:
        """Cancel the tasks that were lent."""
        self._portal.call(self._over.set)

    async def _lend_tasks(self, *, task_status: TaskStatus[tuple[TaskGroup, anyio.Event]]) -> None:
        """A task group for what lives as long as the chat."""
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            task_status.started((group, over))
            await over.wait()
            group.cancel_scope.cancel()


async def _call(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    function(*arguments)


class Asking:
    """Permission requests of the session's thread, answered on the face's."""

    def __init__(self, crossing: Crossing, deliver: Deliver) -> None:
        self._crossing = crossing
        self._deliver = deliver

    async def ask(self, request: PermissionRequested) -> PermissionAnswer:
        """Ask the person and wait; a cancelled question is forgotten."""
        from laguna_agent.agent.permissions import PermissionAnswer

        answered = anyio.Event()
        given = [PermissionAnswer(False, reason="nobody answered")]

        def take(answer: PermissionAnswer) -> None:
            given[0] = answer
            answered.set()

        self._deliver(Question(request, lambda answer: self._crossing.post(take, answer)))
        await answered.wait()
        return given[0]


class Linked(ABC):
    """What both kinds of link have: the way across, and what they were made with."""

    def __init__(
        self, portal: BlockingPortal, cwd: Path, deliver: Deliver, settings: Settings, resumed: str | None
    ) -> None:
        self.cwd = cwd
        self._portal = portal
        self._deliver = deliver
        self._settings = settings
        self._resumed = resumed
        self._crossing: Crossing | None = None
        self._beginning: asyncio.Future[None] | None = None

    @property
    def files(self) -> Files:
        """The workspace's files, as far as the person's own rules show them."""
        from laguna_agent.agent.rules import denied_globs
        from laguna_agent.sandbox.policy import policy_for
        from laguna_agent.tools.files import Files

        return Files(policy_for(self.cwd, denied=denied_globs(self._settings.rules)))

    @overload
    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T: ...
    @overload
    async def call(self, function: Callable[..., T], *arguments: object) -> T: ...
    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run something on the session's thread; raises what it raises."""
        return await self._over_there().call(function, *arguments)

    async def close(self) -> None:
        """End over there, what has not begun yet too, and close the way."""
        if self._crossing is None:
            return
        try:
            if self._beginning is not None and not self._beginning.done():
                self._beginning.cancel()
                await asyncio.wait([self._beginning])
            await self._crossing.call(self._end)
        finally:
            await asyncio.to_thread(self._crossing.end)

    async def _cross(self) -> None:
        """Open the way, and begin over there."""
        self._crossing = Crossing(self._portal)
        self._beginning = asyncio.ensure_future(self._crossing.call(self._begin, self._crossing))
        try:
            await asyncio.shield(self._beginning)
        except Exception:
            # There is nothing to be closed later, and the thread's end would wait for the way.
            await asyncio.to_thread(self._crossing.end)
            self._crossing = None
            raise

    def _over_there(self) -> Crossing:
        assert self._crossing is not None, "the link was never opened"
        return self._crossing

    # -- on the session's thread ----------------------------------------------------------------------------------

    @abstractmethod
    async def _begin(self, crossing: Crossing) -> None: ...

    @abstractmethod
    async def _end(self) -> None: ...

    async def _pump(self, prompt: Prompt, content: tuple[ContentBlock, ...]) -> None:
        """Have a prompt worked on, and hand its events on."""
        async with aclosing(prompt(content)) as events:
            async for event in events:
                self._deliver(event)


class SessionLink(Linked):
    """One of our own sessions, as `face.Link` says."""

    _session: Session | None = None
    _commands: tuple[Command, ...] = ()

    @property
    def session(self) -> Session | None:
        return self._session

    @property
    def facts(self) -> Facts:
        session = self._session
        settings = session.wanted if session else self._settings
        # The session's own model may be one that it fell back to.
        model = (session.model if session and session.settings is session.wanted else "") or settings.model or ""
        return Facts(
            cwd=self.cwd,
            model=model,
            provider=model.partition("/")[0] if "/" in model and not settings.base_url else "",
            mode=settings.approve,
            sandbox=session.walls.tier if session and session.walls else "",
            session_id=session.id if session else "",
        )

    @property
    def files(self) -> Files:
        session = self._session
        return session.workspace.files if session is not None else super().files

    @property
    def commands(self) -> Sequence[Command]:
        from laguna_agent.agent.commands import COMMANDS

        return self._commands or COMMANDS

    async def open(self) -> Sequence[Event]:
        await self._cross()
        assert self._session is not None, "it has begun"
        past = await asyncio.to_thread(newest, self._session.replay_events())
        await self._look_at_commands()
        return past

    async def send(self, content: tuple[ContentBlock, ...]) -> None:
        assert self._session is not None, "a turn runs in a session"
        await self._over_there().call(self._pump, self._session.prompt, content)
        await self._look_at_commands()

    async def steer(self, content: tuple[ContentBlock, ...]) -> bool:
        assert self._session is not None, "a turn runs in a session"
        return await self.call(self._session.steer, content)

    @property
    def unsaid(self) -> tuple[tuple[ContentBlock, ...], ...]:
        return self._session.untaken if self._session is not None else ()

    def cancel(self, cause: Cause = "interrupted") -> None:
        if self._session is not None:
            self._over_there().post(self._session.cancel, cause)

    async def change(self, **settings: Any) -> None:
        session = self._session
        if session is None:
            self._settings = replace(self._settings, **settings)
            return
        wanted = replace(session.wanted, **settings)
        await self.call(lambda: session.configure(wanted, anew="model" in settings))

    async def _look_at_commands(self) -> None:
        """See which commands there are: they change with files, and with what is trusted."""
        from laguna_agent.agent.custom_commands import commands_of

        assert self._session is not None, "only a session has commands of its own"
        self._commands = await asyncio.to_thread(commands_of, self._session)

    # -- on the session's thread ----------------------------------------------------------------------------------

    async def _begin(self, crossing: Crossing) -> None:
        from laguna_agent.agent.serving import start_servers
        from laguna_agent.agent.session import Session

        approver = Asking(crossing, self._deliver).ask
        if self._resumed is None:
            session = await Session.start(self.cwd, self._settings, approver=approver)
        else:
            session = await Session.resume(self._resumed, self._settings, approver=approver)
        # From here on it is to be closed, whether or not somebody still waits for it.
        self._session = session
        session.trusting = True
        await start_servers(session, crossing.tasks)

    async def _end(self) -> None:
        if self._session is not None:
            self._session.cancel("terminated")
            await self._session.aclose()
