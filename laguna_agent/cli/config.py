"""`laguna-agent config`: what is set, and where."""

from __future__ import annotations

from argparse import Namespace

from laguna_agent.cli.parsing import Commands, add_cwd, add_json
from laguna_agent.cli.printing import show, show_json, show_table


def add_to(commands: Commands) -> None:
    """Add `config`."""
    group = commands.group("config", "show the configuration and where it comes from", show_settings)
    for name, summary, command in (
        ("show", "print every setting, its value, and where the value comes from", show_settings),
        ("path", "print where the configuration files are", show_paths),
    ):
        parser = group.add(name, summary, command)
        add_cwd(parser)
        add_json(parser)


def show_settings(line: Namespace) -> int:
    """Carry out `config show`."""
    import msgspec

    from laguna_agent.config import load_with_sources
    from laguna_agent.session_choice import working_directory

    settings, sources = load_with_sources(working_directory(getattr(line, "cwd", None)), {})
    values = msgspec.to_builtins(settings)
    if getattr(line, "json", False):
        show_json({key: {"value": values[key], "source": source} for key, source in sources.items()})
    else:
        show_table([(key, _text(values[key]), source) for key, source in sources.items()])
    return 0


def show_paths(line: Namespace) -> int:
    """Carry out `config path`."""
    from laguna_agent.config import PROJECT_FILE, project_file, user_file
    from laguna_agent.session_choice import working_directory

    directory = working_directory(line.cwd)
    files = {"user": user_file(), "project": project_file(directory) or directory / PROJECT_FILE}
    if line.json:
        show_json({name: {"path": str(file), "exists": file.exists()} for name, file in files.items()})
        return 0
    for name, file in files.items():
        show(f"{name}: {file}" + ("" if file.exists() else " (not there)"))
    return 0


def _text(value: object) -> str:
    return "-" if value is None else str(value)
