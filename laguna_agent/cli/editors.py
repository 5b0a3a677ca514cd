"""What each editor must be told to find this program: where it goes, and its exact words.

Facts of other people's programs, each from their documentation: https://zed.dev/docs/ai/external-agents,
https://www.jetbrains.com/help/ai-assistant/acp.html, https://codecompanion.olimorris.dev/configuration/adapters-acp,
https://github.com/yetone/avante.nvim, https://github.com/xenodium/agent-shell. Writes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laguna_agent.cli.jsonc import written

AGENT = "Laguna"


@dataclass(frozen=True)
class Setup:
    """One editor. `settings` are what its JSON file must hold; an editor whose configuration is a program has none, and
    its `snippet` is for the person to put where it belongs."""

    title: str
    file: Path
    snippet: str
    then: str
    settings: Mapping[str, Any] | None = None


def setup_for(editor: str, command: Sequence[str], env: Mapping[str, str]) -> Setup | None:
    """What to do for an editor, None for an unknown one. `command` starts the program, without `acp`."""
    makers = {"zed": _zed, "jetbrains": _jetbrains, "neovim": _neovim, "emacs": _emacs}
    return makers[editor](command[0], [*command[1:], "acp"], env) if editor in makers else None


EDITORS = ("zed", "jetbrains", "neovim", "emacs")


def _zed(command: str, args: list[str], env: Mapping[str, str]) -> Setup:
    entry = {"type": "custom", "command": command, "args": args} | ({"env": dict(env)} if env else {})
    return _json_setup("Zed", _zed_file(), entry, f"open the agent panel and start a new {AGENT} thread")


def _zed_file() -> Path:
    """Zed keeps to XDG on Linux only."""
    base = os.environ.get("XDG_CONFIG_HOME", "") if sys.platform != "darwin" else ""
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "zed" / "settings.json"


def _jetbrains(command: str, args: list[str], env: Mapping[str, str]) -> Setup:
    entry = {"command": command, "args": args, "env": dict(env)}
    file = Path.home() / ".jetbrains" / "acp.json"
    return _json_setup("JetBrains IDEs", file, entry, f"open the AI chat and choose {AGENT} among the agents")


def _json_setup(title: str, file: Path, entry: dict[str, Any], then: str) -> Setup:
    settings = {"agent_servers": {AGENT: entry}}
    return Setup(title, file, written(settings), then, settings)


def _neovim(command: str, args: list[str], env: Mapping[str, str]) -> Setup:
    words = ", ".join(_quoted(word) for word in [command, *args])
    given = "{ " + ", ".join(f"{name} = {_quoted(value)}" for name, value in env.items()) + " }" if env else "{}"
    snippet = f"""\
-- codecompanion.nvim
require("codecompanion").setup({{
  interactions = {{ chat = {{ adapter = "laguna" }} }},
  adapters = {{
    acp = {{
      laguna = function()
        return require("codecompanion.adapters").extend("opencode", {{
          name = "laguna",
          formatted_name = "{AGENT}",
          commands = {{ default = {{ {words} }} }},
          env = {given},
        }})
      end,
    }},
  }},
}})

-- or avante.nvim
require("avante").setup({{
  provider = "laguna",
  acp_providers = {{
    laguna = {{
      command = {_quoted(command)},
      args = {{ {", ".join(_quoted(word) for word in args)} }},
      env = {given},
    }},
  }},
}})"""
    file = Path.home() / ".config" / "nvim" / "init.lua"
    return Setup("Neovim", file, snippet, "open :CodeCompanionChat or :AvanteChat")


def _emacs(command: str, args: list[str], env: Mapping[str, str]) -> Setup:
    variables = "".join(f" {_quoted(f'{name}={value}')}" for name, value in env.items()).strip()
    snippet = f"""\
(with-eval-after-load 'agent-shell
  (add-to-list
   'agent-shell-agent-configs
   (agent-shell-make-agent-config
    :identifier 'laguna
    :mode-line-name "{AGENT}"
    :buffer-name "{AGENT}"
    :shell-prompt "{AGENT}> "
    :shell-prompt-regexp "{AGENT}> "
    :client-maker
    (lambda (buffer)
      (acp-make-client :command {_quoted(command)}
                       :command-params '({" ".join(_quoted(word) for word in args)})
                       :environment-variables '({variables})
                       :context-buffer buffer)))))"""
    return Setup("Emacs", Path.home() / ".emacs.d" / "init.el", snippet, f"M-x agent-shell and choose {AGENT}")


def _quoted(text: str) -> str:
    """A string of Lua and of Emacs Lisp: both escape the quote and the backslash as JSON does."""
    return json.dumps(text, ensure_ascii=False)
