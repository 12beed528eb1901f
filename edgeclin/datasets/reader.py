"""The seam between data sets and the kinds of files that samples come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one sample is: a whole file, or its stretch from `start` to before `end`.

    A stretch counts a signal's samples or an image file's frames, from 0; without `end` it goes to
    the end of the file.
    """

    path: Path
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What a file tells before its samples are read.

    Attributes:
        frames: how many samples of their own it holds, in order; None where it is one recording.
        length: a recording's samples, where the file says so.
        group: a word for whom it is about that is the same in every file about the same person or
            recording, or None; never a patient's name or number.
        companions: other files that its samples are in.
        leads: what the columns of a recording are called.
        sampling_hz: its rate.
        sampling_error: by which share that may be wrong, where it is computed.
    """

    frames: int | None = None
    length: int | None = None
    group: str | None = None
    companions: tuple[Path, ...] = ()
    leads: tuple[str, ...] | None = None
    sampling_hz: float | None = None
    sampling_error: float = 0.0


class Reader(Protocol):
    """Reads one kind of file.

    `look` must read no more than a header and raise for a file that is plainly of another kind;
    `read` may be asked for any piece again and in any order, and must return the same array each
    time. Both raise BadFile for what is damaged, missing or not supported, MissingExtra when a
    package is not installed, and nothing else. Neither may put a patient's data into a message.

    Attributes:
        kind: a plural for messages.
        suffixes: of the files it reads, in lower case.
        encoded: whether its samples are bytes that the step `decode` decodes.
        series: whether one file may hold several samples: frames, or a recording to cut.
        scattered: whether its samples may be in other files, the companions.
    """

    @property
    def kind(self) -> str: ...

    @property
    def suffixes(self) -> frozenset[str]: ...

    @property
    def encoded(self) -> bool: ...

    @property
    def series(self) -> bool: ...

    @property
    def scattered(self) -> bool: ...

    def look(self, path: Path) -> Content: ...

    def read(self, piece: Piece) -> np.ndarray: ...
