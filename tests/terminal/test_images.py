"""Images by path and from the clipboard."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import UsageError
from laguna_agent.terminal import images
from laguna_agent.terminal.images import clipboard_image, image_size, images_at
from laguna_agent.tools.read import IMAGE_CAP

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4) + (480).to_bytes(4)
GIF = b"GIF89a" + (3).to_bytes(2, "little") + (5).to_bytes(2, "little")
JPEG = (
    b"\xff\xd8\xff\xe0\0\x10JFIF" + b"\0" * 10 + b"\xff\xc2\0\x11\x08" + (7).to_bytes(2) + (9).to_bytes(2) + b"\0" * 8
)
_RIFF = b"RIFF\0\0\0\0WEBP"
LOSSY = _RIFF + b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + (11).to_bytes(2, "little") + (13).to_bytes(2, "little")
LOSSLESS = _RIFF + b"VP8L\0\0\0\0\x2f" + ((20 - 1) | (30 - 1) << 14).to_bytes(4, "little")
EXTENDED = _RIFF + b"VP8X\0\0\0\0\0\0\0\0" + (99).to_bytes(3, "little") + (199).to_bytes(3, "little")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (3, 5)),
        (JPEG, (9, 7)),
        (LOSSY, (11, 13)),
        (LOSSLESS, (20, 30)),
        (EXTENDED, (100, 200)),
        (b"text", None),
    ],
)
def test_sizes(data: bytes, size: tuple[int, int] | None) -> None:
    assert image_size(data) == size


@given(st.sampled_from([PNG, GIF, JPEG, LOSSY, LOSSLESS, EXTENDED]), st.integers(0, 40), st.binary(max_size=20))
def test_damaged_images_have_a_size_or_none(data: bytes, kept: int, more: bytes) -> None:
    size = image_size(data[:kept] + more)
    assert size is None or all(side >= 0 for side in size)


def test_paths_as_terminals_paste_them(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b c.png", "\u65e5\u672c.png"):
        (workspace / name).write_bytes(PNG)
    monkeypatch.setenv("HOME", str(workspace))
    a, b = workspace / "a.png", workspace / "b c.png"
    for text, names in (
        (f"{a}", ["a.png"]),
        (f"{a} \n", ["a.png"]),
        (f"{b}", ["b c.png"]),
        (f"'{b}'", ["b c.png"]),
        (f'"{b}"', ["b c.png"]),
        (str(b).replace(" ", "\\ "), ["b c.png"]),
        (f"file://{str(b).replace(' ', '%20')}", ["b c.png"]),
        (f"{a}\n{b}", ["a.png", "b c.png"]),
        (f"{a} '{b}' {a}", ["a.png", "b c.png", "a.png"]),
        ("~/a.png", ["a.png"]),
        ("\u65e5\u672c.png", ["\u65e5\u672c.png"]),
        (f"look at {a}", []),
        (f"{workspace}/none.png", []),
        ("", []),
        ("it's a.png", []),
        (f"{a} " * 9, []),
    ):
        assert [image.shown.removesuffix(" 640x480") for image in images_at(text, workspace)] == names, text
    assert images_at(str(a), workspace)[0].block.data == base64.b64encode(PNG).decode()


def test_images_that_cannot_be_sent_are_said(workspace: Path) -> None:
    (workspace / "big.png").write_bytes(PNG + b"\0" * IMAGE_CAP)
    (workspace / "text.png").write_text("no")
    with pytest.raises(UsageError, match=r"big\.png has more than 3,750,000 bytes"):
        images_at(str(workspace / "big.png"), workspace)
    with pytest.raises(UsageError, match=r"text\.png is no image"):
        images_at(str(workspace / "text.png"), workspace)


def test_a_name_that_would_break_the_mark(workspace: Path) -> None:
    name = "[a]\x1b[31m" + "x" * 60 + ".png"
    (workspace / name).write_bytes(PNG)
    shown = images_at(str(workspace / name), workspace)[0].shown
    assert shown.startswith("(a)\\u{1B}(31m") and shown.endswith("x.png 640x480") and len(shown) < 60


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs on a desktop whose clipboard is asked by wl-paste."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def hands_out(programs: Path, script: str) -> None:
    (programs / "wl-paste").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "wl-paste").chmod(0o755)


def taken(cwd: Path) -> str:
    return clipboard_image(cwd).shown


def test_the_clipboard(desktop: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desktop / "image").write_bytes(JPEG)
    hands_out(desktop, f'case "$*" in --list*) echo text/html; echo image/jpeg;; *jpeg) cat {desktop}/image;; esac')
    assert taken(workspace) == "clipboard 9x7"
    hands_out(desktop, "echo text/plain")
    with pytest.raises(UsageError, match="there is no image in the clipboard"):
        taken(workspace)
    hands_out(desktop, 'case "$*" in --list*) echo image/png;; *) yes;; esac')
    with pytest.raises(UsageError, match="clipboard is no image"):
        taken(workspace)
    monkeypatch.setattr(images, "PATIENCE", 0.2)
    hands_out(desktop, "exec sleep 60")
    with pytest.raises(UsageError, match=r"did not hand out the clipboard within 0\.2 s"):
        taken(workspace)


def test_a_program_of_the_workspace_is_not_asked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hands_out(workspace, "touch ran; echo image/png")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("PATH", str(workspace))
    with pytest.raises(UsageError, match="the clipboard needs wl-clipboard installed"):
        taken(workspace)
    assert not (workspace / "ran").exists()
