"""The environment that model-chosen commands get: what tools need by name, and nothing that looks like a secret.

Three walls. A variable is passed on only where it is on the list of names, or the person put it there themselves (the
setting `environment`, in their own file alone). What looks like a secret by its name or its value never is, unless the
person named it; a key of ours never is at all. And nothing that leads out of a sandbox: sockets of agents, displays,
buses and runtime directories; nor what makes interpreters run code that nobody called, such as a debugger's preload.
Such code belongs to the person's own shell. Knows names; must not know how a command is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from laguna_agent.credentials import is_own_key
from laguna_agent.held_keys import held_variables, is_secret_name
from laguna_agent.redaction import without_keys

_ALLOWED = re.compile(
    r"""(?x)^(?:
      PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|HOSTNAME|CI
    | XDG_(?:CACHE|CONFIG|DATA|STATE)_\w+|DEBIAN_FRONTEND|SOURCE_DATE_EPOCH
    | VIRTUAL_ENV|CONDA_\w+|PYTHON\w*|PYENV_\w+|PIP_\w+|UV_\w+|POETRY_\w+|PYTEST_\w+|TOX_\w+|HYPOTHESIS_\w+
    | JAVA_\w+|JDK_\w+|MAVEN_\w+|M2_HOME|GRADLE_\w+|ANDROID_\w+|KOTLIN_\w+|SCALA_\w+|SBT_\w+
    | GO(?!OGLE)\w+|CGO_\w+|CARGO_\w+|RUST\w*|NODE\w*|NPM_\w+|npm_\w+|NVM_\w+|YARN_\w+|PNPM_\w+|BUN_\w+|DENO_\w+
    | GEM_\w+|BUNDLE_\w+|RUBY\w*|RBENV_\w+|PERL5?\w*|DOTNET_\w+|NUGET_\w+|SDKMAN_\w+|ASDF_\w+|MISE_\w+
    | CC|CXX|CPP|AR|LD|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS|LD_LIBRARY_PATH|DYLD_\w+|LIBRARY_PATH|CPATH|PKG_CONFIG\w*
    | CMAKE_\w+|MAKEFLAGS|CCACHE_\w+|SDKROOT|MACOSX_DEPLOYMENT_TARGET|NIX_\w+
    | CUDA_\w+|NVIDIA_\w+|HF_HOME|TORCH_\w+|OMP_\w+|MKL_\w+|OPENBLAS_\w+
    | (?i:https?_proxy|no_proxy|all_proxy)|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE
    | GIT_(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL|DATE)
    )$"""
)
_NEVER_MEANT = re.compile(
    r"""(?x)^(?:
      PYTHONSTARTUP|PYTHONINSPECT|PYTHONBREAKPOINT|NODE_OPTIONS|NODE_REPL_\w+|PERL5OPT|PERL5DB|PERL5SHELL|RUBYOPT
    | JAVA_TOOL_OPTIONS|DYLD_INSERT_LIBRARIES|BUNDLE_\w*__\w*|GIT_\w*CONFIG\w*|\w*SOCK(?:ET)?(?:_PATH|_DIR)?
    )$"""
)
"""On the list by their beginning, but code that would run in every command, or (of bundler) a host's password."""
_SECRET = re.compile(r"(?i)KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)|SESSION|COOKIE|^LAGUNA_")
_CREDENTIAL_IN_URL = re.compile(r"://[^/\s@]+@")

# Nobody answers a prompt, turns a page, edits a message or reads colours here.
_FIXED = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    "NO_COLOR": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}
_CACHES = {
    "PIP_CACHE_DIR": "~/.cache/pip",
    "UV_CACHE_DIR": "~/.cache/uv",
    "npm_config_cache": "~/.npm",
    "YARN_CACHE_FOLDER": "~/.cache/yarn",
    "BUN_INSTALL_CACHE_DIR": "~/.bun/install/cache",
    "GOCACHE": "~/.cache/go-build",
    "CCACHE_DIR": "~/.cache/ccache",
    "NUMBA_CACHE_DIR": "~/.cache/numba",
    "TRITON_CACHE_DIR": "~/.triton",
    "MPLCONFIGDIR": "~/.config/matplotlib",
    "DOTNET_CLI_HOME": "~/.dotnet",
}
"""Where tools write though nobody asked them to, and where by default. Only those that do without what is there: a
cache of modules or models that cannot be loaded anew behind the walls stays where it is, to be read."""

OUR_KEYS = frozenset({"OPENROUTER_API_KEY", "POOLSIDE_API_KEY", "OLLAMA_API_KEY", "LLAMA_API_KEY", "VLLM_API_KEY"})
"""The variables of our own providers; whatever else served as a key is known by its value."""


def terminal_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What to set for a command that another program starts in its own environment, taken to be much like `outer` and
    what was taken out of it: the settings that keep programs from asking, and nothing in the place of each secret."""
    secrets = [name for name, value in outer.items() if _looks_secret(name, value)]
    return dict.fromkeys([*secrets, *held_variables()], "") | _FIXED


def command_environment(outer: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """Of `outer`, the variables on the allow-list that look like no secret, and those that the person allows by the
    names and globs in `more`; plus settings that keep programs from asking."""
    kept = {name: value for name, value in outer.items() if _passes(name, value)}
    patterns = tuple(more)
    named = {
        name: value
        for name, value in {**held_variables(), **outer}.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns) and _may_be_named(name, value, patterns)
    }
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"} | kept | _FIXED | named


def confined_environment(outer: Mapping[str, str], temporary: Path, writable: Iterable[Path] = ()) -> dict[str, str]:
    """What to set for a command that can write its workspace, `temporary` (as it sees it) and `writable` alone: the
    directory for temporary files, and those caches of tools that would lie elsewhere."""
    home, open_to_it = outer.get("HOME", "/"), tuple(writable)

    def lies_open(place: str) -> bool:
        return any(Path(place.replace("~", home, 1)).is_relative_to(each) for each in open_to_it)

    caches = {
        name: str(temporary / "cache" / name.lower())
        for name, usual in _CACHES.items()
        if not lies_open(outer.get(name) or usual)
    }
    return caches | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))


def _passes(name: str, value: str) -> bool:
    return bool(_ALLOWED.match(name)) and not _NEVER_MEANT.match(name) and not _looks_secret(name, value)


def _looks_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name) or _CREDENTIAL_IN_URL.search(value)) or without_keys(value) != value


def _may_be_named(name: str, value: str, patterns: tuple[str, ...]) -> bool:
    """Whether the person's word is enough: a secret must be named itself, for `*` says nothing of secrets."""
    if name.startswith("LAGUNA_") or name in OUR_KEYS or is_own_key(value.strip()):
        return False
    return name in patterns or not (is_secret_name(name) or _looks_secret(name, value))
