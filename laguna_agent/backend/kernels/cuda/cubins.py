"""Compiled programs on disk, so that only the first start on a machine compiles.

A file is named by what it was made of: the text, the architecture and the compiler; it begins with the digest of its
own bytes, and one that does not fit is made again. A cache that cannot be written costs time, nothing else. Knows bytes
and files.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from laguna_agent.atomic import replace_file
from laguna_agent.backend.kernels.cuda.nvrtc import OPTIONS, Compiler
from laguna_agent.directories import cache_directory, open_private, private_directory

_DIGEST = 32


class Cubins:
    """What `compiler` makes, kept in `folder` (None: the cache directory)."""

    def __init__(self, compiler: Compiler, folder: Path | None = None) -> None:
        self.compiler = compiler
        self.folder = folder or cache_directory() / "kernels"

    def of(self, text: str, architecture: str) -> bytes:
        """The code of a program. Raises KernelError where it must be compiled and cannot be."""
        place = self.place(text, architecture)
        image = _read(place)
        if image is None:
            image = self.compiler.compile(text, architecture)
            with suppress(OSError):
                private_directory(place.parent)
                replace_file(place, sha256(image).digest() + image, mode=0o600)
        return image

    def place(self, text: str, architecture: str) -> Path:
        """Where it is kept."""
        parts = (text, architecture, self.compiler.version, *OPTIONS)
        return self.folder / f"cuda-{sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.cubin"


def _read(place: Path) -> bytes | None:
    """A file's code, None where it is absent, cannot be read or was damaged. What others may write is not trusted to
    stay as it was: it is closed to them before it is read."""
    try:
        with os.fdopen(open_private(place, os.O_RDONLY), "rb") as file:
            kept = file.read()
    except OSError:
        return None
    digest, image = kept[:_DIGEST], kept[_DIGEST:]
    return image if image and sha256(image).digest() == digest else None
