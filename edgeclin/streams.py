"""Signals that come a few samples at a time, cut into the windows that the model takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeclin.errors import BadInput
from edgeclin.steps import Window


class SignalStream:
    """One signal as it comes.

    Args:
        window: how it is cut; None when every arrival is a sample of its own.
    """

    def __init__(self, window: Window | None) -> None:
        self._window = window
        self._held: np.ndarray | None = None
        self._count = 0
        self._skip = 0

    def feed(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Add what came, and yield each window that is now whole, overlaps included.

        Args:
            samples: [samples] or [samples, leads], as many as came.

        Raises:
            BadInput: they have other leads than those before them, which are then forgotten: what
                follows begins a new window.
        """
        if self._window is None:
            yield samples
            return
        if not len(samples):  # of no samples nobody knows how many leads they have
            return
        length, hop = self._window.length, self._window.hop
        held = self._room(samples, length)
        while len(samples):
            skipped = min(self._skip, len(samples))
            self._skip -= skipped
            taken = samples[skipped : skipped + length - self._count]
            samples = samples[skipped + len(taken) :]
            held[self._count : self._count + len(taken)] = taken
            self._count += len(taken)
            if self._count == length:
                yield held.copy()
                kept = max(0, length - hop)
                held[:kept] = held[length - kept :].copy()
                self._count, self._skip = kept, max(0, hop - length)

    def restart(self) -> None:
        """Forget what came: samples are missing after it, and no window may span the gap."""
        self._held, self._count, self._skip = None, 0, 0

    def _room(self, samples: np.ndarray, length: int) -> np.ndarray:
        if self._held is None or not self._count:
            self._held = np.empty((length, *samples.shape[1:]), samples.dtype)
        elif self._held.shape[1:] != samples.shape[1:]:
            leads = [
                shape[0] if shape else 1 for shape in (self._held.shape[1:], samples.shape[1:])
            ]
            self.restart()
            raise BadInput(f"{leads[1]} leads after {leads[0]}: the stream's window begins anew")
        return self._held
