"""A recorded video, through OpenCV."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from math import floor
from pathlib import Path

from edgeclin.errors import BadInput
from edgeclin.files import reading, require_file
from edgeclin.inbox import Inbox, Part, Sample
from edgeclin.preprocess import Preprocess
from edgeclin.preprocess.image import opencv
from edgeclin.sources.capture import Capture
from edgeclin.sources.marks import plain


class VideoFile:
    """The frames of a video in a file, each at its number in the video, from 0.

    Attributes:
        name: of its stream; it tells the file's name, size and time of change.

    Args:
        rate_hz: frames that are taken of each second of the video; None for all.

    Raises:
        BadFile: no file that can be read.
        EdgeclinError: no step says which order of colours the model takes.
        MissingExtra: OpenCV is not installed.
    """

    recorded = True
    live = False

    def __init__(self, path: Path, preprocess: Preprocess, rate_hz: float | None = None) -> None:
        preprocess.require_colours()
        require_file(path)
        with reading(path):
            status = path.stat()
        mark = f"{plain(path.name)} {status.st_size} {status.st_mtime_ns}"
        self.name = f"{plain(path.name)}#{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        self._path = path
        self._preprocess = preprocess
        self._rate_hz = rate_hz
        opencv()

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        frame = -1
        with closing(Capture(str(self._path), self._preprocess)) as capture:
            for frame, sample in self._frames(capture, line.start):
                if inbox.stopped.is_set():
                    return
                if sample is not None:
                    line.put(sample, Part(self.name, frame))
        if frame < 0 and not line.start:
            line.put(BadInput(f"{self._path.name}: not a video that OpenCV can read"))
        inbox.end(self.name, recorded=self.recorded)

    def _frames(self, capture: Capture, start: int) -> Iterator[tuple[int, Sample | None]]:
        """Every frame with its number, None for those that are not taken.

        Where fewer come than are announced, the last one is the reason instead: it may be cut in
        two, and then half of it is noise.
        """
        share = 1.0
        if self._rate_hz and capture.rate_hz:
            share = min(1.0, self._rate_hz / capture.rate_hz)
        frame, more = 0, capture.grab()
        while more:
            sample: Sample | None = None
            due = floor(frame * share) != floor((frame - 1) * share)
            if due and frame >= start:
                sample = capture.frame()
                if sample is None:
                    sample = BadInput(f"frame {frame} cannot be decoded")
            more = capture.grab()
            if not more and start <= frame < capture.frames - 1:
                sample = BadInput(
                    f"{self._path.name}: ends after {frame} whole frames of {capture.frames}; "
                    "is it cut short or damaged?"
                )
            yield frame, sample
            frame += 1
