"""`laguna-agent config`: what is set, and where."""

from __future__ import annotations

from pathlib import Path

import typer

from laguna_agent.cli.options import Cwd, Json
from laguna_agent.cli.printing import show, show_json, show_table

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Show the configuration.")


@app.callback()
def show_by_default(context: typer.Context) -> None:
    """Show the configuration."""
    if context.invoked_subcommand is None:
        show_settings()


@app.command("show")
def show_settings(cwd: Cwd = None, as_json: Json = False) -> None:
    """Print every setting, its value, and where the value comes from."""
    import msgspec

    from laguna_agent.config import load_with_sources

    settings, sources = load_with_sources((cwd or Path()).absolute(), {})
    values = msgspec.to_builtins(settings)
    if as_json:
        show_json({key: {"value": values[key], "source": source} for key, source in sources.items()})
        return
    show_table([(key, _text(values[key]), source) for key, source in sources.items()])


@app.command()
def path(cwd: Cwd = None, as_json: Json = False) -> None:
    """Print where the configuration files are."""
    from laguna_agent.config import PROJECT_FILE, project_file, user_file

    directory = (cwd or Path()).absolute()
    project = project_file(directory)
    files = {"user": user_file(), "project": project or directory / PROJECT_FILE}
    if as_json:
        show_json({name: {"path": str(file), "exists": file.exists()} for name, file in files.items()})
        return
    for name, file in files.items():
        show(f"{name}: {file}" + ("" if file.exists() else " (not there)"))


def _text(value: object) -> str:
    return "-" if value is None else str(value)
