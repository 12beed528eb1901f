"""Recordings as the windows that a model judges one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeclin.datasets.dataset import Dataset, Samples
from edgeclin.errors import BadFile
from edgeclin.preprocess import Preprocess


def windowed(dataset: Dataset, preprocess: Preprocess) -> Dataset:
    """Every full window of every recording, with its recording's label and group.

    A recording shorter than a window stays a sample, which cannot be judged. Without a `window`
    step the data set is returned as it is.
    """
    return _cut(dataset, preprocess)[0]


def full_windows(dataset: Dataset, preprocess: Preprocess) -> Dataset:
    """The same without recordings that are too short, which `left_out` counts.

    Raises:
        BadFile: all recordings are too short.
    """
    cut, short = _cut(dataset, preprocess)
    if not short:
        return cut
    if len(short) == len(cut):
        raise BadFile(
            dataset.path, f"all {len(short)} recordings are shorter than the step `window` wants"
        )
    fitting = np.delete(np.arange(len(cut)), short).tolist()
    return replace(cut.subset(fitting), left_out=len(short))


def _cut(dataset: Dataset, preprocess: Preprocess) -> tuple[Dataset, list[int]]:
    """All windows, and which of them are recordings that hold none."""
    if preprocess.window is None:
        return dataset, []
    places: list[tuple[int, int]] = []
    short: list[int] = []
    for index, recording in enumerate(dataset):
        starts = preprocess.starts(recording)
        if not starts:
            short.append(len(places))
        places += [(index, start) for start in starts or [0]]
    windows = _Windows(dataset.samples, places, preprocess.window.length)
    origins = [index for index, _ in places]
    recordings = tuple(dataset.place(index) for index in origins)
    return replace(dataset.derived(windows, origins), recordings=recordings), short


class _Windows:
    """Windows by index; the recording that was read last is kept for the next one."""

    def __init__(self, recordings: Samples, places: list[tuple[int, int]], length: int) -> None:
        self._recordings = recordings
        self._places = places
        self._length = length
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> np.ndarray:
        recording, start = self._places[index]
        if self._last is None or self._last[0] != recording:
            self._last = recording, self._recordings[recording]
        return self._last[1][start : start + self._length]
