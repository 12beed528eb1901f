"""A disk that a test fills."""

from __future__ import annotations

import os
from pathlib import Path


def take_all_room(disk: Path) -> Path:
    """A file that leaves nothing of the disk."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        for size in (65536, 4096, 1):
            while True:
                os.write(descriptor, b"x" * size)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return ballast
