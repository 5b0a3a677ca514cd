"""Images that a person attaches: by a path that was pasted or dropped, or from the clipboard.

Knows files, formats and the programs that hand out a clipboard; must not know where an image stands in a prompt.
"""

from __future__ import annotations

import base64
import os
import selectors
import shlex
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import unquote, urlsplit

from laguna_agent.directories import home
from laguna_agent.errors import UsageError
from laguna_agent.messages import ImageBlock
from laguna_agent.program import find_program
from laguna_agent.tools.text import media_type
from laguna_agent.visible import visible_line

CLIPBOARD_CAP = 10 * 1024 * 1024
PATIENCE = 4.0
"""Seconds that a program may take to hand out the clipboard."""
MANY = 8
"""Images that are taken of one paste."""
_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")


@dataclass(frozen=True)
class Image:
    """An image to send; `shown` is its name and, where the file tells, its size: `shot.png 1280x720`."""

    shown: str
    block: ImageBlock


def images_at(text: str, cwd: Path) -> list[Image]:
    """The images that a pasted text consists of the paths of; empty where it is any other text.

    Raises UsageError for a path of an image that cannot be sent.
    """
    for paths in _readings(text):
        files = [cwd / path for path in paths]
        if all(path.suffix.lower() in _ENDINGS and _is_file(path) for path in files):
            return [_image(path.name, _read(path)) for path in files]
    return []


def clipboard_image(cwd: Path) -> Image:
    """The image in the clipboard. Blocks, at most for seconds. Raises UsageError where there is none, or nothing that
    hands it out."""
    listing, reading = _clipboard_commands(cwd, os.environ)
    kind = ""
    if listing:
        there = _output(listing).decode("utf-8", "replace").split()
        kind = next((each for each in _TYPES if each in there), "")
        if not kind:
            raise UsageError("there is no image in the clipboard")
    data = _output([each.format(kind=kind) for each in reading])
    if not data:
        raise UsageError("there is no image in the clipboard")
    return _image("clipboard", data)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the file's head tells; None where it does not."""
    kind = media_type(data)
    if kind == "image/png" and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if kind == "image/gif" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if kind == "image/webp":
        return _webp_size(data)
    return _jpeg_size(data) if kind == "image/jpeg" else None


def _readings(text: str) -> list[list[str]]:
    """The lists of paths that a text may be, as terminals paste what is dropped: quoted, escaped, as addresses, one in
    a line, or as it is."""
    whole = text.strip()
    if not whole.lower().rstrip("'\"").endswith(_ENDINGS) or len(whole) > 4096 * MANY or "\0" in whole:
        return []
    readings = [[whole], whole.splitlines()]
    with suppress(ValueError):
        readings.append(shlex.split(whole))
    paths = [[_path(each.strip()) for each in reading if each.strip()] for reading in readings]
    return [each for each in paths if 0 < len(each) <= MANY]


def _path(text: str) -> str:
    if text.startswith("file:"):
        with suppress(ValueError):
            parts = urlsplit(text)
            return unquote(parts.path)
    return str(home()) + text[1:] if text.startswith("~/") else text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> bytes:
    # With the tools comes the sandbox, which the first prompt on the screen need not wait for.
    from laguna_agent.tools.read import IMAGE_CAP

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UsageError(f"{visible_line(str(path))} is not a regular file")
            return file.read(IMAGE_CAP + 1)
    except OSError as error:
        raise UsageError(f"{visible_line(str(path))} cannot be read: {error.strerror}") from error


def _image(name: str, data: bytes) -> Image:
    from laguna_agent.tools.read import IMAGE_CAP

    kind, shown = media_type(data), visible_line(name)
    if kind not in _TYPES:
        raise UsageError(f"{shown} is no image that can be sent; PNG, JPEG, GIF and WebP are")
    if len(data) > IMAGE_CAP:
        raise UsageError(f"the image {shown} has more than {IMAGE_CAP:,} bytes, which is what servers take")
    size = image_size(data)
    pixels = f" {size[0]}x{size[1]}" if size else ""
    # A bracket would end the mark that stands for it in the prompt.
    shown = shown.replace("[", "(").replace("]", ")")
    if len(shown) > 40:
        shown = f"{shown[:20]}\u2026{shown[-19:]}"
    return Image(shown + pixels, ImageBlock(kind, base64.b64encode(data).decode("ascii")))


def _clipboard_commands(cwd: Path, outer: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The command that lists what is in the clipboard, where there is one, and the one that gives the image."""

    def found(name: str) -> str | None:
        # What is in the workspace is not run because somebody pressed a key.
        return find_program(name, (cwd,))

    if outer.get("WAYLAND_DISPLAY") and (program := found("wl-paste")):
        return [program, "--list-types"], [program, "--no-newline", "--type", "{kind}"]
    if outer.get("DISPLAY") and (program := found("xclip")):
        start = [program, "-selection", "clipboard", "-out", "-target"]
        return [*start, "TARGETS"], [*start, "{kind}"]
    if program := found("pngpaste"):
        return [], [program, "-"]
    if not (outer.get("WAYLAND_DISPLAY") or outer.get("DISPLAY")):
        raise UsageError("no display here, so no clipboard: paste the path of the image instead")
    missing = "wl-clipboard" if outer.get("WAYLAND_DISPLAY") else "xclip"
    raise UsageError(f"the clipboard needs {missing} installed; or paste the path of the image")


def _output(command: Sequence[str]) -> bytes:
    """What a program writes, or a little more than is taken of it. It and what it started are ended."""
    name = Path(command[0]).name
    data = bytearray()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"{name} cannot be started: {error.strerror}") from error
    deadline = monotonic() + PATIENCE
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while len(data) <= CLIPBOARD_CAP:
                if not selector.select(max(0.0, deadline - monotonic())):
                    raise UsageError(f"{name} did not hand out the clipboard within {PATIENCE:g} s")
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                data += piece
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return bytes(data)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
