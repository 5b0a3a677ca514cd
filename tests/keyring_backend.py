"""A keyring for tests, chosen by PYTHON_KEYRING_BACKEND: secrets in a file; one called `locked`, `hangs` or `none`
beside it makes the keyring behave so."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, NoKeyringError, PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Keeps secrets in `$TEST_KEYRING/secrets.json`."""

    priority = 1  # type: ignore[assignment]

    def _place(self) -> Path:
        place = Path(os.environ["TEST_KEYRING"])
        if (place / "locked").exists():
            raise KeyringLocked("the collection is locked")
        if (place / "none").exists():
            raise NoKeyringError("no backend")
        if (place / "hangs").exists():
            time.sleep(3600)
        return place / "secrets.json"

    def _read(self) -> dict[str, str]:
        place = self._place()
        return dict(json.loads(place.read_text())) if place.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._place().write_text(json.dumps(self._read() | {f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        kept = self._read()
        if kept.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("not there")
        self._place().write_text(json.dumps(kept))
