"""Waiting for what another thread or process does, without guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_S = 15.0
_STEP_S = 0.002


def wait_until(condition: Callable[[], object], what: str, most_s: float = MOST_S) -> None:
    """Return as soon as `condition` holds; fail when it does not within `most_s` seconds."""
    deadline = time.monotonic() + most_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {most_s:g} s: {what}")
        time.sleep(_STEP_S)
