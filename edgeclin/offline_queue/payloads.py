"""Payloads too large for a row: files beside the database, written before the row."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeclin.files import sync_directory, write_atomic

log = logging.getLogger(__name__)

INLINE_LIMIT = 64 * 1024


class PayloadFolder:
    """A folder of payload files, `<queue>.payloads`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o750, exist_ok=True)
        sync_directory(folder.parent)

    def write(self, name: str, data: bytes) -> None:
        """Make a payload durable under a name, which may have another one until then."""
        write_atomic(self._folder / name, data, mode=0o600)

    def read(self, name: str) -> bytes | None:
        """The payload of that name, or None when a damaged disk has lost it."""
        try:
            return (self._folder / name).read_bytes()
        except OSError as exc:
            log.error("ALARM: payload %s cannot be read: %s", name, exc)
            return None

    def remove(self, name: str | None) -> None:
        """Forget the payload of a row that is gone, if it had one; what cannot be removed now is
        swept at the next start."""
        if name is not None:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as exc:
                log.error("payload %s cannot be removed: %s", name, exc)

    def names(self) -> set[str]:
        """What lies there, half-written files too."""
        return {file.name for file in self._folder.iterdir()}
