"""The entry for the ACP registry, held to what the registry's own build demands of it.

https://github.com/agentclientprotocol/registry (CONTRIBUTING.md, FORMAT.md)
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from laguna_agent import __version__
from tests.conftest import ROOT

ENTRY = ROOT / "registry" / "laguna-agent"
PAINT = {"fill", "stroke", "color", "stop-color", "style", "class"}


def test_the_entry() -> None:
    entry = json.loads((ENTRY / "agent.json").read_text())
    assert {"id", "name", "version", "description", "distribution"} <= set(entry)
    assert set(entry) <= {
        "id", "name", "version", "description", "distribution", "repository", "website", "authors", "license",
    }  # fmt: skip
    assert entry["id"] == ENTRY.name
    assert re.fullmatch(r"[a-z][a-z0-9-]*", entry["id"])
    assert entry["name"] and entry["description"]
    assert entry["license"] == "Apache-2.0"
    assert all(entry[key].startswith("https://") for key in ("repository", "website"))
    assert all(isinstance(author, str) for author in entry["authors"])


def test_the_version_is_the_programs() -> None:
    entry = json.loads((ENTRY / "agent.json").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert entry["version"] == __version__
    assert entry["distribution"] == {"uvx": {"package": f"laguna-agent=={__version__}", "args": ["acp"]}}


def test_the_icon() -> None:
    text = (ENTRY / "icon.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("16", "16", "0 0 16 16")
    paints = {value for element in root.iter() for name, value in element.attrib.items() if name in PAINT}
    assert paints == {"currentColor", "none"}
    assert "<!--" not in text and "<style" not in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "editors").glob("*.md")), ids=lambda page: page.stem)
def test_the_pages_say_what_setup_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laguna_agent.cli.editors import setup_for

    command = re.search(r'"((?:/full/path/to/)?laguna-agent)"', page.read_text())
    assert command is not None
    env = {"LAGUNA_MODEL": "ollama/qwen2.5-coder:7b"} if "LAGUNA_MODEL" in page.read_text() else {}
    wanted = setup_for(page.stem, [command[1]], env)
    assert wanted is not None
    shown = re.sub(r"[\s,]+", "", page.read_text())
    for block in wanted.snippet.split("\n\n"):
        # Comments and an environment without anything in it are left out on the page.
        said = re.sub(r"--.*|env = \{\},?", "", block)
        assert re.sub(r"[\s,]+", "", said) in shown
