"""`laguna-agent config`: what is set, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laguna_agent.cli.grammar import command_group
from laguna_agent.cli.options import Cwd, Json
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.config import Settings


def show_settings(cwd: Cwd = None, as_json: Json = False) -> int:
    """Print every setting, its value, and where it comes from."""
    import msgspec

    from laguna_agent.agent.rules import Rules
    from laguna_agent.config import load_with_sources
    from laguna_agent.session_choice import working_directory
    from laguna_agent.trust import look
    from laguna_agent.trust_lines import why_inert

    directory = working_directory(cwd)
    ground = look(directory)
    settings, sources = load_with_sources(directory, {}, ground)
    Rules(settings.rules, [directory])
    values = msgspec.to_builtins(settings)
    values["key"], sources["key"] = _key(settings)
    for each in ground.inert:
        values[each.name], sources[each.name] = "not used", why_inert(each)
    if as_json:
        show_json({key: {"value": values[key], "source": source} for key, source in sources.items()})
    else:
        show_table([(key, _text(values[key]), source) for key, source in sources.items()])
    return 0


def _key(settings: Settings) -> tuple[str | None, str]:
    """Whether the server in use gets a key, and where that comes from; never the key."""
    from laguna_agent.backend.providers import key_state
    from laguna_agent.errors import LagunaError

    try:
        state = key_state(settings)
    except LagunaError as error:
        return None, str(error).splitlines()[0]
    if missing := state.missing():
        return "missing", str(missing)
    return ("set", state.key.source) if state.key else ("not needed", state.provider or "local")


def show_paths(cwd: Cwd = None, as_json: Json = False) -> int:
    """Print where the configuration files are."""
    from laguna_agent.config import project_file, user_file
    from laguna_agent.session_choice import working_directory
    from laguna_agent.trust import CONFIG, look

    directory = working_directory(cwd)
    files = {"user": user_file(), "project": project_file(look(directory)) or directory / CONFIG}
    if as_json:
        show_json({name: {"path": str(file), "exists": file.exists()} for name, file in files.items()})
        return 0
    for name, file in files.items():
        show(f"{name}: {file}" + ("" if file.exists() else " (not there)"))
    return 0


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return f"{value['verdict']} {value['rule']}"
    return "-" if value is None else str(value)


app = command_group("Show the configuration and where it comes from.", show_settings)
app.command("show")(show_settings)
app.command("path")(show_paths)
