"""What a command that runs for long says on standard error, waiting for nobody who should read."""

from __future__ import annotations

import logging
import sys

from edgeclin.cli.lines import Lines


class Log(logging.Handler):
    """Takes the place of the log's handler in the block, and writes from a thread of its own: where
    nobody reads, lines are left out. At the end what is left is written, within seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._replaced: list[logging.Handler] = []

    def __enter__(self) -> Log:
        root = logging.getLogger()
        self._lines = Lines(sys.stderr, "standard error", waits=False)
        self._replaced = [one for one in root.handlers if type(one) is logging.StreamHandler]
        for handler in self._replaced:
            self.setFormatter(handler.formatter)
            root.removeHandler(handler)
            root.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        root = logging.getLogger()
        self._lines.close(lambda: True)
        root.removeHandler(self)
        for handler in self._replaced:
            root.addHandler(handler)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        try:
            self.tell(self.format(record))
        except Exception:
            self.handleError(record)

    def tell(self, text: str) -> None:
        """A line for a person."""
        self._lines.say(text.encode(errors="backslashreplace"))

    def problem(self) -> str:
        """That lines are left out; empty when they are read."""
        return self._lines.problem
