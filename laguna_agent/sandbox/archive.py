"""The warden's program as this process found it when it started.

Who works on this very program has its files in the workspace, where commands may write: a later warden must not be
started from what they left there. Knows Python's archives; must not know what the program does.
"""

from __future__ import annotations

import io
import marshal
import zipfile
from functools import cache
from importlib.util import MAGIC_NUMBER
from pathlib import Path

_FOLDER = Path(__file__).parent / "warden"
_NO_SOURCE_TO_COMPARE = bytes(12)


@cache
def warden_archive() -> bytes:
    """A zip archive of the package `warden`, compiled, as it was at the first call."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for source in sorted(_FOLDER.glob("*.py")):
            code = compile(source.read_bytes(), f"warden/{source.name}", "exec", dont_inherit=True)
            archive.writestr(f"warden/{source.stem}.pyc", MAGIC_NUMBER + _NO_SOURCE_TO_COMPARE + marshal.dumps(code))
    return buffer.getvalue()
