"""The TLS files of a client, as they are now: certificates are renewed while a device runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from edgeclin.config import BrokerConfig
from edgeclin.errors import BadFile

log = logging.getLogger(__name__)


class Certificates:
    """What a broker's settings name.

    Attributes:
        context: with what was loaded last.

    Raises:
        BadFile: a certificate or key cannot be loaded.
    """

    def __init__(self, broker: BrokerConfig, ca: str) -> None:
        self._broker, self._ca = broker, ca
        self._files = [file for file in (ca, broker.certificate, broker.key) if file is not None]
        self._seen = self._marks()
        self._refused: object = None
        self.context = self._load()

    def renewed(self) -> bool:
        """Load the files again where they have changed; whether that was so, and they are good.

        What cannot be loaded, such as a certificate whose key is not there yet, is told once and
        left for later: the old ones serve on.
        """
        marks = self._marks()
        if marks == self._seen:
            return False
        try:
            self.context = self._load()
        except BadFile as exc:
            if marks != self._refused:
                log.error("%s; the old ones serve on", exc)
            self._refused = marks
            return False
        self._seen = marks
        return True

    def _load(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca)
            if self._broker.certificate is not None:
                context.load_cert_chain(self._broker.certificate, self._broker.key)
        except (OSError, ssl.SSLError) as exc:
            raise BadFile(self._ca, f"the TLS files of [broker] cannot be loaded ({exc})") from exc
        return context

    def _marks(self) -> list[tuple[int, int, int] | None]:
        return [_mark(Path(file)) for file in self._files]


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's contents; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
