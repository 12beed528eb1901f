"""A recorded data set, replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from edgeclin.datasets import Dataset
from edgeclin.errors import BadFile, BadInput
from edgeclin.inbox import Inbox, Sample
from edgeclin.preprocess import Preprocess


class ReplaySource:
    """A recorded data set, played as if it arrived now.

    Attributes:
        name: of its stream; it tells the contents.

    Args:
        rate_hz: samples a second, or None for as fast as they are judged.
    """

    recorded = True
    live = False

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        rate_hz: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"{dataset.name}#{dataset.fingerprint()[:12]}"
        self._dataset = dataset
        self._preprocess = preprocess
        self._interval = 1 / rate_hz if rate_hz else 0.0
        self._sleep = sleep

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        began = time.monotonic()
        for position, window in enumerate(raw_samples(self._dataset, self._preprocess)):
            if position < line.start:
                continue
            due = began + (position - line.start) * self._interval
            if self._interval and due > (now := time.monotonic()):
                self._sleep(due - now)
            if not line.put(window):
                return
        inbox.end(self.name, recorded=self.recorded)


def raw_samples(dataset: Dataset, preprocess: Preprocess) -> Iterator[Sample]:
    """Every sample, recordings cut into windows; what cannot be read is one, with the reason."""
    for index in range(len(dataset)):
        try:
            yield from preprocess.windows(dataset[index])
        except BadFile as exc:
            yield BadInput(str(exc))
