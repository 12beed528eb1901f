"""A stretch of a test without the rights of root, as a device's service runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Nobody may look into `folder` meanwhile, this process included; all around it is open.

    What is imported only meanwhile may be out of reach too: import it before.
    """
    with ExitStack() as stack:
        stack.enter_context(_mode(folder, 0o000))
        if os.geteuid() == 0:
            for parent in folder.parents:
                stack.enter_context(_mode(parent, parent.stat().st_mode | 0o055))
            os.seteuid(NOBODY)
            stack.callback(os.seteuid, 0)
        yield


@contextmanager
def _mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)
