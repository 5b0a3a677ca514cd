"""The dialect of small models: they write code, the program finds where it belongs.

Measured (Qwen2.5-Coder 1.5B): not one of its answers was a native tool call, and asked for edits it retypes the old
text wrongly; asked for "the corrected function, complete" it fixes most small bugs. So what the prompt is about is put
in front of it, it answers with code blocks, and each block becomes a call of `rewrite_symbol` (definitions replace
their namesakes) or `write` (whole files, new files). What fails goes back as the next message, its failing line first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from laguna_agent.agent.checks import distill
from laguna_agent.agent.code_blocks import CodeBlock, code_blocks
from laguna_agent.agent.dialect import Shown
from laguna_agent.agent.events import CheckRun
from laguna_agent.agent.mentions import Mentioned, mentioned
from laguna_agent.agent.profiles import Profile
from laguna_agent.agent.prompt import system_text
from laguna_agent.agent.store import Said
from laguna_agent.backend.assemble import Reply
from laguna_agent.backend.base import Sampling
from laguna_agent.messages import ContentBlock, Message, TextBlock, ToolCall, ToolSpec, text_message
from laguna_agent.tools.base import ToolResult
from laguna_agent.tools.workspace import Workspace

CHARACTERS_PER_TOKEN = 3
OUTPUT_CAP = 1_200
"""Characters of a check's output that a small model is shown."""
# A closing fence with an empty line after it, and a run of empty lines, end the answer: what follows is chatter.
STOP = ("\n```\n\n", "\n\n\n\n\n")


class CodeDialect:
    """See the module and `dialect.Dialect`."""

    tools: tuple[ToolSpec, ...] = ()
    corrections = 4

    def __init__(self, workspace: Workspace, prompts: Sequence[str], profile: Profile) -> None:
        self.shown: Shown = {}
        self._workspace = workspace
        self._prompts = prompts
        self._profile = profile
        self._whole = profile.edit_format == "whole"
        self._calls = 0
        self._attempt = 0
        self._repeats = 0
        self._answers: list[str] = []

    def system(self) -> str:
        return system_text("system_code")

    # -- what the model is told -------------------------------------------------------------------------------------

    async def opening(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said:
        prompt = "".join(block.text for block in content if isinstance(block, TextBlock)).strip()
        output = check.output if check and check.exit_code else ""
        files = await self._files(prompt, output)
        failing = f"`{check.command}` fails:\n{distill(output, OUTPUT_CAP)}" if check and output else ""
        parts = [prompt, *map(_display, files), failing, self._order(files)]
        images = [block for block in content if not isinstance(block, TextBlock)]
        text = "\n\n".join(filter(None, parts))
        return Said(Message("user", (TextBlock(text), *images)), {file.path: file.symbols for file in files})

    async def correction(self, run: CheckRun, attempt: int) -> Said:
        self._attempt = attempt
        files = await self._files(self._prompts[-1], run.output)
        shown = [file for file in files if file.path in self.shown] or files
        text = "\n\n".join(
            [
                "That is not right yet. The code is now:",
                *map(_display, shown),
                f"`{run.command}` fails:\n{distill(run.output, OUTPUT_CAP)}",
                self._order(shown),
            ]
        )
        return Said(text_message("user", text), {file.path: file.symbols for file in shown})

    async def _files(self, prompt: str, output: str) -> list[Mentioned]:
        found = await mentioned(self._workspace, prompt, output)
        room = self._profile.prompt_budget * CHARACTERS_PER_TOKEN
        chosen: list[Mentioned] = []
        for file in found:
            if chosen and len(file.text) > room:
                break
            chosen.append(file)
            room -= len(file.text)
        return chosen

    def _order(self, files: Sequence[Mentioned]) -> str:
        if not files:
            return ""
        if self._whole:
            what = "Give the complete new content of each file that must change, each in one code block"
        else:
            what = "Give each corrected function, complete, in one code block"
        if len(files) > 1:
            return f"{what}, with the file's name on the line before the block."
        return f"{what}."

    def view(self, history: Sequence[Message]) -> list[Message]:
        opening = next((i for i in range(len(history) - 1, 0, -1) if self._opens(history, i)), 1)
        return [history[0], *history[opening:]]

    def _opens(self, history: Sequence[Message], index: int) -> bool:
        prompt = self._prompts[-1].strip()
        return history[index].role == "user" and history[index].text.startswith(prompt)

    def ask_with(self, sampling: Sampling) -> tuple[Sampling, dict[str, Any] | None]:
        return msgspec.structs.replace(sampling, stop=STOP), None

    # -- what the model says ----------------------------------------------------------------------------------------

    def calls(self, reply: Reply) -> tuple[ToolCall, ...]:
        blocks = code_blocks(reply.message.text, complete=reply.finish == "stop")
        return tuple(call for block in blocks if block.closed and (call := self._call(block)) is not None)

    def _call(self, block: CodeBlock) -> ToolCall | None:
        path = block.path(self.shown) or self._owner(block)
        if path is None:
            return None
        self._calls += 1
        if path not in self.shown or (self._whole and not self._is_part(path, block)):
            return ToolCall(f"code_{self._calls}", "write", {"path": path, "content": block.code})
        return ToolCall(f"code_{self._calls}", "rewrite_symbol", {"path": path, "code": block.code})

    def _owner(self, block: CodeBlock) -> str | None:
        """The shown file that defines most of what the block defines; the only one shown where none does."""
        names = set(block.names())
        shared = {path: len(names & {name.rpartition(".")[2] for name in self.shown[path]}) for path in self.shown}
        best = max(shared, key=lambda path: shared[path], default=None)
        if best is not None and shared[best]:
            return best
        return best if names and len(self.shown) == 1 else None

    def _is_part(self, path: str, block: CodeBlock) -> bool:
        """Whether a block that was to be the whole file lacks some of its definitions: then only they are replaced."""
        return not {name.rpartition(".")[2] for name in self.shown[path]} <= set(block.names())

    def answers(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[Message]:
        problems = [result.text for result in results if result.is_error]
        if not problems or len(problems) < len(results):
            return []
        self._repeats += 1
        return [text_message("user", problems[0])] if self._repeats <= 2 else []

    def unusable(self, reply: Reply) -> str | None:
        if reply.finish == "length":
            return "Give only the code that changes, in one code block."
        if not reply.message.text.strip():
            return "Give the corrected code in one code block."
        return None


def _display(file: Mentioned) -> str:
    language = file.path.rpartition(".")[2].replace("py", "python") if file.path.endswith(".py") else ""
    return f"{file.path}:\n```{language}\n{file.text.rstrip()}\n```"
