"""The dialect of small models: they write code, the program finds where it belongs.

Measured (Qwen2.5-Coder 1.5B): not one of its answers was a native tool call, and asked for edits it retypes the old
text wrongly; asked for "the corrected function, complete" it fixes most small bugs. So what the prompt is about is put
in front of it, it answers with code blocks, and each block becomes a call of `rewrite_symbol` (definitions replace
their namesakes) or `write` (whole files, new files).

While the check fails the next message follows a strategy (`strategies`), since a small model asked the same gives the
same. All that a dialect does between two messages follows from what `told` got, so that a replay does it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from laguna_agent.agent.choosing import CANDIDATES, CHOOSE, Choice, evident_action
from laguna_agent.agent.choosing import question as ask_choice
from laguna_agent.agent.cloze import GAP, fill
from laguna_agent.agent.code_blocks import CodeBlock, code_blocks
from laguna_agent.agent.dialect import Shown
from laguna_agent.agent.events import CheckRun
from laguna_agent.agent.failures import distill
from laguna_agent.agent.hiding import functions, lift_docstrings
from laguna_agent.agent.mentions import Mentioned, every_source, mentioned
from laguna_agent.agent.profiles import Profile
from laguna_agent.agent.prompt import system_text
from laguna_agent.agent.store import Said
from laguna_agent.agent.strategies import GAPS, MOST, Strategy, hidden, plan
from laguna_agent.backend.assemble import Reply
from laguna_agent.backend.base import Sampling
from laguna_agent.errors import ToolError
from laguna_agent.messages import ContentBlock, Message, TextBlock, ToolCall, ToolSpec, text_message
from laguna_agent.tools.base import ToolResult
from laguna_agent.tools.leave import inside
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.workspace import Workspace

CHARACTERS_PER_TOKEN = 3
OUTPUT_CAP = 900
"""Characters of a check's output that a small model is shown."""
WARM = 0.8
"""The temperature of the strategy that asks again what was asked before."""
ANEW = frozenset({"fix", "anew", "again", "why", GAPS})
"""The strategies that always start from the files as they were."""
# What follows these is chatter, and at a few tokens per second chatter is what takes the time. At most four: that is
# what the OpenAI protocol allows. The last three end a block of functions, never a whole file.
AFTER_FENCE = "\n```\n\n"
USAGE = ("\n# Test", "\n# Example", "\nassert ")


class CodeDialect:
    """See the module and `dialect.Dialect`."""

    tools: tuple[ToolSpec, ...] = ()
    corrections = MOST
    compacts = False  # each try is a conversation of its own
    asks_anew = True

    def __init__(
        self, workspace: Workspace, ledger: FileLedger, prompts: Sequence[str], profile: Profile, number: int
    ) -> None:
        """`prompts` are what the person said, the newest last; `number` is the newest one's in the session, those that
        were taken back counted too."""
        self._workspace = workspace
        self._ledger = ledger
        self._prompts = [*prompts]
        self._profile = profile
        self._number = number
        self._whole = profile.edit_format == "whole"
        self._ladder: list[Strategy] | None = None
        self._originals: list[Mentioned] = []
        self._restored = 0
        self._last_failure = ""
        self._choice: Choice | None = None
        self._first_output = ""
        # What follows is set by `told` and by answers alone.
        self._shown: Shown = {}
        self._start = 1
        self._strategy = "fix"
        self._calls = 0
        self._changed = False
        self._refusals = 0
        self._cloze: CodeBlock | None = None
        self._tried: set[tuple[tuple[str | None, str], ...]] = set()

    def system(self) -> str:
        return system_text("system_code")

    # -- what the model is told -------------------------------------------------------------------------------------

    async def question(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said | None:
        prompt = self._prompts[-1].strip()
        found = await mentioned(self._workspace, prompt, check.output if check else "")
        if found and (check is not None or evident_action(prompt) is not None):
            return None
        candidates = found or await every_source(self._workspace)
        if not candidates:
            return None
        listing = [(file.path, file.symbols) for file in candidates[:CANDIDATES]]
        return Said(text_message("user", ask_choice(prompt, listing)), dict(listing), CHOOSE)

    def chosen(self, choice: Choice | None) -> None:
        self._choice = choice

    async def opening(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said:
        prompt = _text(content)
        self._first_output = check.output if check and check.exit_code else ""
        chosen = self._choice.files if self._choice else ()
        self._originals = await self._files(f"{prompt} {' '.join(chosen)}", self._first_output)
        wanted = evident_action(prompt) or (self._choice.action if self._choice else "change")
        images = [block for block in content if not isinstance(block, TextBlock)]
        if check is None and wanted == "answer":
            return self._said("answer", self._originals, "", "", images)
        strategy = "ask" if check is None else "fix"
        return self._said(strategy, self._originals, self._first_output, self._order(self._originals), images)

    async def correction(self, run: CheckRun, attempt: int) -> Said | None:
        failure = distill(run.output, OUTPUT_CAP)
        if self._ladder is None:
            texts = [file.text for file in self._originals]
            self._ladder = plan(texts, self._prompts[-1], self._first_output, whole=self._whole)
        if self._changed and self._strategy != GAPS and failure != distill(self._first_output, OUTPUT_CAP):
            self._last_failure = failure
        if not self._ladder:
            return None
        return await self._try(self._ladder.pop(0), run.output)

    async def _try(self, strategy: Strategy, output: str) -> Said:
        """A fresh conversation, which builds on what was changed so far only where the strategy says so."""
        files = await self._as_they_are() if strategy.keep else self._originals
        order = self._order(files)
        if strategy.code:
            path = next(file.path for file in files if strategy.functions[0] in functions(file.text))
            files = [hidden(file, strategy.functions) for file in files]
            order = _with_gap(path, strategy)
        elif strategy.hide:
            files = [hidden(file, strategy.functions) for file in files]
            order = self._named("Write each function whose body is `...` anew, complete, in one code block", files)
            if self._last_failure:
                # Not the attempt itself, which the model would repeat: only what was wrong with its results.
                order = f"An earlier attempt failed with:\n{self._last_failure}\n\n{order}"
        elif strategy.functions:
            which = " and ".join(f"`{name}`" for name in strategy.functions)
            order = self._named(f"The mistake is in {which}. Give only {which}, corrected and complete", files)
        elif strategy.name == "why":
            order = "Say in one sentence which line is wrong and why. Then " + order[:1].lower() + order[1:]
        said = self._said(strategy.name, files, output if strategy.keep else self._first_output, order, [])
        return said if strategy.keep else msgspec.structs.replace(said, restore=await self._restoring())

    def _said(
        self, strategy: str, files: Sequence[Mentioned], output: str, order: str, images: Sequence[ContentBlock]
    ) -> Said:
        parts = [self._earlier(), self._prompts[-1].strip(), *map(_display, files), _failure(output), order]
        text = "\n\n".join(filter(None, parts))
        return Said(Message("user", (TextBlock(text), *images)), _symbols(self._originals), strategy)

    def _earlier(self) -> str:
        """What was asked before in this session, in a line each: a small window has no room for more."""
        lines = [f"- {prompt.strip().splitlines()[0][:150]}" for prompt in self._prompts[-4:-1] if prompt.strip()]
        return "Done before:\n" + "\n".join(lines) if lines else ""

    async def _as_they_are(self) -> list[Mentioned]:
        """The files that were shown first, with what is in them now."""
        files = []
        for file in self._originals:
            try:
                place = inside(file.path, self._workspace)
                there = await self._workspace.entry(place.path) is not None
            except ToolError:
                there = False
            if not there:
                # Deleted meanwhile, or a link out; the next tries do without it, but restoring brings it back.
                files.append(msgspec.structs.replace(file, text=""))
                continue
            data = await self._workspace.read_bytes(place.path, 1 << 20)
            files.append(msgspec.structs.replace(file, text=data.decode("utf-8", "replace")))
        return files

    async def _restoring(self) -> tuple[ToolCall, ...]:
        """Calls that put back the files as they were shown first."""
        pairs = zip(self._originals, await self._as_they_are(), strict=True)
        changed = [then for then, now in pairs if then.text != now.text]
        self._restored += len(changed)
        first = self._restored - len(changed) + 1
        return tuple(
            ToolCall(self._call_id("restore", number), "write", {"path": file.path, "content": file.text})
            for number, file in enumerate(changed, first)
        )

    async def _files(self, prompt: str, output: str) -> list[Mentioned]:
        found = await mentioned(self._workspace, prompt, output)
        room = self._profile.prompt_budget * CHARACTERS_PER_TOKEN
        chosen: list[Mentioned] = []
        for file in found:
            if chosen and len(file.text) > room:
                break
            chosen.append(file)
            room -= len(file.text)
            self._ledger.saw(self._workspace.resolve(file.path).path, file.text.encode())
        return chosen

    def _order(self, files: Sequence[Mentioned]) -> str:
        if not files:
            return ""
        if self._whole:
            what = "Give the complete new content of each file that must change, each in one code block"
        else:
            what = "Give only the corrected function, complete, in one code block"
        return self._named(what, files)

    def _named(self, what: str, files: Sequence[Mentioned]) -> str:
        if len(files) > 1:
            return f"{what}, with its file's name on the line before the block. No tests, no explanation."
        return f"{what}. No tests, no explanation."

    async def steered(self, content: Sequence[ContentBlock]) -> Said:
        # A small model sees one message at a time: what it was asked is asked again with what the person adds, over the
        # files that both name, as they are by now. From there on they count as the original ones.
        words = _text(content)
        self._prompts[-1] = f"{self._prompts[-1].strip()}\n\n{words}"
        self._ladder, self._last_failure = None, ""
        chosen = self._choice.files if self._choice else ()
        self._originals = await self._files(f"{self._prompts[-1]} {' '.join(chosen)}", self._first_output)
        images = [block for block in content if not isinstance(block, TextBlock)]
        if evident_action(words) == "answer":
            return self._said("answer", self._originals, "", "", images)
        return self._said("ask", self._originals, "", self._order(self._originals), images)

    # -- what follows from it ---------------------------------------------------------------------------------------

    async def standing(self) -> str:
        return ""

    def told(self, said: Said, position: int) -> None:
        self._shown = dict(said.shown)
        self._strategy = said.strategy
        self._changed = False
        self._start = position
        asked = code_blocks(said.message.text, complete=True) if said.strategy == GAPS else []
        self._cloze = next((block for block in reversed(asked) if GAP in block.code), None)

    def view(self, history: Sequence[Message]) -> list[Message]:
        return [history[0], *history[self._start :]]

    def ask_with(self, sampling: Sampling) -> tuple[Sampling, dict[str, Any] | None]:
        if self._strategy == "again":
            sampling = msgspec.structs.replace(sampling, temperature=WARM)
        return msgspec.structs.replace(sampling, stop=(AFTER_FENCE, *(() if self._whole else USAGE))), None

    # -- what the model says ----------------------------------------------------------------------------------------

    def calls(self, reply: Reply) -> tuple[ToolCall, ...]:
        if self._strategy == "answer":
            return ()
        complete = reply.finish == "stop"
        blocks = [block for block in code_blocks(reply.message.text, complete=complete) if block.closed]
        if self._cloze is not None:
            blocks = self._filled(self._cloze, blocks, reply.message.text if complete else "")
        parts = [part for block in blocks for part in block.by_file(self._shown)]
        answer = tuple((part.path(self._shown), part.code) for part in parts)
        if self._strategy in ANEW and answer in self._tried:
            # On the same files it would do what it did before, and the same call over and over ends a run.
            return ()
        self._tried.add(answer)
        return tuple(call for part in parts if (call := self._call(part)) is not None)

    def _filled(self, cloze: CodeBlock, blocks: Sequence[CodeBlock], text: str) -> list[CodeBlock]:
        """The function with its gap filled by what the answer gives in a block or alone; none where that fills none."""
        code = fill(cloze.code, blocks[0].code if blocks else text.strip().strip("`"))
        return [] if code is None else [msgspec.structs.replace(cloze, code=code)]

    def _call(self, block: CodeBlock) -> ToolCall | None:
        path = block.path(self._shown) or self._owner(block)
        if path is None:
            return None
        self._calls += 1
        if path not in self._shown or (self._whole and not self._is_part(path, block)):
            return ToolCall(self._call_id("code", self._calls), "write", {"path": path, "content": block.code})
        return ToolCall(self._call_id("code", self._calls), "rewrite_symbol", {"path": path, "code": block.code})

    def _call_id(self, what: str, number: int) -> str:
        """Unique in the session: editors know calls by their id."""
        return f"{what}_{self._number}_{number}"

    def _owner(self, block: CodeBlock) -> str | None:
        """The shown file that defines most of what the block defines; the only one shown where none does."""
        names = set(block.names())
        shared = {path: len(names & {name.rpartition(".")[2] for name in self._shown[path]}) for path in self._shown}
        best = max(shared, key=lambda path: shared[path], default=None)
        if best is not None and shared[best]:
            return best
        return best if names and len(self._shown) == 1 else None

    def _is_part(self, path: str, block: CodeBlock) -> bool:
        """Whether a block that was to be the whole file lacks some of its definitions: then only they are replaced."""
        return not {name.rpartition(".")[2] for name in self._shown[path]} <= set(block.names())

    def answers(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[Message]:
        self._changed = self._changed or any(result.diffs for result in results)
        problems = [result.text for result in results if result.is_error]
        if self._changed or not problems or self._refusals or self._strategy != "ask":
            # With a check the next strategy does better than a second look at the same question.
            return []
        self._refusals += 1
        return [text_message("user", problems[0])]

    def unusable(self, reply: Reply) -> str | None:
        if reply.finish == "length":
            return "Give only the code that changes, in one code block."
        if not reply.message.text.strip():
            return "Give the corrected code in one code block."
        return None


def _text(content: Sequence[ContentBlock]) -> str:
    return "".join(block.text for block in content if isinstance(block, TextBlock)).strip()


def _failure(output: str) -> str:
    return f"The check fails:\n{distill(output, OUTPUT_CAP)}" if output else ""


def _with_gap(path: str, strategy: Strategy) -> str:
    about = f"{path}, `{strategy.functions[0]}` with a gap:\n```python\n{strategy.code}```"
    return (
        f"{about}\n\nGive the complete function, with `{GAP}` filled in, in one code block. No tests, no explanation."
    )


def _symbols(files: Sequence[Mentioned]) -> Shown:
    return {file.path: file.symbols for file in files}


def _display(file: Mentioned) -> str:
    if not file.path.endswith(".py"):
        return f"{file.path}:\n```{file.path.rpartition('.')[2]}\n{file.text.rstrip()}\n```"
    text, docstrings = lift_docstrings(file.text)
    told = "".join(f"\n\nWhat `{name}` must do:\n{docstring}" for name, docstring in docstrings.items())
    return f"{file.path}:\n```python\n{text.strip()}\n```{told}"
